"""Data in COCO's layout: packed arrays, files as other tools export them, and refusals."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
from PIL import Image

from datasets_src import images
from datasets_src.datasets import load_split
from datasets_src.splits import SPLITS
from evaluation.image_evaluation import split_gold_boxes
from tests.coco_files import file_name, write_annotations
from utils.errors import UserError

CATEGORIES = {18: "dog", 3: "car", 11: "fire hydrant"}  # ids with gaps, not in order


def write_split(
    datasets_dir,
    pictures,
    captions,
    instances=None,
    split="train2014",
    folder="COCO",
    image_folder=None,
):
    """Write a split in COCO's layout: pictures {id: image}, captions [(id, text)], instances
    [(id, category id, box)] or None for a split of captions alone."""
    place = datasets_dir / folder / (image_folder or split)
    place.mkdir(parents=True, exist_ok=True)
    sizes = {}
    for image_id, picture in pictures.items():
        kind = "TIFF" if picture.mode in ("CMYK", "F") else "PNG"
        picture.save(place / file_name(image_id, split), kind)
        sizes[image_id] = picture.size
    write_annotations(datasets_dir / folder, split, sizes, captions, instances, CATEGORIES)
    return datasets_dir


def edit_json(datasets_dir, kind, edit, split="train2014"):
    """Change an annotation file's content in place by ``edit(content)``."""
    path = datasets_dir / "COCO" / "annotations" / f"{kind}_{split}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def refusal_of(function, *arguments, **options):
    """Call a function that must refuse; return its message, which must be one line."""
    with pytest.raises(UserError) as refusal:
        function(*arguments, **options)
    (message,) = str(refusal.value).splitlines()
    assert message.strip()
    return message


def change(*keys, to=None, drop=False):
    """An edit that sets, or drops, the value at a path of keys."""

    def edit(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = to
        if drop:
            del content[keys[-1]]

    return edit


drop = partial(change, drop=True)


PICTURES = {
    300: Image.new("RGB", (6, 4)),
    7: Image.new("RGB", (5, 9)),
    42: Image.new("L", (8, 8)),
}
CAPTIONS = [
    (42, "a grey field"),
    (300, "Two dogs\n"),
    (7, "A car."),
    (300, "a dog, and a dog"),
    (42, "Nebel über dem Feld"),
]
INSTANCES = [
    (300, 18, [0.5, 1, 2, 2.25]),
    (7, 3, [0, 0, 5, 9]),
    (300, 18, [3, 0, 3, 3]),
    (300, 11, [1, 1, 1, 1]),
]


@pytest.fixture
def small(tmp_path):
    return write_split(tmp_path, PICTURES, CAPTIONS, INSTANCES)


def load(datasets_dir, **options):
    return load_split(datasets_dir, "train2014", with_instances=True, **options)


def found_instances(split):
    instances = split.instances
    ids = split.image_ids[instances.image].tolist()
    names = [instances.class_names[index] for index in instances.class_index]
    return list(zip(ids, names, instances.boxes.tolist(), strict=True))


def test_split_is_packed_by_ascending_ids(small, caplog):
    split = load(small)
    assert split.name == "train2014"
    assert split.image_ids.tolist() == [7, 42, 300]
    assert split.file_names.tolist() == [file_name(i) for i in (7, 42, 300)]
    assert split.sizes.tolist() == [[5, 9], [8, 8], [6, 4]]
    assert split.captions == tuple(text for _, text in CAPTIONS)  # in the file's order
    assert split.image_ids[split.caption_image].tolist() == [image for image, _ in CAPTIONS]
    assert split.first_captions().tolist() == [2, 0, 1]
    instances = split.instances
    assert instances.class_names == ("car", "fire hydrant", "dog")
    assert found_instances(split) == [(i, CATEGORIES[category], b) for i, category, b in INSTANCES]
    assert instances.is_single_word().tolist() == [True, False, True]
    assert instances.counts(3).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 2]]
    assert load_split(small, "train2014").instances is None  # read only when asked for
    assert not caplog.records


def test_equal_boxes_are_annotations_of_their_own(tmp_path):
    """COCO has some, of one class and of several, and each is a gold box."""
    boxes = [(7, 3, [0, 0, 5, 9]), (7, 3, [0, 0, 5, 9]), (7, 18, [0, 0, 5, 9])]
    split = load(write_split(tmp_path, PICTURES, CAPTIONS, boxes))
    for part in (split, split.keep(split.image_ids == 7)):
        assert part.instances.has_own_box.all()
        assert split_gold_boxes(part)[0].tolist() == [[0, 0, 224, 224]] * 3


@pytest.mark.parametrize("instances", [None, [], [(8, 18, [0, 0, 1, 1])]])
def test_without_instances_of_its_images_a_split_has_none(tmp_path, instances):
    split = load(write_split(tmp_path, PICTURES, CAPTIONS, instances))
    assert split.instances is None
    assert len(split.captions) == len(CAPTIONS)


def test_files_may_be_spread_over_both_annotation_folders(small):
    other = small / "COCO" / "train_val_annotations2014"
    other.mkdir()
    path = small / "COCO" / "annotations" / "instances_train2014.json"
    path.rename(other / path.name)
    assert len(load(small).instances.image) == len(INSTANCES)


def test_entries_of_unlisted_images_are_left_out_and_counted(tmp_path, caplog):
    strays = [(8, 3, [0, 0, 1, 1]), *INSTANCES]
    split = load(write_split(tmp_path, PICTURES, [(8, "a"), *CAPTIONS, (9, "b")], strays))
    assert split.captions == tuple(text for _, text in CAPTIONS)
    assert split.instances.boxes.tolist() == [box for _, _, box in INSTANCES]
    for kind, count in (("captions", 2), ("instances", 1)):
        said = f"{kind}_train2014.json: annotations of unlisted images, left out: {count}"
        assert said in caplog.text


def rows_of(split, wanted=None):
    """All of a split as lists that name images by id, for the images ``wanted`` (default all)."""
    ids = split.image_ids
    images = zip(ids.tolist(), split.file_names.tolist(), split.sizes.tolist(), strict=True)
    captions = zip(ids[split.caption_image].tolist(), split.captions, strict=True)
    objects = [] if split.instances is None else found_instances(split)
    wanted = ids if wanted is None else wanted
    return [[row for row in rows if row[0] in wanted] for rows in (images, captions, objects)]


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_keep_leaves_out_images_with_their_captions_and_instances(demo_data, share):
    split = load(demo_data)
    kept = np.random.default_rng(0).random(len(split.image_ids)) < share
    result = split.keep(kept)
    assert rows_of(result) == rows_of(split, split.image_ids[kept])
    assert len(result.image_ids) == kept.sum()


def bare_export(content):
    """Numbers as text, and nothing that is not needed."""
    content["images"] = [
        {"id": f"{image['id']:06d}", "file_name": image["file_name"]} for image in content["images"]
    ]
    for entry in content["annotations"]:
        del entry["id"]
        entry["image_id"] = str(entry["image_id"])
        if "bbox" in entry:
            entry["category_id"] = float(entry["category_id"])
            entry["bbox"] = [str(side) for side in entry["bbox"]]


def test_files_as_other_tools_export_them_are_read(small):
    expected = load(small)
    edit_json(small, "captions", bare_export)
    edit_json(small, "instances", bare_export)
    split = load(small)
    assert rows_of(split) == rows_of(expected)  # with widths and heights, from the images
    assert split.fingerprint() == expected.fingerprint()
    assert load_split(small, "train2014").sizes.tolist() == [[0, 0]] * 3  # nothing needs them


def test_one_file_of_captions_and_boxes_is_read_for_both(small):
    expected = load(small)
    path = small / "COCO" / "annotations" / "captions_train2014.json"
    captions = json.loads(path.read_text())["annotations"]
    both = edit_json(small, "instances", lambda content: content["annotations"].extend(captions))
    shutil.copy(both, path)
    assert rows_of(load(small)) == rows_of(expected)
    edit_json(small, "captions", lambda content: content.update(annotations=[{"bbox": [1]}]))
    assert "give the right file" in refusal_of(load, small)  # boxes in place of captions


def test_categories_of_one_name_are_one_class(small, caplog):
    def rename(content):
        content["categories"].insert(0, {"id": 0, "name": "dog"})
        content["annotations"][0]["category_id"] = 0

    edit_json(small, "instances", rename)
    split = load(small)
    assert split.instances.class_names == ("dog", "car", "fire hydrant")
    assert found_instances(split)[0][:2] == (300, "dog")
    assert "categories of one name are one class: dog" in caplog.text


def test_an_image_listed_again_counts_once_unless_it_differs(small):
    expected = load(small)
    for kind in ("captions", "instances"):
        edit_json(small, kind, lambda content: content["images"].append(content["images"][0]))
    assert rows_of(load(small)) == rows_of(expected)
    edit_json(small, "captions", change("images", -1, "file_name", to="other.jpg"))
    assert "the id 300 stands twice" in refusal_of(load, small)


def test_images_of_one_file_and_boxes_that_nobody_can_hit_are_counted(small, caplog):
    edit_json(small, "captions", change("images", 0, "file_name", to=file_name(7)))
    boxes = ([6, 0, 2, 2], [0, -3, 2, 3], [1, 2, 0, 4], [-1, -1, 2, 2])
    for number, box in enumerate(boxes):
        edit_json(small, "instances", change("annotations", number, "bbox", to=box))
    edit_json(small, "instances", change("annotations", 1, "image_id", to=300))
    assert load(small).instances.boxes.tolist() == [list(box) for box in boxes]
    assert "images that have the file of another: 1" in caplog.text
    assert "boxes wholly outside their image, counted like others: 2" in caplog.text
    assert "boxes without area, counted like others: 1" in caplog.text


def test_byte_order_mark_and_windows_line_ends_do_not_matter_but_the_encoding_does(small):
    expected = load(small)
    path = small / "COCO" / "annotations" / "captions_train2014.json"
    text = json.dumps(json.loads(path.read_text()), indent=1).replace("\n", "\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert rows_of(load(small)) == rows_of(expected)
    path.write_bytes(path.read_bytes().replace(b"A car.", b"A c\xe4r."))
    assert str(path) in refusal_of(load, small)


ID, CAPTION, BOX = '"id": 9', '"caption": "a dog"}', '"bbox": [x, y, width, height]}'
NAME = '"name": "dog"}'
BROKEN = [  # what is changed in which file, and how the entry should look
    ("captions", drop("images"), '"file_name"'),
    ("captions", change("images", to={"id": 1}), "'images'"),
    ("captions", change("images", 0, to="x.jpg"), "x.jpg"),
    ("captions", drop("images", 0, "id"), ID),
    ("captions", change("images", 0, "id", to=1.5), ID),
    ("captions", change("images", 0, "id", to=2**70), ID),
    ("captions", change("images", 1, "file_name", to=7), '"file_name"'),
    ("captions", change("images", 1, "height", to=-1), '"height": 480'),
    ("captions", drop("annotations", 2, "image_id"), CAPTION),
    ("captions", drop("annotations", 2, "caption"), CAPTION),
    ("captions", change("annotations", 2, "caption", to="\ud800"), CAPTION),
    ("instances", drop("categories"), NAME),
    ("instances", drop("categories", 0, "name"), NAME),
    ("instances", change("annotations", 1, "category_id", to=99), "99"),
    ("instances", drop("annotations", 1, "bbox"), BOX),
    ("instances", change("annotations", 1, "bbox", to=[1, 2, 3]), BOX),
    ("instances", change("annotations", 1, "bbox", to=[1, float("nan"), 3, 4]), BOX),
    ("instances", change("annotations", 1, "bbox", to=[1, 2, -3, 4]), BOX),
]


@pytest.mark.parametrize(("kind", "edit", "form"), BROKEN)
def test_malformed_file_is_refused_with_how_an_entry_should_look(small, kind, edit, form):
    path = edit_json(small, kind, edit)
    message = refusal_of(load, small)
    assert str(path) in message
    assert form in message
    path.write_text("[]")
    assert f"{path} is not in COCO's format" in refusal_of(load, small)


def test_file_name_in_a_subfolder_is_found(small):
    folder = small / "COCO" / "train2014"
    (folder / "more").mkdir()
    (folder / file_name(300)).rename(folder / "more" / "x.png")
    edit_json(small, "captions", change("images", 0, "file_name", to="more/x.png"))
    assert load(small).path(2) == folder / "more" / "x.png"


@pytest.mark.parametrize("name", ["two\nlines.jpg", "x" * 300 + ".jpg", "a\0b.jpg"])
def test_a_few_missing_images_are_counted_and_the_first_named(small, caplog, name, monkeypatch):
    edit_json(small, "captions", change("images", 0, "file_name", to=name))
    assert load(small).image_ids.tolist() == [7, 42, 300]
    (message,) = [record.getMessage() for record in caplog.records]
    assert "1 of 3 images missing" in message
    assert repr(name) in message
    monkeypatch.setattr(images, "FEW_BAD_IMAGES", 0)
    assert "1 of 3 images missing" in refusal_of(load, small)


def test_missing_files_and_folders_are_named(small):
    shutil.rmtree(small / "COCO" / "train2014")
    assert str(small / "COCO" / "train2014") in refusal_of(load, small)
    (small / "COCO" / "annotations" / "captions_train2014.json").unlink()
    message = refusal_of(load, small)
    for name in ("captions_train2014.json", "captions_train2017.json", "captions_train.json"):
        assert name in message
    assert str(small / "COCO" / "annotations") in message


# how the files name the two splits, and the images that do not give their name
NAMINGS = {
    "2014": ("train2014", "val2014", "COCO_{split}_{id:012d}.jpg"),
    "2017": ("train2017", "val2017", "{id:012d}.jpg"),
    "plain": ("train", "val", None),
}


def write_layout(folder, naming, image_folder=None):
    """Write both splits under the names of a naming; image 7 is of training, 8 of testing."""
    for i, split in zip((7, 8), NAMINGS[naming], strict=False):
        content = ({i: Image.new("RGB", (i, 4))}, [(i, f"caption of {i}")], [(i, 18, [0, 0, 2, 2])])
        write_split(folder.parent, *content, split, folder.name, image_folder)
    return folder


@pytest.mark.parametrize("image_folder", [None, "images"])
@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize(("folder", "dataset"), [("COCO", "coco"), ("mine", "mine")])
def test_every_naming_of_the_splits_is_read(tmp_path, folder, dataset, naming, image_folder):
    write_layout(tmp_path / folder, naming, image_folder)
    for split, name, image_id in zip(SPLITS, NAMINGS[naming], (7, 8), strict=False):
        loaded = load_split(tmp_path, split, with_instances=True, dataset=dataset)
        assert loaded.name == name
        assert loaded.image_ids.tolist() == [image_id]
        assert loaded.captions == (f"caption of {image_id}",)
        assert loaded.instances.boxes.tolist() == [[0, 0, 2, 2]]
        assert loaded.path(0).parent == tmp_path / folder / (image_folder or name)
        assert loaded.path(0).is_file()


@pytest.mark.parametrize("naming", NAMINGS)
def test_images_without_file_name_are_found_by_the_official_pattern(tmp_path, naming):
    folder = write_layout(tmp_path / "mine", naming)
    name, _, pattern = NAMINGS[naming]
    path = folder / "annotations" / f"captions_{name}.json"
    path.write_text(path.read_text().replace('"file_name"', '"other"'))
    if pattern is None:
        assert '"file_name"' in refusal_of(load, tmp_path, dataset="mine")
        return
    expected = pattern.format(split=name, id=7)
    (folder / name / file_name(7, name)).rename(folder / name / expected)
    assert load(tmp_path, dataset="mine").file_names.tolist() == [expected]


@pytest.mark.parametrize(
    ("naming", "strays"),
    [("2014", "train2017 val2017"), ("2017", "val2014 train val"), ("plain", "val2017 train2014")],
)
def test_the_first_complete_naming_is_used_for_both_splits(tmp_path, naming, strays):
    folder = write_layout(tmp_path / "mine", naming)
    for stray in strays.split():
        (folder / "annotations" / f"captions_{stray}.json").write_text("stray")
    loaded = [load_split(tmp_path, split, dataset="mine") for split in SPLITS]
    assert [split.name for split in loaded] == list(NAMINGS[naming][:2])


def test_captions_of_one_split_are_not_completed_by_another_naming(small):
    path = small / "COCO" / "annotations" / "captions_train2014.json"
    shutil.copy(path, path.with_name("captions_val2017.json"))
    message = refusal_of(load_split, small, "val2014")
    assert message.startswith(f"no captions_val2014.json in {path.parent}")
    assert load_split(small, "train2014").name == "train2014"
