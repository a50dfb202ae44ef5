import hashlib
import json
import logging
import os

import pytest
from PIL import Image

from datasets_src import filtering
from datasets_src.filtering import CAUSES, FILTER_FILE, filter_images, load_filtered_split
from main import main
from tests.test_coco import change, drop, edit_json, file_name, refusal_of, write_split

DOG, CAR, HYDRANT = 18, 3, 11  # of tests.test_coco.CATEGORIES; "fire hydrant" has two words
BOX = [0, 0, 2, 2]


def picture(mode):
    image = Image.new(mode, (4, 3))
    if mode == "P":
        image.putpalette([10, 20, 30] * 256)
    return image


# image id -> (mode, categories it shows, the cause expected to drop it or None)
TRAIN = {
    10: ("L", [], "no_instances"),  # grayscale too, but counted once
    20: ("L", [DOG], "grayscale"),
    30: ("L", [HYDRANT, DOG], "grayscale"),  # a two-word category too
    35: ("1", [CAR], "grayscale"),
    36: ("I;16", [CAR], "grayscale"),
    37: ("F", [CAR], "grayscale"),
    38: ("LA", [CAR], "grayscale"),
    40: ("RGB", [DOG, HYDRANT, DOG], "multi_word_category"),
    45: ("P", [HYDRANT], "multi_word_category"),
    50: ("RGB", [DOG, CAR], None),
    60: ("P", [DOG], None),  # a palette holds colours
    65: ("RGBA", [CAR], None),
    66: ("CMYK", [CAR], None),
    70: ("RGB", [], "no_instances"),
}
VAL = {
    1: ("RGB", [CAR], None),
    2: ("RGB", [HYDRANT], "multi_word_category"),
    3: ("RGB", [], "no_instances"),
    4: ("RGB", [DOG], None),
}

SPLITS = {"train2014": TRAIN, "val2014": VAL}


@pytest.fixture
def coco(tmp_path):
    """Both splits in one datasets folder."""
    for name, images in SPLITS.items():
        pictures = {image_id: picture(mode) for image_id, (mode, _, _) in images.items()}
        captions = [(image_id, f"caption of {image_id}") for image_id in [*images, *images]]
        boxes = [(image_id, c, BOX) for image_id, (_, shown, _) in images.items() for c in shown]
        write_split(tmp_path / "datasets", pictures, captions, boxes, name)
    return tmp_path / "datasets"


def load(datasets_dir, name="train2014", use_all_images=False, **options):
    return load_filtered_split(datasets_dir, name, use_all_images=use_all_images, **options)


def expected_dropped(images):
    return {
        cause: sorted(image_id for image_id, (_, _, why) in images.items() if why == cause)
        for cause in CAUSES
    }


def kept_ids(images):
    return sorted(image_id for image_id, (_, _, why) in images.items() if why is None)


def test_each_image_is_counted_under_the_first_cause_that_holds_in_both_splits(coco):
    results = filter_images(coco)
    assert sorted(path.name for path in coco.iterdir()) == ["COCO", FILTER_FILE]
    assert json.loads((coco / FILTER_FILE).read_text())["splits"] == results
    for name, images in SPLITS.items():
        assert results[name]["dropped"] == expected_dropped(images)
        assert results[name]["images"] == len(images)
        assert results[name]["kept"] == len(kept_ids(images))
    assert [len(ids) for ids in results["train2014"]["dropped"].values()] == [2, 6, 2]


@pytest.mark.parametrize("with_instances", [True, False])
def test_filtered_splits_hold_the_kept_images_with_captions_and_instances(
    coco, caplog, with_instances
):
    caplog.set_level(logging.INFO)
    filter_images(coco)
    for name, images in SPLITS.items():
        split = load(coco, name, with_instances=with_instances)
        assert split.filtered is True
        assert (split.instances is not None) == with_instances
        kept = kept_ids(images)
        assert split.image_ids.tolist() == kept
        assert split.captions == tuple(f"caption of {i}" for i in [*images, *images] if i in kept)
        if with_instances:
            shown = split.image_ids[split.instances.image].tolist()
            gold = [i for i, (_, classes, _) in images.items() for _ in classes if i in kept]
            assert shown == gold
        assert f"{name}: {len(kept)} of {len(images)} images" in caplog.text


def test_filtering_again_reads_images_only_where_the_source_has_changed(coco, monkeypatch):
    reads = []
    plain = filtering.read_header
    monkeypatch.setattr(filtering, "read_header", lambda path: reads.append(path) or plain(path))
    first = filter_images(coco)
    count = len(reads)
    assert count == sum(result["images"] for result in first.values())
    assert filter_images(coco) == first
    assert len(reads) == count
    content = json.loads((coco / FILTER_FILE).read_text())
    content["splits"]["val2014"]["source"]["images"] = "other"
    for times, text in ((2, json.dumps(content)), (3, "{}")):
        (coco / FILTER_FILE).write_text(text)
        assert filter_images(coco) == first
        assert len(reads) == times * count


@pytest.mark.parametrize("why", ["setup has not", "as asked for", "without instances"])
def test_all_images_are_used_without_setup_and_when_asked_for(coco, caplog, why):
    caplog.set_level(logging.INFO)
    if why == "as asked for":
        filter_images(coco)
    if why == "without instances":
        (coco / "COCO" / "annotations" / "instances_train2014.json").unlink()
    split = load(coco, use_all_images=why == "as asked for", with_instances=True)
    assert split.filtered is False
    assert (split.instances is None) == (why == "without instances")
    assert split.image_ids.tolist() == sorted(TRAIN)
    assert f"all {len(TRAIN)} images are used ({why}" in caplog.text


@pytest.mark.parametrize(
    ("kind", "edit"),
    [
        ("captions", change("annotations", 0, "caption", to="another")),
        ("captions", drop("images", 0)),
        ("instances", change("annotations", 0, "category_id", to=HYDRANT)),
        ("instances", None),  # the file is gone
    ],
)
def test_result_of_other_files_is_noticed_as_stale(coco, kind, edit):
    filter_images(coco)
    load(coco)
    if edit is None:
        (coco / "COCO" / "annotations" / f"{kind}_train2014.json").unlink()
    else:
        edit_json(coco, kind, edit)
    message = refusal_of(load, coco, with_instances=True)
    said = (str(coco / FILTER_FILE), "run setup again", "--use_all_images")
    assert all(words in message for words in said)
    assert load(coco, use_all_images=True).filtered is False
    assert load(coco, "val2014").filtered  # not concerned
    if edit:
        filter_images(coco)
        assert load(coco).filtered


@pytest.mark.parametrize("name", SPLITS)
def test_split_without_instances_is_refused_and_no_result_written(coco, name):
    path = edit_json(coco, "instances", change("annotations", to=[]), split=name)
    assert str(path) in refusal_of(filter_images, coco)
    path.unlink()
    assert str(path) in refusal_of(filter_images, coco)
    assert not (coco / FILTER_FILE).exists()


@pytest.mark.parametrize("is_there", [False, True])
def test_a_missing_or_unreadable_image_is_dropped_and_named(coco, caplog, is_there):
    path = coco / "COCO" / "train2014" / file_name(50)
    path.unlink()
    if is_there:
        path.write_bytes(b"no image")
    results = filter_images(coco)
    assert str(path) in caplog.text
    assert results["train2014"]["dropped"] == expected_dropped(TRAIN) | {"unreadable": [50]}
    assert results["val2014"]["dropped"] == expected_dropped(VAL)
    split = load(coco)
    assert split.image_ids.tolist() == [kept for kept in kept_ids(TRAIN) if kept != 50]


def test_too_many_unreadable_images_are_refused_and_an_older_result_stays(coco, monkeypatch):
    filter_images(coco)
    before = (coco / FILTER_FILE).read_bytes()
    path = coco / "COCO" / "train2014" / file_name(50)
    path.write_bytes(b"no image")
    monkeypatch.setattr("datasets_src.images.FEW_BAD_IMAGES", 0)
    assert str(path) in refusal_of(filter_images, coco)
    assert (coco / FILTER_FILE).read_bytes() == before


def test_identity_of_coco_stays_as_older_results_have_it(coco):
    """Hashes of the two files' content, and of the images' names and sizes, written out."""
    filter_images(coco)
    source = json.loads((coco / FILTER_FILE).read_text())["splits"]["train2014"]["source"]
    folder = coco / "COCO"
    for kind in ("captions", "instances"):
        content = (folder / "annotations" / f"{kind}_train2014.json").read_bytes()
        assert source[kind] == hashlib.sha256(content).hexdigest()
    names = [file_name(image_id) for image_id in sorted(TRAIN)]
    lines = [f"{name}\t{(folder / 'train2014' / name).stat().st_size}" for name in names]
    assert source["images"] == hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.mark.parametrize(
    "spoil",
    [
        drop("version"),
        drop("splits", "train2014", "source"),
        drop("splits", "train2014", "dropped", "grayscale"),
        change("splits", "train2014", "dropped", "grayscale", to=["a"]),
        change("splits", "train2014", to=["source", "dropped"]),
    ],
)
def test_damaged_result_is_refused_by_name(coco, spoil):
    filter_images(coco)
    path = coco / FILTER_FILE
    content = json.loads(path.read_text(encoding="utf-8"))
    spoil(content)
    path.write_text(json.dumps(content))
    message = refusal_of(load, coco)
    assert str(path) in message
    assert "setup again" in message


def test_a_result_goes_where_it_can_be_written_and_both_say_where(
    coco, tmp_path, monkeypatch, caplog, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, _mode: path != coco)
    options = [f"--datasets_dir={coco}", f"--results_dir={tmp_path / 'results'}"]
    assert main(["--utility=filter_unwanted_coco_images", *options]) == 0
    assert sorted(path.name for path in coco.iterdir()) == ["COCO"]
    (path,) = (tmp_path / "cache").rglob(FILTER_FILE)
    kept = str(path.relative_to(tmp_path))
    assert f"kept in {kept}" in capsys.readouterr().out
    with caplog.at_level(logging.INFO):
        assert load(coco).filtered
    assert f"as setup filtered them ({kept})" in caplog.text
    place = tmp_path / "mine"
    assert load(coco, cache_dir=place).filtered is False
    assert f"setup has not filtered them in {place}" in caplog.text
    assert main(["--utility=filter_unwanted_coco_images", *options, f"--cache_dir={place}"]) == 0
    assert load(coco, cache_dir=place).filtered is True
