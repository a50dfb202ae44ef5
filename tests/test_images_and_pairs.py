import math
import multiprocessing
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, features

from datasets_src.captions import build_vocabulary
from datasets_src.datasets import load_split
from datasets_src.filtering import FILTER_FILE, load_filtered_split
from datasets_src.images import normalise, read_image, read_mode
from datasets_src.pairs import (
    PairBatch,
    load_images,
    load_readable_images,
    load_training_pairs,
    pair_batches,
)
from tests.test_coco import change, edit_json, file_name, refusal_of, write_split
from utils.errors import UserError


def random_picture(mode="RGB", width=21, height=13, seed=0):
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width)).astype(np.uint16))
    colours = Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8))
    if mode in ("RGBA", "LA"):
        alpha = Image.fromarray(rng.integers(0, 256, (height, width)).astype(np.uint8))
        colours.putalpha(alpha)
    return colours.convert(mode)


@pytest.mark.parametrize("size", [1, 8, 16, 40])
@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("RGB", "JPEG"),
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("RGB", "PNG"),
        ("1", "PNG"),
        ("L", "PNG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("RGBA", "PNG"),
        ("I;16", "PNG"),
        ("P", "GIF"),
        ("CMYK", "TIFF"),
        ("F", "TIFF"),
    ],
)
def test_image_of_any_mode_is_read_as_rgb_and_resized_bilinearly(tmp_path, mode, kind, size):
    path = tmp_path / "x.jpg"
    random_picture(mode).save(path, kind)
    with Image.open(path) as image:
        assert image.mode == mode
        if mode == "I;16":  # the brighter of two bytes
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        expected = np.asarray(image.convert("RGB").resize((size, size), Image.BILINEAR))
    pixels = read_image(path, size)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (3, size, size)
    assert pixels.flags["C_CONTIGUOUS"]
    for channel in range(3):
        np.testing.assert_array_equal(pixels[channel], expected[:, :, channel])


def triangle_weights(length, size):
    """Bilinear resizing with antialiasing, written out: the share of each pixel in each result."""
    scale = length / size
    reach = max(scale, 1.0)
    weights = np.zeros((size, length))
    for target in range(size):
        centre = (target + 0.5) * scale
        for source in range(length):
            weights[target, source] = max(0.0, 1 - abs(source + 0.5 - centre) / reach)
        weights[target] /= weights[target].sum()
    return weights


@pytest.mark.parametrize("size", [5, 13, 32])
def test_resizing_follows_the_formula_without_keeping_the_aspect_ratio(tmp_path, size):
    picture = random_picture(width=21, height=13)
    picture.save(tmp_path / "x.png")
    values = np.asarray(picture).astype(float)
    rows, columns = triangle_weights(13, size), triangle_weights(21, size)
    expected = np.einsum("ih,hwc,jw->cij", rows, values, columns)
    assert np.abs(read_image(tmp_path / "x.png", size) - expected).max() <= 1.01  # rounding, twice


def test_image_of_the_size_asked_for_keeps_its_pixels(tmp_path):
    picture = random_picture(width=16, height=16)
    picture.save(tmp_path / "x.png")
    pixels = read_image(tmp_path / "x.png", 16)
    np.testing.assert_array_equal(pixels, np.moveaxis(np.asarray(picture), 2, 0))


def test_grayscale_gives_three_equal_channels_and_palette_its_colours(tmp_path):
    gray = random_picture("L", 16, 16)
    gray.save(tmp_path / "gray.png")
    np.testing.assert_array_equal(read_image(tmp_path / "gray.png", 16), [np.asarray(gray)] * 3)
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([1, 2, 3, 200, 100, 50])
    palette.save(tmp_path / "palette.png")
    pixels = read_image(tmp_path / "palette.png", 16)
    assert [set(channel.ravel().tolist()) for channel in pixels] == [{200}, {100}, {50}]


def test_sixteen_bits_keep_their_shades(tmp_path):
    shades = np.array([[0, 255, 256, 32_768, 65_535]], dtype=np.uint16)
    Image.fromarray(np.repeat(shades, 5, axis=0)).save(tmp_path / "x.png")
    pixels = read_image(tmp_path / "x.png", 5)
    np.testing.assert_array_equal(pixels, np.tile([0, 0, 1, 128, 255], (3, 5, 1)))


def test_orientation_of_exif_is_not_applied_as_boxes_count_stored_pixels(tmp_path):
    picture = random_picture(width=16, height=16)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    picture.save(tmp_path / "x.png", exif=exif)
    pixels = read_image(tmp_path / "x.png", 16)
    np.testing.assert_array_equal(pixels, np.moveaxis(np.asarray(picture), 2, 0))


def picture_bytes(tmp_path, kind):
    random_picture().save(tmp_path / "whole", kind)
    return (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9])
def test_truncated_file_is_refused_by_name(tmp_path, kind, share):
    content = picture_bytes(tmp_path, kind)
    path = tmp_path / "x.jpg"
    path.write_bytes(content[: int(len(content) * share)])
    assert str(path) in refusal_of(read_image, path, 16)


@pytest.mark.parametrize("content", [b"no image\nbut text", b"\xff\xd8\xff", bytes(100)])
def test_file_that_is_no_image_is_refused_by_name(tmp_path, content):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    assert str(path) in refusal_of(read_image, path, 16)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, make):
    path = tmp_path / "x.jpg"
    make(path)
    for read in (read_mode, lambda path: read_image(path, 8)):
        assert refusal_of(read, path) == (
            f"cannot read image {path}: it is no file; replace or remove it"
        )


def test_image_too_large_to_decode_is_refused(tmp_path):
    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    path = tmp_path / "x.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    assert str(path) in refusal_of(read_image, path, 16)


def write_damaged_avif(path):
    """Write an AVIF file whose header Pillow's reader refuses with an error of its own."""
    random_picture().save(path, "AVIF")
    content = bytearray(path.read_bytes())
    place = content.index(b"iloc")  # the box that says where the pixels lie
    content[place + 4 : place + 24] = bytes(20)
    path.write_bytes(content)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow does not read AVIF")
def test_damaged_avif_is_refused_by_name(tmp_path):
    path = tmp_path / "x.jpg"
    write_damaged_avif(path)
    assert str(path) in refusal_of(read_image, path, 16)
    assert str(path) in refusal_of(read_mode, path)


def test_missing_file_and_folder_are_refused_by_name(tmp_path):
    for path in (tmp_path / "absent.jpg", tmp_path):
        assert str(path) in refusal_of(read_image, path, 16)
        assert str(path) in refusal_of(read_mode, path)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", bytes(100)])
def test_file_without_an_images_header_has_no_mode(tmp_path, content):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    assert str(path) in refusal_of(read_mode, path)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1", "I;16"])
def test_mode_is_read_from_the_header_alone(tmp_path, mode):
    path = tmp_path / "x.png"
    random_picture(mode).save(path)
    assert read_mode(path) == mode
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"IDAT") + 4])  # all that comes before the pixels
    assert read_mode(path) == mode
    assert str(path) in refusal_of(read_image, path, 16)


def test_normalise_follows_the_formula_of_each_channel():
    means, deviations = (
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    )
    images = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5)).astype(np.uint8)
    )
    result = normalise(images)
    assert result.dtype == torch.float32
    assert result.shape == (2, 3, 4, 5)
    for b, c, i, j in np.ndindex(2, 3, 4, 5):
        expected = (images[b, c, i, j].item() / 255 - means[c]) / deviations[c]
        assert math.isclose(result[b, c, i, j].item(), expected, rel_tol=1e-5, abs_tol=1e-5)


@pytest.mark.parametrize(
    ("pairs", "size", "lengths"),
    [
        (10, 5, [5, 5]),
        (12, 5, [5, 5, 2]),
        (11, 5, [5, 6]),  # a lone pair joins the batch before it
        (6, 5, [6]),
        (5, 5, [5]),
        (4, 5, [4]),
        (1, 5, [1]),
        (3, 2, [3]),
        (101, 50, [50, 51]),
        (102, 50, [50, 50, 2]),
    ],
)
def test_batches_hold_all_pairs_once(pairs, size, lengths):
    caption_image = np.arange(pairs) // 3
    batches = pair_batches(caption_image, size, seed=1, epoch=0, group_captions=False)
    assert [len(batch.captions) for batch in batches] == lengths
    assert sorted(np.concatenate([b.captions for b in batches]).tolist()) == list(range(pairs))
    for batch in batches:
        np.testing.assert_array_equal(batch.images, caption_image[batch.captions])
        np.testing.assert_array_equal(batch.image_of_caption, np.arange(len(batch.captions)))


@pytest.mark.parametrize(
    ("images", "size", "lengths"),
    [(12, 5, [5, 5, 2]), (11, 5, [5, 6]), (6, 5, [6]), (1, 5, [1]), (3, 2, [3])],
)
def test_grouped_batches_hold_all_captions_of_their_images(images, size, lengths):
    rng = np.random.default_rng(4)
    # one to seven captions an image, in any order; images with even index have none
    caption_image = np.repeat(2 * np.arange(images) + 1, rng.integers(1, 8, size=images))
    rng.shuffle(caption_image)
    batches = pair_batches(caption_image, size, seed=1, epoch=0, group_captions=True)
    assert [len(batch.images) for batch in batches] == lengths
    captions = np.concatenate([batch.captions for batch in batches])
    assert sorted(captions.tolist()) == list(range(len(caption_image)))
    for batch in batches:
        assert len(set(batch.images)) == len(batch.images)
        np.testing.assert_array_equal(
            batch.images[batch.image_of_caption], caption_image[batch.captions]
        )


@pytest.mark.parametrize("grouped", [False, True])
def test_order_of_pairs_is_that_of_seed_and_epoch(grouped):
    def order(seed, epoch):
        batches = pair_batches(np.arange(40), 7, seed, epoch, group_captions=grouped)
        return tuple(np.concatenate([batch.captions for batch in batches]).tolist())

    choices = [(seed, epoch) for seed in range(4) for epoch in range(4)]
    assert [order(*choice) for choice in choices] == [order(*choice) for choice in choices]
    assert len({order(*choice) for choice in choices}) == len(choices)
    assert tuple(range(40)) not in {order(*choice) for choice in choices}


def test_order_of_pairs_leaves_the_global_random_state_alone():
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    pair_batches(np.arange(40), 7, seed=0, epoch=0, group_captions=False)
    assert np.random.random() == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_loaded_in_order_whatever_the_number_of_workers(demo_data, workers):
    split = load_split(demo_data, "val2014")
    batches = [np.array([3, 0]), np.array([1]), np.array([2, 2, 9]), np.array([5, 4])]
    loaded = list(load_images(split, batches, 16, workers))
    assert len(loaded) == len(batches)
    for images, batch in zip(loaded, batches, strict=True):
        assert images.dtype == torch.uint8
        expected = np.stack([read_image(split.path(image), 16) for image in batch])
        np.testing.assert_array_equal(images.numpy(), expected)


def small_data(datasets_dir):
    pictures = {image_id: random_picture(seed=image_id) for image_id in (4, 8, 15)}
    captions = [(8, "a red dog"), (4, "a cat ."), (15, "two dogs"), (8, "the dog")]
    return write_split(datasets_dir, pictures, captions)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_unreadable_image_is_refused_in_one_line_whatever_the_number_of_workers(
    tmp_path, workers, damage
):
    split = load_split(small_data(tmp_path), "train2014")
    path = tmp_path / "COCO" / "train2014" / file_name(15)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:60])
    batches = [np.array([0, 1]), np.array([1, 2]), np.array([0])]
    images = load_images(split, batches, 16, workers)
    assert next(images).shape == (2, 3, 16, 16)  # the batch before comes
    with pytest.raises(UserError, match=str(path)) as refusal:
        next(images)
    assert "\n" not in str(refusal.value)
    assert multiprocessing.active_children() == []  # though the error is still there


@pytest.mark.parametrize("workers", [0, 2])
def test_readable_images_of_a_batch_come_without_the_others(tmp_path, workers):
    split = load_split(small_data(tmp_path), "train2014")
    for image in (4, 15):
        (tmp_path / "COCO" / "train2014" / file_name(image)).unlink()
    batches = [np.array([0, 1, 2, 1]), np.array([0, 2])]
    loaded = list(load_readable_images(split, batches, 16, workers))
    good = read_image(split.path(1), 16)
    np.testing.assert_array_equal(loaded[0].pixels.numpy(), [good, good])
    assert loaded[1].pixels is None
    assert [sorted(each.errors) for each in loaded] == [[0, 2], [0, 1]]
    assert file_name(15) in str(loaded[1].errors[1])


def test_a_batch_without_some_images_keeps_the_other_pairs():
    batch = PairBatch(
        np.array([10, 11, 12, 13, 14]), np.array([7, 8, 9]), np.array([0, 1, 2, 2, 0])
    )
    rest = batch.only(np.array([False, True, True]))
    assert rest.captions.tolist() == [11, 12, 13]
    assert rest.images[rest.image_of_caption].tolist() == [8, 9, 9]
    assert batch.only(np.zeros(3, dtype=bool)).captions.tolist() == []


def test_training_pairs_are_the_kept_captions_of_the_training_split(demo_data):
    split, _ = load_filtered_split(demo_data, "train2014", use_all_images=False)
    pairs = load_training_pairs(demo_data, use_all_images=False)
    assert pairs.filtered is True
    assert len(pairs) == len(split.captions) == len(pairs.split.caption_image)
    assert pairs.split.captions == split.captions
    vocabulary, captions = build_vocabulary(split.captions)
    assert pairs.vocabulary.words == vocabulary.words
    np.testing.assert_array_equal(pairs.captions.tokens, captions.tokens)
    everything = load_training_pairs(demo_data, use_all_images=True)
    assert everything.filtered is False
    assert len(everything) > len(pairs)


def test_data_without_a_caption_is_refused(tmp_path):
    write_split(tmp_path, {4: random_picture()}, [])
    message = refusal_of(load_training_pairs, tmp_path, use_all_images=False)
    assert str(tmp_path) in message


def fingerprint_of(datasets_dir):
    return load_training_pairs(datasets_dir, use_all_images=False).fingerprint()


def swap_captions(content):
    texts = content["annotations"]
    texts[0], texts[1] = texts[1], texts[0]


def give_an_image_another_id(content):
    content["images"][0]["id"] = content["annotations"][1]["image_id"] = 5


@pytest.mark.parametrize(
    "edit",
    [
        change("annotations", 0, "caption", to="a red cat"),  # another word
        change("annotations", 0, "caption", to="a red zebra"),  # a new word
        change("annotations", 0, "caption", to="red a dog"),  # another order of words
        change("annotations", 0, "image_id", to=4),
        give_an_image_another_id,
        swap_captions,
        lambda content: content["annotations"].pop(),
    ],
)
def test_fingerprint_changes_with_the_data(tmp_path, edit):
    small_data(tmp_path)
    before = fingerprint_of(tmp_path)
    assert fingerprint_of(tmp_path) == before
    edit_json(tmp_path, "captions", edit)
    assert fingerprint_of(tmp_path) != before


def test_fingerprint_is_of_what_is_trained_on_not_of_its_place(tmp_path):
    first, other = small_data(tmp_path / "first"), small_data(tmp_path / "other")
    edit_json(other, "captions", change("annotations", 0, "caption", to="A  red DOG"))
    assert fingerprint_of(first) == fingerprint_of(other)


def test_fingerprint_differs_with_and_without_the_filter(demo_data):
    assert (demo_data / FILTER_FILE).is_file()
    filtered = load_training_pairs(demo_data, use_all_images=False)
    whole = load_training_pairs(demo_data, use_all_images=True)
    assert filtered.fingerprint() != whole.fingerprint()
