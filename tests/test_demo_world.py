"""The demo world: its files, that its boxes and captions are true, and what it refuses."""

import hashlib
import re
from argparse import Namespace

import numpy as np
import pytest
from PIL import Image

from datasets_src.datasets import load_split
from datasets_src.demo_drawing import BACKGROUNDS, OBJECTS, draw_background, draw_scene
from datasets_src.demo_world import make_demo_dataset, make_demo_world, make_picture
from datasets_src.norms import ASSOCIATION_FILE, CATEGORY_FILE
from datasets_src.splits import SPLITS
from tests.test_coco import rows_of
from utils.errors import UserError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "datasets"
    make_demo_world(folder, images=41, seed=3)
    return folder


def file_bytes(folder):
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def words_of(captions):
    return set(re.findall(r"[a-z]+", " ".join(captions).lower()))


def test_the_world_does_not_change(world):
    """Figures of trained models are of this very world; pixels may differ with Pillow's version."""
    text = b"".join(data for name, data in file_bytes(world).items() if not name.endswith(".jpg"))
    assert hashlib.sha256(text).hexdigest()[:16] == "184a99f71d875a0f"


def test_files_hold_what_make_picture_makes(world):
    """Image k depends on the seed and not on the size of the world."""
    for split, size in zip(SPLITS, (41, 10), strict=True):
        loaded = load_split(world, split, with_instances=True)
        assert len(loaded.image_ids) == size
        assert loaded.instances.class_names == tuple(OBJECTS)
        for picture in (make_picture(3, split, index) for index in range(size)):
            number = picture.image_id
            ((_, name, sides),), captions, objects = rows_of(loaded, [number])
            assert captions == [(number, text) for text in picture.captions]
            assert objects == [(number, thing.name, list(thing.box)) for thing in picture.objects]
            with Image.open(loaded.folder / name) as opened:
                assert list(opened.size) == sides
                pixels = np.asarray(opened).astype(float)
            assert np.abs(pixels - picture.pixels).mean() < 8  # what JPEG takes away


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


def test_captions_are_true_and_mostly_complete():
    pictures = [make_picture(0, SPLITS[0], index) for index in range(150)]
    words_for = {name: [name, *thing["other_words"]] for name, thing in OBJECTS.items()}
    colours = {palette.split()[0] for thing in OBJECTS.values() for palette in thing["palettes"]}
    complete = 0
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
    assert 0.75 <= complete / (5 * len(pictures)) <= 0.95
    assert {len(picture.objects) for picture in pictures} == {0, 1, 2, 3, 4}


def test_older_demo_world_is_replaced_also_one_cut_short(tmp_path):
    make_demo_world(tmp_path / "world", images=25, seed=1)
    (tmp_path / "world" / CATEGORY_FILE).unlink()
    (tmp_path / "world" / "COCO" / "annotations" / "captions_val2014.json").unlink()
    make_demo_world(tmp_path / "world", images=20, seed=2)
    make_demo_world(tmp_path / "fresh", images=20, seed=2)
    assert file_bytes(tmp_path / "world") == file_bytes(tmp_path / "fresh")


COCO_CAPTIONS = {"COCO/annotations/captions_val2014.json": b'{"info": {"description": "COCO"}}'}


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"COCO/train2014/COCO_train2014_000000000009.jpg": b"precious"}, "COCO"),
        ({CATEGORY_FILE: b"precious"}, CATEGORY_FILE),
        ({ASSOCIATION_FILE: b"precious"}, ASSOCIATION_FILE),
        # COCO that took a demo world's place
        (COCO_CAPTIONS | {"demo_world.json": b""}, *COCO_CAPTIONS),
    ],
)
def test_refuses_to_replace_other_data(tmp_path, files, named):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(tmp_path / named))):
        make_demo_world(tmp_path, images=20)
    assert file_bytes(tmp_path) == files


@pytest.mark.parametrize("images", [["19"], ["-5"], ["a.png", "b.png"]])
def test_bad_numbers_of_images_write_nothing(tmp_path, images):
    with pytest.raises(UserError, match="at least 20"):
        make_demo_dataset(Namespace(datasets_dir=tmp_path / "new", images=images, seed=0))
    assert not (tmp_path / "new").exists()


def test_unwritable_place_is_the_users_mistake(tmp_path):
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with pytest.raises(UserError, match="cannot write"):
        make_demo_dataset(Namespace(datasets_dir=tmp_path / "file" / "x", images=["20"], seed=0))
