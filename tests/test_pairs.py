"""Training pairs and the batches of an epoch."""

import numpy as np
import pytest

from datasets_src.captions import LONGEST_CAPTION, build_vocabulary
from datasets_src.filtering import load_filtered_split
from datasets_src.pairs import PairBatch, load_training_pairs, pair_batches
from tests.test_coco import change, edit_json, refusal_of
from tests.test_images import write_small

# a lone pair or image joins the batch before it
SIZES = [(10, [5, 5]), (12, [5, 5, 2]), (11, [5, 6]), (6, [6]), (4, [4]), (1, [1])]


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(("count", "lengths"), SIZES)
def test_batches_hold_all_pairs_once(count, lengths, grouped):
    """``count`` images, one for each pair or, grouped, with one to seven captions in any order."""
    rng = np.random.default_rng(4)
    caption_image = np.arange(count) // 3
    if grouped:  # images with even index have no caption
        caption_image = np.repeat(2 * np.arange(count) + 1, rng.integers(1, 8, size=count))
        rng.shuffle(caption_image)
    batches = pair_batches(caption_image, 5, seed=1, epoch=0, group_captions=grouped)
    assert [len(batch.images) for batch in batches] == lengths
    captions = np.concatenate([batch.captions for batch in batches])
    assert sorted(captions.tolist()) == list(range(len(caption_image)))
    for batch in batches:
        of_captions = batch.images[batch.image_of_caption]
        np.testing.assert_array_equal(of_captions, caption_image[batch.captions])
        assert set(batch.image_of_caption) == set(range(len(batch.images)))
        assert not grouped or len(set(batch.images)) == len(batch.images)


@pytest.mark.parametrize("grouped", [False, True])
def test_order_of_pairs_is_that_of_seed_and_epoch_alone(grouped):
    def order(seed, epoch):
        batches = pair_batches(np.arange(40), 7, seed, epoch, group_captions=grouped)
        return tuple(np.concatenate([batch.captions for batch in batches]).tolist())

    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    choices = [(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert [order(*choice) for choice in choices] == [order(*choice) for choice in choices]
    assert len({order(*choice) for choice in choices} | {tuple(range(40))}) == len(choices) + 1
    assert np.random.random() == expected  # numpy's own state is left alone


def test_a_batch_without_some_images_keeps_the_other_pairs():
    batch = PairBatch(
        np.array([10, 11, 12, 13, 14]), np.array([7, 8, 9]), np.array([0, 1, 2, 2, 0])
    )
    rest = batch.only(np.array([False, True, True]))
    assert rest.captions.tolist() == [11, 12, 13]
    assert rest.images[rest.image_of_caption].tolist() == [8, 9, 9]
    assert batch.only(np.zeros(3, dtype=bool)).captions.tolist() == []


def test_training_pairs_are_the_kept_captions_of_the_training_split(demo_data, pairs):
    split = load_filtered_split(demo_data, "train2014", use_all_images=False)
    assert pairs.split.filtered is True
    assert pairs.split.captions == split.captions
    vocabulary, captions = build_vocabulary(split.captions)
    assert pairs.vocabulary.words == vocabulary.words
    np.testing.assert_array_equal(pairs.captions.tokens, captions.tokens)
    whole = load_training_pairs(demo_data, use_all_images=True)
    assert whole.split.filtered is False
    assert len(whole) > len(pairs)
    assert whole.fingerprint() != pairs.fingerprint()


def test_odd_captions_are_counted(tmp_path, caplog):
    write_small(tmp_path)
    for caption, text in enumerate(("", " \n\t", "x" * (LONGEST_CAPTION + 1))):
        edit_json(tmp_path, "captions", change("annotations", caption, "caption", to=text))
    assert len(load_training_pairs(tmp_path, use_all_images=False)) == 4
    assert "training captions without a word: 2 of 4" in caplog.text
    assert f"training captions cut at {LONGEST_CAPTION} characters: 1 of 4" in caplog.text


def test_fewer_than_two_captions_are_refused(tmp_path):
    write_small(tmp_path)
    path = edit_json(tmp_path, "captions", lambda content: content["annotations"].clear())
    assert str(path) in refusal_of(load_training_pairs, tmp_path, use_all_images=False)


def give_an_image_another_id(content):
    content["images"][0]["id"] = content["annotations"][1]["image_id"] = 5


@pytest.mark.parametrize(
    "edit",
    [
        change("annotations", 0, "caption", to="a red zebra"),
        change("annotations", 0, "caption", to="red a dog"),  # another order of words
        change("annotations", 0, "image_id", to=4),
        give_an_image_another_id,
        lambda content: content["annotations"].reverse(),
        lambda content: content["annotations"].pop(),
    ],
)
def test_fingerprint_is_of_what_is_trained_on_not_of_its_place(tmp_path, edit):
    def fingerprint_of(datasets_dir):
        return load_training_pairs(datasets_dir, use_all_images=False).fingerprint()

    first, other = write_small(tmp_path / "first"), write_small(tmp_path / "other")
    edit_json(other, "captions", change("annotations", 0, "caption", to="A  red DOG"))
    assert fingerprint_of(first) == fingerprint_of(other)
    edit_json(other, "captions", edit)
    assert fingerprint_of(first) != fingerprint_of(other)
