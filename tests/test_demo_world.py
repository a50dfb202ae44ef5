import csv
import itertools
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from datasets_src.demo_drawing import BACKGROUNDS, DRAWINGS, PATTERNS, draw_background, draw_scene
from datasets_src.demo_world import (
    CAPTIONS_PER_IMAGE,
    GROUPS,
    MARKER_FILE,
    SPLITS,
    TEXTURE_WORDS,
    TWO_WORD_CLASSES,
    make_demo_world,
    make_picture,
)
from datasets_src.norms import ASSOCIATION_FILE, CATEGORY_FILE, CONCRETENESS_FILE
from utils.errors import UserError

IMAGES = 41  # 41 // 4 = 10 test images


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "datasets"
    return folder, make_demo_world(folder, images=IMAGES, seed=3)


@pytest.fixture(scope="module")
def pictures():
    return [make_picture(0, SPLITS[0], index) for index in range(300)]


def annotations(folder, kind, split):
    path = folder / "COCO" / "annotations" / f"{kind}_{split}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def file_bytes(folder):
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def words_of(text):
    return re.findall(r"[a-z]+", text.lower())


def test_layout_is_coco_2014(world):
    folder, _ = world
    assert {path.name for path in folder.iterdir()} == {
        "COCO",
        CATEGORY_FILE,
        CONCRETENESS_FILE,
        ASSOCIATION_FILE,
        MARKER_FILE,
    }
    assert {path.name for path in (folder / "COCO").iterdir()} == {*SPLITS, "annotations"}
    seen = set()
    for split, size in zip(SPLITS, (41, 10), strict=True):
        captions = annotations(folder, "captions", split)
        instances = annotations(folder, "instances", split)
        assert {"info", "licenses", "images", "annotations"} <= captions.keys()
        assert captions["images"] == instances["images"]
        ids = [image["id"] for image in captions["images"]]
        assert len(set(ids)) == size == len(ids)
        assert max(ids) - min(ids) > 2 * size  # gaps
        assert seen.isdisjoint(ids)
        seen.update(ids)
        names = {f"COCO_{split}_{number:012d}.jpg" for number in ids}
        assert {path.name for path in (folder / "COCO" / split).iterdir()} == names
        for image in captions["images"]:
            assert image["file_name"] == f"COCO_{split}_{image['id']:012d}.jpg"
            with Image.open(folder / "COCO" / split / image["file_name"]) as picture:
                assert picture.format == "JPEG"
                assert picture.size == (image["width"], image["height"])
        for data in (captions, instances):
            numbers = [annotation["id"] for annotation in data["annotations"]]
            assert len(set(numbers)) == len(numbers)
        per_image = Counter(annotation["image_id"] for annotation in captions["annotations"])
        assert per_image == dict.fromkeys(ids, CAPTIONS_PER_IMAGE)


def test_pycocotools_reads_it(world):
    coco_module = pytest.importorskip("pycocotools.coco")
    folder, _ = world
    for split in SPLITS:
        path = folder / "COCO" / "annotations" / f"instances_{split}.json"
        coco = coco_module.COCO(str(path))
        instances = annotations(folder, "instances", split)
        assert sorted(coco.getImgIds()) == sorted(image["id"] for image in instances["images"])
        assert len(coco.getCatIds()) == 18
        for category in instances["categories"]:
            expected = {
                annotation["image_id"]
                for annotation in instances["annotations"]
                if annotation["category_id"] == category["id"]
            }
            assert set(coco.getImgIds(catIds=[category["id"]])) == expected
        captions = coco_module.COCO(str(path.with_name(f"captions_{split}.json")))
        for image_id in captions.getImgIds():
            loaded = captions.loadAnns(captions.getAnnIds(imgIds=[image_id]))
            assert [type(annotation["caption"]) for annotation in loaded] == [str] * 5


def test_counts_are_of_the_files(world):
    folder, counts = world
    objects = grayscale = empty = two_word = 0
    for split in SPLITS:
        instances = annotations(folder, "instances", split)
        names = {category["id"]: category["name"] for category in instances["categories"]}
        shown = {image["id"]: set() for image in instances["images"]}
        for annotation in instances["annotations"]:
            shown[annotation["image_id"]].add(names[annotation["category_id"]])
        objects += len(instances["annotations"])
        empty += sum(not found for found in shown.values())
        two_word += sum(any(" " in name for name in found) for found in shown.values())
        for path in (folder / "COCO" / split).iterdir():
            with Image.open(path) as picture:
                grayscale += picture.mode == "L"
    categories = yaml.safe_load((folder / CATEGORY_FILE).read_text(encoding="utf-8"))
    ratings = (folder / CONCRETENESS_FILE).read_text(encoding="utf-8").splitlines()
    associations = (folder / ASSOCIATION_FILE).read_text(encoding="utf-8").splitlines()
    assert counts == {
        "train_images": 41,
        "test_images": 10,
        "train_captions": 205,
        "test_captions": 50,
        "objects": objects,
        "grayscale_images": grayscale,
        "images_without_objects": empty,
        "images_with_two_word_names": two_word,
        "categories": 18,
        "category_words": len({word for words in categories.values() for word in words}),
        "rated_words": len(ratings) - 1,
        "association_rows": len(associations),
    }
    assert grayscale > 0
    assert empty > 0
    assert two_word > 0
    assert objects > counts["train_images"]


def test_categories_and_supercategories(world):
    folder, _ = world
    records = annotations(folder, "instances", SPLITS[0])["categories"]
    assert records == annotations(folder, "instances", SPLITS[1])["categories"]
    supercategories = {record["name"]: record["supercategory"] for record in records}
    single = {name for name in supercategories if " " not in name}
    assert len(single) == 15
    assert set(supercategories) - single == set(TWO_WORD_CLASSES)
    assert {group: {n for n in single if supercategories[n] == group} for group in GROUPS} == {
        group: set(members) for group, members in GROUPS.items()
    }
    assert len(GROUPS) == 5
    ids = [record["id"] for record in records]
    assert len(set(ids)) == 18 < max(ids)  # numbers with gaps


def test_files_hold_the_pictures_and_boxes_of_make_picture(world):
    folder, _ = world
    for split, size in zip(SPLITS, (41, 10), strict=True):
        captions = annotations(folder, "captions", split)
        instances = annotations(folder, "instances", split)
        names = {category["id"]: category["name"] for category in instances["categories"]}
        for index in range(size):
            picture = make_picture(3, split, index)
            image = captions["images"][index]
            assert image["id"] == picture.image_id
            with Image.open(folder / "COCO" / split / image["file_name"]) as opened:
                pixels = np.asarray(opened).astype(float)
            assert pixels.shape == picture.pixels.shape
            assert np.abs(pixels - picture.pixels).mean() < 8  # what JPEG takes away
            found = [a for a in instances["annotations"] if a["image_id"] == picture.image_id]
            assert [(names[a["category_id"]], tuple(a["bbox"]), a["area"]) for a in found] == [
                (thing.name, thing.box, thing.area) for thing in picture.objects
            ]
            assert tuple(
                a["caption"] for a in captions["annotations"] if a["image_id"] == image["id"]
            ) == tuple(picture.captions)


@pytest.mark.parametrize("name", DRAWINGS)
def test_box_is_tight_around_the_pixels_that_change(name):
    """An object's box and area against the difference of the picture to its bare background."""
    for number, background in enumerate(BACKGROUNDS):
        pixels, objects = draw_scene(
            np.random.default_rng([7, number]), background, [name], 150, 110
        )
        bare = draw_background(np.random.default_rng([7, number]), background, 150, 110)
        changed = (pixels != bare).any(axis=2)
        rows, columns = np.nonzero(changed)
        (thing,) = objects
        x, y, width, height = thing.box
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
        # a pixel may by chance have the background's colour
        assert changed.sum() <= thing.area <= changed.sum() * 1.01 + 1
        assert thing.colour in {palette.word for palette in DRAWINGS[name].palettes}


def test_objects_of_a_scene_hardly_overlap_and_lie_inside():
    names = list(DRAWINGS)
    shares, sides = [], []
    for number in range(30):
        rng = np.random.default_rng([5, number])
        chosen = [names[(number + step * 5) % 18] for step in range(4)]
        pixels, objects = draw_scene(rng, "lake", chosen, 120, 160)
        bare = draw_background(np.random.default_rng([5, number]), "lake", 120, 160)
        changed = (pixels != bare).any(axis=2)
        union = np.zeros_like(changed)
        for thing in objects:
            x, y, width, height = thing.box
            assert x >= 0 <= y
            assert x + width <= 120
            assert y + height <= 160
            union[y : y + height, x : x + width] = True
            sides.append((width * height / (120 * 160)) ** 0.5)
        assert not (changed & ~union).any()  # nothing is drawn that no box holds
        for a, b in itertools.combinations([thing.box for thing in objects], 2):
            across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
            down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
            shares.append(max(across, 0) * max(down, 0) / min(a[2] * a[3], b[2] * b[3]))
    assert max(shares) <= 0.15
    assert len(sides) >= 30 * 3.5  # room is found nearly always
    assert 0.22 <= np.mean(sides) <= 0.4


def test_every_kind_of_object_fits_the_tables():
    assert set(DRAWINGS) == {n for members in GROUPS.values() for n in members} | set(
        TWO_WORD_CLASSES
    )
    textures = {drawing.texture for drawing in DRAWINGS.values()}
    assert textures - {"plain"} == set(PATTERNS) == set(TEXTURE_WORDS)


def test_same_seed_gives_the_same_bytes(world, tmp_path):
    folder, counts = world
    assert make_demo_world(tmp_path / "again", images=IMAGES, seed=3) == counts
    assert file_bytes(tmp_path / "again") == file_bytes(folder)
    make_demo_world(tmp_path / "other", images=IMAGES, seed=4)
    first, other = file_bytes(folder), file_bytes(tmp_path / "other")
    for name in ("captions_train2014.json", "instances_val2014.json"):
        assert first[f"COCO/annotations/{name}"] != other[f"COCO/annotations/{name}"]


def test_image_does_not_depend_on_the_number_of_images(world, tmp_path):
    folder, _ = world
    make_demo_world(tmp_path, images=20, seed=3)
    larger = file_bytes(folder)
    small = {name: data for name, data in file_bytes(tmp_path).items() if name.endswith(".jpg")}
    assert len(small) == 25
    assert {name: larger[name] for name in small} == small


def test_captions_name_the_objects(pictures):
    """Over many pictures: what captions say of the objects is true and mostly complete."""
    synonyms = {
        name: {name, *others} for members in GROUPS.values() for name, others in members.items()
    } | {name: {name} for name in TWO_WORD_CLASSES}
    all_colours = {palette.word for d in DRAWINGS.values() for palette in d.palettes}
    complete = named = by_class_name = total = two_word = 0
    object_counts = []
    for picture in pictures:
        shown = {thing.name for thing in picture.objects}
        assert len(shown) == len(picture.objects)
        object_counts.append(len(shown))
        two_word += any(" " in name for name in shown)
        true_colours = {thing.colour for thing in picture.objects}
        for caption in picture.captions:
            total += 1
            assert caption.endswith(".")
            assert "  " not in caption
            assert "{" not in caption
            text = caption.lower()
            told = {
                name: [w for w in words if re.search(rf"\b{w}\b", text)]
                for name, words in synonyms.items()
            }
            told = {name: words for name, words in told.items() if words}
            assert told.keys() <= shown  # nothing invented
            complete += told.keys() == shown
            named += len(told)
            by_class_name += sum(name in words for name, words in told.items())
            colours = set(words_of(caption)) & all_colours
            assert colours <= (true_colours if picture.pixels.ndim == 3 else set())
    assert 0.75 <= complete / total <= 0.95
    assert 0.5 <= by_class_name / named <= 0.72
    assert 0.04 <= two_word / len(pictures) <= 0.08
    assert 1.7 <= np.mean(object_counts) <= 2.3
    assert Counter(object_counts).keys() == {0, 1, 2, 3, 4}


def test_category_file(world, pictures):
    folder, _ = world
    categories = yaml.safe_load((folder / CATEGORY_FILE).read_text(encoding="utf-8"))
    assert set(categories) == {*GROUPS, "place"}
    for words in categories.values():
        assert all(isinstance(rating, float) and 1 <= rating <= 7 for rating in words.values())
    places = Counter(word for words in categories.values() for word in words)
    shared = [word for word, count in places.items() if count > 1]
    assert len(shared) >= 3
    for word in shared:
        ratings = [words[word] for words in categories.values() if word in words]
        assert len(set(ratings)) == len(ratings)
    for group, members in GROUPS.items():
        for name, others in members.items():
            for word in (name, *others):
                best = max(categories, key=lambda c, word=word: categories[c].get(word, 0))
                assert best == group
    said = {word for picture in pictures for word in words_of(" ".join(picture.captions))}
    assert 1 <= len(set(places) - said) <= 8


def test_concreteness_file(world, pictures):
    folder, _ = world
    with (folder / CONCRETENESS_FILE).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert list(rows[0]) == [
        "Word",
        "Bigram",
        "Conc.M",
        "Conc.SD",
        "Unknown",
        "Total",
        "Percent_known",
        "SUBTLEX",
        "Dom_Pos",
    ]
    assert all(None not in row and None not in row.values() for row in rows)
    ratings = {row["Word"]: float(row["Conc.M"]) for row in rows}
    assert len(ratings) == len(rows)
    assert all(1 <= rating <= 5 for rating in ratings.values())
    assert {row["Bigram"] == "1" for row in rows if " " in row["Word"]} == {True}
    assert {row["Bigram"] == "0" for row in rows if " " not in row["Word"]} == {True}
    said = {word for picture in pictures for word in words_of(" ".join(picture.captions))}
    assert said <= ratings.keys()
    assert len(ratings.keys() - said) >= 24
    objects = [ratings[name] for members in GROUPS.values() for name in members]
    assert min(objects) > 4.5 > 4.3 > ratings["red"] > ratings["idea"]


def test_association_file(world):
    folder, _ = world
    strength = Counter()
    orders = {}
    relations = set()
    for line in (folder / ASSOCIATION_FILE).read_text(encoding="utf-8").splitlines():
        relation, first, second, count = line.split("\t")
        assert first != second
        assert int(count) > 0
        relations.add(relation)
        strength[frozenset((first, second))] += int(count)
        orders.setdefault(frozenset((first, second)), set()).add((first, second))
    assert relations == {"R1", "R2", "R3"}
    assert any(len(found) == 2 for found in orders.values())
    classes = [(name, others) for members in GROUPS.values() for name, others in members.items()]
    within_class = [strength[frozenset((n, other))] for n, others in classes for other in others]
    names = {group: list(members) for group, members in GROUPS.items()}
    within_group = [
        strength[frozenset(pair)]
        for members in names.values()
        for pair in itertools.combinations(members, 2)
    ]
    across = [
        strength[frozenset((a, b))]
        for one, other in itertools.combinations(names.values(), 2)
        for a in one
        for b in other
    ]
    assert min(within_class) > max(within_group)
    assert max(across) < min(found for found in within_group if found)
    assert 0 < sum(found > 0 for found in across) < len(across)


def test_older_demo_world_is_replaced(tmp_path):
    make_demo_world(tmp_path, images=30, seed=1)
    make_demo_world(tmp_path, images=20, seed=2)
    make_demo_world(tmp_path / "fresh", images=20, seed=2)
    fresh = file_bytes(tmp_path / "fresh")
    again = {n: data for n, data in file_bytes(tmp_path).items() if not n.startswith("fresh/")}
    assert again == fresh


@pytest.mark.parametrize(("images", "seed"), [(19, 0), (0, 0), (-5, 0), (20, -1)])
def test_refuses_bad_numbers_and_writes_nothing(tmp_path, images, seed):
    with pytest.raises(UserError) as refusal:
        make_demo_world(tmp_path / "new", images=images, seed=seed)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "new").exists()


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
    make_demo_world(tmp_path, images=20)
    path = tmp_path / "COCO" / "annotations" / "captions_val2014.json"
    path.write_text('{"info": {"description": "COCO 2014 Dataset"}}', encoding="utf-8")
    before = file_bytes(tmp_path)
    with pytest.raises(UserError, match=r"captions_val2014\.json"):
        make_demo_world(tmp_path, images=20)
    assert file_bytes(tmp_path) == before


def test_interrupted_writing_leaves_no_world(tmp_path, monkeypatch):
    def interrupted(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("datasets_src.demo_world._association_rows", interrupted)
        make_demo_world(tmp_path, images=20)
    assert not list(tmp_path.iterdir())


def test_interrupted_moving_leaves_no_marker_and_is_mended_by_the_next_run(tmp_path, monkeypatch):
    make_demo_world(tmp_path, images=25)
    replace = Path.replace

    def interrupted(self, target):
        if Path(target) == tmp_path / CATEGORY_FILE:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", interrupted)
        make_demo_world(tmp_path, images=20)
    assert not (tmp_path / MARKER_FILE).exists()
    make_demo_world(tmp_path, images=20)
    make_demo_world(tmp_path / "fresh", images=20)
    fresh = file_bytes(tmp_path / "fresh")
    mended = {n: data for n, data in file_bytes(tmp_path).items() if not n.startswith("fresh/")}
    assert mended == fresh


def test_unwritable_place_is_the_users_mistake(tmp_path):
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with pytest.raises(UserError, match="cannot write the demo world"):
        make_demo_world(tmp_path / "file" / "datasets", images=20)
