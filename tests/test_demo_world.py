"""The demo world: its files, that its boxes and captions are true, and what it refuses."""

import csv
import hashlib
import itertools
import json
import re
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from datasets_src.demo_drawing import (
    BACKGROUNDS,
    LARGEST_OVERLAP,
    OBJECTS,
    draw_background,
    draw_scene,
)
from datasets_src.demo_world import GROUPS, make_demo_dataset, make_demo_world, make_picture
from datasets_src.norms import ASSOCIATION_FILE, CATEGORY_FILE, CONCRETENESS_FILE
from datasets_src.splits import SPLITS
from utils.errors import UserError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "datasets"
    make_demo_world(folder, images=41, seed=3)
    return folder


@pytest.fixture(scope="module")
def pictures():
    return [make_picture(0, SPLITS[0], index) for index in range(150)]


def file_bytes(folder):
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def words_of(captions):
    return set(re.findall(r"[a-z]+", " ".join(captions).lower()))


def test_the_world_does_not_change(world):
    """Figures of trained models are of this very world; pixels may differ with Pillow's version."""
    text = b"".join(data for name, data in file_bytes(world).items() if not name.endswith(".jpg"))
    assert hashlib.sha256(text).hexdigest()[:16] == "184a99f71d875a0f"


def test_files_hold_what_make_picture_makes_in_the_layout_of_coco(world):
    """Image k depends on the seed and not on the size of the world."""
    seen, kinds = set(), set()
    for split, size in zip(SPLITS, (41, 10), strict=True):
        captions, instances = (
            json.loads((world / "COCO" / "annotations" / f"{kind}_{split}.json").read_text())
            for kind in ("captions", "instances")
        )
        assert {"info", "licenses", "images", "annotations"} <= captions.keys()
        assert captions["images"] == instances["images"]
        ids = [image["id"] for image in captions["images"]]
        assert len(set(ids)) == size == len(ids)
        assert max(ids) - min(ids) > 2 * size  # gaps
        assert seen.isdisjoint(ids)
        seen.update(ids)
        records = {record["id"]: record for record in instances["categories"]}
        assert [record["name"] for record in records.values()] == list(OBJECTS)
        assert len(records) == 18 < max(records)  # numbers with gaps
        assert all(r["supercategory"] == OBJECTS[r["name"]]["group"] for r in records.values())
        for data in (captions, instances):
            numbers = [annotation["id"] for annotation in data["annotations"]]
            assert len(set(numbers)) == len(numbers)
        for index, image in enumerate(captions["images"]):
            picture = make_picture(3, split, index)
            assert image["id"] == picture.image_id
            assert image["file_name"] == f"COCO_{split}_{image['id']:012d}.jpg"
            with Image.open(world / "COCO" / split / image["file_name"]) as opened:
                assert opened.format == "JPEG"
                assert opened.size == (image["width"], image["height"])
                pixels = np.asarray(opened).astype(float)
            assert np.abs(pixels - picture.pixels).mean() < 8  # what JPEG takes away
            found = [a for a in instances["annotations"] if a["image_id"] == image["id"]]
            assert [
                (records[a["category_id"]]["name"], tuple(a["bbox"]), a["area"]) for a in found
            ] == [(thing.name, thing.box, thing.area) for thing in picture.objects]
            said = [a["caption"] for a in captions["annotations"] if a["image_id"] == image["id"]]
            assert said == picture.captions
            kinds.add("grayscale" if pixels.ndim == 2 else "coloured")
            kinds.add("objects" if picture.objects else "empty")
            kinds |= {"two words" for thing in picture.objects if " " in thing.name}
    assert kinds == {"grayscale", "coloured", "objects", "empty", "two words"}


@pytest.mark.parametrize("name", OBJECTS)
def test_box_is_tight_around_the_pixels_that_change(name):
    """An object's box and area against the difference of the picture to its bare background."""
    for number, background in enumerate(BACKGROUNDS):
        rng = np.random.default_rng([7, number])
        pixels, (thing,) = draw_scene(rng, background, [name], 150, 110)
        bare = draw_background(np.random.default_rng([7, number]), background, 150, 110)
        changed = (pixels != bare).any(axis=2)
        rows, columns = np.nonzero(changed)
        x, y, width, height = thing.box
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
        # a pixel may by chance have the background's colour
        assert changed.sum() <= thing.area <= changed.sum() * 1.01 + 1


def test_objects_of_a_scene_hardly_overlap_and_lie_inside():
    names = list(OBJECTS)
    sides = []
    for number in range(30):
        chosen = [names[(number + step * 5) % 18] for step in range(4)]
        rng = np.random.default_rng([5, number])
        pixels, objects = draw_scene(rng, "lake", chosen, 120, 160)
        bare = draw_background(np.random.default_rng([5, number]), "lake", 120, 160)
        union = np.zeros((160, 120), dtype=bool)
        for thing in objects:
            x, y, width, height = thing.box
            union[y : y + height, x : x + width] = True
            sides.append((width * height / (120 * 160)) ** 0.5)
        assert not ((pixels != bare).any(axis=2) & ~union).any()
        for a, b in itertools.combinations([thing.box for thing in objects], 2):
            across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
            down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
            shared = max(across, 0) * max(down, 0) / min(a[2] * a[3], b[2] * b[3])
            assert shared <= LARGEST_OVERLAP + 0.05  # boxes shrink to what is visible
    assert len(sides) >= 30 * 3.5  # room is found nearly always
    assert 0.22 <= np.mean(sides) <= 0.4


def test_captions_are_true_and_mostly_complete(pictures):
    words_for = {name: [name, *thing["other_words"]] for name, thing in OBJECTS.items()}
    colours = {palette.split()[0] for thing in OBJECTS.values() for palette in thing["palettes"]}
    complete = named = by_class_name = 0
    for picture in pictures:
        shown = {thing.name for thing in picture.objects}
        assert len(shown) == len(picture.objects)
        coloured = picture.pixels.ndim == 3
        true_colours = {thing.colour for thing in picture.objects} if coloured else set()
        for caption in picture.captions:
            assert re.fullmatch(r"[A-Za-z]+( [a-z]+,?)+\.", caption)
            told = {
                name: [word for word in words if re.search(rf"\b{word}\b", caption.lower())]
                for name, words in words_for.items()
            }
            told = {name: words for name, words in told.items() if words}
            assert told.keys() <= shown  # nothing invented
            assert words_of([caption]) & colours <= true_colours
            complete += told.keys() == shown
            named += len(told)
            by_class_name += sum(name in words for name, words in told.items())
    assert 0.75 <= complete / (5 * len(pictures)) <= 0.95
    assert 0.5 <= by_class_name / named <= 0.72
    object_counts = [len(picture.objects) for picture in pictures]
    assert set(object_counts) == {0, 1, 2, 3, 4}
    assert 1.7 <= np.mean(object_counts) <= 2.3


def test_norms_cover_what_captions_say(world, pictures):
    said = words_of(caption for picture in pictures for caption in picture.captions)
    categories = yaml.safe_load((world / CATEGORY_FILE).read_text(encoding="utf-8"))
    assert set(categories) == {*GROUPS, "place"}
    for group, members in GROUPS.items():
        for word in itertools.chain(members, *members.values()):
            assert group == max(categories, key=lambda c, word=word: categories[c].get(word, 0))
    with (world / CONCRETENESS_FILE).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert all((row["Bigram"] == "1") == (" " in row["Word"]) for row in rows)
    assert said <= {row["Word"] for row in rows}
    lines = (world / ASSOCIATION_FILE).read_text(encoding="utf-8").splitlines()
    associated = {word for line in lines for word in line.split("\t")[1:3]}
    assert associated == {word for words in categories.values() for word in words}


def test_older_demo_world_is_replaced_also_one_cut_short(tmp_path):
    make_demo_world(tmp_path / "world", images=25, seed=1)
    (tmp_path / "world" / CATEGORY_FILE).unlink()
    (tmp_path / "world" / "COCO" / "annotations" / "captions_val2014.json").unlink()
    make_demo_world(tmp_path / "world", images=20, seed=2)
    make_demo_world(tmp_path / "fresh", images=20, seed=2)
    assert file_bytes(tmp_path / "world") == file_bytes(tmp_path / "fresh")


@pytest.mark.parametrize(
    "name", ["COCO/train2014/COCO_train2014_000000000009.jpg", CATEGORY_FILE, ASSOCIATION_FILE]
)
def test_refuses_to_replace_other_data(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("precious", encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(str(tmp_path / Path(name).parts[0]))):
        make_demo_world(tmp_path, images=20)
    assert file_bytes(tmp_path) == {name: b"precious"}


def test_refuses_to_replace_coco_that_took_a_demo_worlds_place(tmp_path):
    path = tmp_path / "COCO" / "annotations" / "captions_val2014.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"info": {"description": "COCO 2014 Dataset"}}', encoding="utf-8")
    (tmp_path / "demo_world.json").touch()
    with pytest.raises(UserError, match=r"captions_val2014\.json"):
        make_demo_world(tmp_path, images=20)


@pytest.mark.parametrize("images", [["19"], ["-5"], ["a.png", "b.png"]])
def test_bad_numbers_of_images_write_nothing(tmp_path, images):
    with pytest.raises(UserError, match="at least 20"):
        make_demo_dataset(Namespace(datasets_dir=tmp_path / "new", images=images, seed=0))
    assert not (tmp_path / "new").exists()


def test_unwritable_place_is_the_users_mistake(tmp_path):
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with pytest.raises(UserError, match="cannot write"):
        make_demo_dataset(Namespace(datasets_dir=tmp_path / "file" / "x", images=["20"], seed=0))
