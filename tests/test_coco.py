import json
import logging
import shutil

import numpy as np
import pytest
from PIL import Image

from datasets_src import images
from datasets_src.coco import SPLITS, Instances, Split, annotation_file
from datasets_src.datasets import load_split
from evaluation.image_evaluation import split_gold_boxes
from utils.errors import UserError

CATEGORIES = {18: "dog", 3: "car", 11: "fire hydrant"}  # ids with gaps, not in order


def file_name(image_id, split="train2014"):
    return f"COCO_{split}_{image_id:012d}.png"


def write_split(
    datasets_dir, pictures, captions, instances=None, split="train2014", annotations="annotations"
):
    """Write a split in COCO's layout: pictures {id: image}, captions [(id, text)], instances
    [(id, category id, box)] or None for a split of captions alone."""
    folder = datasets_dir / "COCO" / split
    folder.mkdir(parents=True)
    for image_id, picture in pictures.items():
        picture.save(folder / file_name(image_id, split))
    images = [
        {"id": i, "file_name": file_name(i, split), "width": p.width, "height": p.height}
        for i, p in pictures.items()
    ]
    texts = [
        {"id": 1000 + number, "image_id": image_id, "caption": text}
        for number, (image_id, text) in enumerate(captions)
    ]
    target = datasets_dir / "COCO" / annotations
    target.mkdir(exist_ok=True)
    (target / f"captions_{split}.json").write_text(
        json.dumps({"images": images, "annotations": texts}), encoding="utf-8"
    )
    if instances is not None:
        objects = [
            {"id": 2000 + number, "image_id": image_id, "category_id": category, "bbox": box}
            for number, (image_id, category, box) in enumerate(instances)
        ]
        categories = [{"id": number, "name": name} for number, name in CATEGORIES.items()]
        (target / f"instances_{split}.json").write_text(
            json.dumps({"images": images, "categories": categories, "annotations": objects}),
            encoding="utf-8",
        )
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
    message = str(refusal.value)
    assert message.strip()
    assert len(message.splitlines()) == 1
    return message


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


def test_images_are_ordered_by_ascending_id(small):
    split = load_split(small, "train2014")
    assert split.name == "train2014"
    assert split.image_ids.tolist() == [7, 42, 300]
    assert split.file_names.tolist() == [file_name(i) for i in (7, 42, 300)]
    assert split.widths.tolist() == [5, 8, 6]
    assert split.heights.tolist() == [9, 8, 4]
    for array in (split.image_ids, split.widths, split.heights, split.caption_image):
        assert array.dtype == np.int64
    for index, image_id in enumerate(split.image_ids.tolist()):
        with Image.open(split.path(index)) as picture:
            assert picture.size == PICTURES[image_id].size


def test_captions_keep_the_files_order_and_text(small):
    split = load_split(small, "train2014")
    assert split.captions == tuple(text for _, text in CAPTIONS)
    assert split.image_ids[split.caption_image].tolist() == [image for image, _ in CAPTIONS]


def test_first_caption_is_the_first_in_the_file(tmp_path):
    write_split(tmp_path, PICTURES, [(300, "b"), (7, "c"), (300, "a"), (7, "d")])
    split = load_split(tmp_path, "train2014")
    assert split.first_captions().tolist() == [1, -1, 0]  # of images 7, 42, 300
    assert split.first_captions().dtype == np.int64


def test_instances_are_packed_with_classes_by_ascending_category_id(small):
    split = load_split(small, "train2014", with_instances=True)
    instances = split.instances
    assert instances.class_names == ("car", "fire hydrant", "dog")
    found = [
        (int(split.image_ids[image]), instances.class_names[index], box)
        for image, index, box in zip(
            instances.image, instances.class_index, instances.boxes.tolist(), strict=True
        )
    ]
    assert found == [(image, CATEGORIES[category], box) for image, category, box in INSTANCES]
    assert instances.boxes.dtype == np.float64
    assert instances.is_single_word().tolist() == [True, False, True]
    assert instances.counts(3).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 2]]


def test_equal_boxes_are_annotations_of_their_own(tmp_path):
    """COCO has some, of one class and of several, and each is a gold box."""
    boxes = [(7, 3, [0, 0, 5, 9]), (7, 3, [0, 0, 5, 9]), (7, 18, [0, 0, 5, 9])]
    split = load_split(
        write_split(tmp_path, PICTURES, CAPTIONS, boxes), "train2014", with_instances=True
    )
    assert split.instances.has_own_box is None
    assert split_gold_boxes(split)[0].tolist() == [[0, 0, 224, 224]] * 3
    kept = split.keep(split.image_ids == 7)
    assert kept.instances.has_own_box is None
    assert split_gold_boxes(kept)[0].tolist() == [[0, 0, 224, 224]] * 3


def test_instances_are_read_only_when_asked_for(small):
    edit_json(small, "instances", lambda content: content.clear())
    assert load_split(small, "train2014").instances is None


def test_captions_only_data_has_no_instances(tmp_path):
    write_split(tmp_path, PICTURES, CAPTIONS)
    split = load_split(tmp_path, "train2014", with_instances=True)
    assert split.instances is None
    assert len(split.captions) == len(CAPTIONS)


def test_instances_file_without_annotations_counts_as_none(tmp_path):
    write_split(tmp_path, PICTURES, CAPTIONS, instances=[])
    assert load_split(tmp_path, "train2014", with_instances=True).instances is None


def test_instances_of_other_images_only_count_as_none(tmp_path):
    write_split(tmp_path, PICTURES, CAPTIONS, instances=[(8, 18, [0, 0, 1, 1])])
    assert load_split(tmp_path, "train2014", with_instances=True).instances is None


def test_split_without_images_loads(tmp_path):
    write_split(tmp_path, {}, [])
    split = load_split(tmp_path, "train2014")
    assert len(split.image_ids) == len(split.file_names) == len(split.captions) == 0
    assert split.first_captions().shape == (0,)


@pytest.mark.parametrize("folder", ["annotations", "train_val_annotations2014"])
def test_both_annotation_folder_names_are_read(tmp_path, folder):
    write_split(tmp_path, PICTURES, CAPTIONS, INSTANCES, annotations=folder)
    split = load_split(tmp_path, "train2014", with_instances=True)
    assert len(split.instances.image) == len(INSTANCES)
    assert annotation_file(tmp_path / "COCO", "captions", "train2014").parent.name == folder
    assert annotation_file(tmp_path / "COCO", "captions", "val2014") is None


def test_files_may_be_spread_over_both_annotation_folders(small):
    other = small / "COCO" / "train_val_annotations2014"
    other.mkdir()
    path = small / "COCO" / "annotations" / "instances_train2014.json"
    path.rename(other / path.name)
    split = load_split(small, "train2014", with_instances=True)
    assert len(split.instances.image) == len(INSTANCES)


def test_splits_are_read_from_their_own_files(small):
    picture = {9: Image.new("RGB", (3, 3))}
    write_split(small / "other", picture, [(9, "x")], split="val2014")
    (small / "other" / "COCO" / "val2014").rename(small / "COCO" / "val2014")
    source = small / "other" / "COCO" / "annotations" / "captions_val2014.json"
    source.rename(small / "COCO" / "annotations" / source.name)
    assert load_split(small, "val2014").image_ids.tolist() == [9]
    assert load_split(small, "train2014").image_ids.tolist() == [7, 42, 300]


def test_captions_and_instances_of_unlisted_images_are_left_out_with_a_warning(tmp_path, caplog):
    write_split(
        tmp_path,
        PICTURES,
        [(8, "stray"), *CAPTIONS, (9, "stray")],
        [INSTANCES[0], (8, 3, [0, 0, 1, 1]), *INSTANCES[1:]],
    )
    with caplog.at_level(logging.WARNING):
        split = load_split(tmp_path, "train2014", with_instances=True)
    assert split.captions == tuple(text for _, text in CAPTIONS)
    assert split.instances.boxes.tolist() == [box for _, _, box in INSTANCES]
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert "captions_train2014.json" in warnings[0]
    assert " 2 captions" in warnings[0]
    assert "instances_train2014.json" in warnings[1]
    assert " 1 instances" in warnings[1]


def test_complete_data_gives_no_warning_and_prints_nothing(small, caplog, capsys):
    load_split(small, "train2014", with_instances=True)
    assert not caplog.records
    assert capsys.readouterr() == ("", "")


def random_split(rng, images, captions, instances):
    return Split(
        name="train2014",
        folder=None,
        image_ids=np.sort(rng.choice(10_000, images, replace=False)),
        file_names=np.array([f"{number}.jpg" for number in rng.permutation(images)]),
        widths=rng.integers(1, 99, images),
        heights=rng.integers(1, 99, images),
        captions=tuple(f"caption {number}" for number in range(captions)),
        caption_image=rng.integers(0, images, captions),
        instances=Instances(
            image=rng.integers(0, images, instances),
            class_index=rng.integers(0, 4, instances),
            boxes=rng.uniform(0, 50, (instances, 4)),
            class_names=("a", "b", "c d", "e"),
        )
        if instances
        else None,
    )


def rows_of(split, wanted=None):
    """All of a split as lists that name images by id, for the images ``wanted`` (default all)."""
    ids = split.image_ids.tolist()
    wanted = set(ids) if wanted is None else wanted
    images = [
        row
        for row in zip(
            ids,
            split.file_names.tolist(),
            split.widths.tolist(),
            split.heights.tolist(),
            strict=True,
        )
        if row[0] in wanted
    ]
    captions = [
        (ids[image], text)
        for image, text in zip(split.caption_image.tolist(), split.captions, strict=True)
        if ids[image] in wanted
    ]
    instances = None
    if split.instances is not None:
        instances = [
            (ids[image], class_index, box)
            for image, class_index, box in zip(
                split.instances.image.tolist(),
                split.instances.class_index.tolist(),
                split.instances.boxes.tolist(),
                strict=True,
            )
            if ids[image] in wanted
        ]
    return images, captions, instances


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0, 0.3, 0.8, 1])
def test_keep_leaves_out_images_with_their_captions_and_instances(seed, share):
    rng = np.random.default_rng(seed)
    split = random_split(rng, images=15, captions=40, instances=[0, 30][seed % 2])
    kept = rng.random(15) < share
    result = split.keep(kept)
    wanted = {int(i) for i, stays in zip(split.image_ids, kept, strict=True) if stays}
    assert rows_of(result) == rows_of(split, wanted)
    assert len(result.image_ids) == kept.sum()
    if split.instances is not None:
        assert result.instances.class_names == split.instances.class_names


@pytest.mark.parametrize("seed", range(4))
def test_first_captions_and_counts_equal_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    split = random_split(rng, images=12, captions=20, instances=25)
    first = [-1] * 12
    for caption, image in enumerate(split.caption_image):
        if first[image] == -1:
            first[image] = caption
    assert -1 in first
    assert split.first_captions().tolist() == first
    counts = [[0] * 4 for _ in range(12)]
    for image, class_index in zip(split.instances.image, split.instances.class_index, strict=True):
        counts[image][class_index] += 1
    assert split.instances.counts(12).tolist() == counts


@pytest.mark.parametrize("kind", ["captions", "instances"])
@pytest.mark.parametrize(
    "text",
    ["", "{", '{"images": [], "annotations": [],}', "[]", "null", "3", '"text"', "[1, 2]", "\x00"],
)
def test_file_that_is_no_json_object_is_refused(small, kind, text):
    path = small / "COCO" / "annotations" / f"{kind}_train2014.json"
    path.write_text(text, encoding="utf-8")
    assert str(path) in refusal_of(load_split, small, "train2014", with_instances=True)


def test_file_that_is_not_utf8_is_refused(small):
    path = small / "COCO" / "annotations" / "captions_train2014.json"
    path.write_bytes(path.read_bytes().replace(b"A car.", b"A c\xe4r."))
    assert str(path) in refusal_of(load_split, small, "train2014")


def change(*keys, to):
    """An edit that sets the value at a path of keys."""

    def edit(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = to

    return edit


def drop(*keys):
    """An edit that removes the value at a path of keys."""

    def edit(content):
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return edit


BROKEN_CAPTIONS = {
    "no images": (drop("images"), "'images'"),
    "no annotations": (drop("annotations"), "'annotations'"),
    "images are an object": (change("images", to={"id": 1}), ""),
    "images are a number": (change("images", to=5), ""),
    "images are null": (change("images", to=None), ""),
    "an image is a text": (change("images", 0, to="x.jpg"), ""),
    "an annotation is a number": (change("annotations", 0, to=4), ""),
    "annotations are a text": (change("annotations", to="abc"), ""),
    "image without id": (drop("images", 0, "id"), "id"),
    "image id is a text": (change("images", 0, "id", to="300"), "'id'"),
    "image id is true": (change("images", 0, "id", to=True), "'id'"),
    "image id is a fraction": (change("images", 0, "id", to=1.5), "'id'"),
    "image id is null": (change("images", 0, "id", to=None), "'id'"),
    "image id is a list": (change("images", 0, "id", to=[1]), ""),
    "image id beyond 64 bits": (change("images", 0, "id", to=2**70), "'id'"),
    "file name is null": (change("images", 1, "file_name", to=None), "'file_name'"),
    "file name is a number": (change("images", 1, "file_name", to=7), "'file_name'"),
    "image without width": (drop("images", 1, "width"), "'width'"),
    "height is a text": (change("images", 1, "height", to="9"), "'height'"),
    "caption without image id": (drop("annotations", 2, "image_id"), "image_id"),
    "image id of a caption is a text": (change("annotations", 2, "image_id", to="7"), "'image_id'"),
    "caption missing": (drop("annotations", 2, "caption"), "'caption'"),
    "caption is a number": (change("annotations", 2, "caption", to=3), "'caption'"),
    "caption is null": (change("annotations", 2, "caption", to=None), "'caption'"),
    "caption is a list": (change("annotations", 2, "caption", to=["a"]), "'caption'"),
}


@pytest.mark.parametrize(("edit", "said"), BROKEN_CAPTIONS.values(), ids=BROKEN_CAPTIONS)
def test_malformed_captions_file_is_refused_by_name(small, edit, said):
    path = edit_json(small, "captions", edit)
    message = refusal_of(load_split, small, "train2014")
    assert str(path) in message
    assert said in message


BROKEN_INSTANCES = {
    "no categories": (drop("categories"), "'categories'"),
    "no annotations": (drop("annotations"), "'annotations'"),
    "category without id": (drop("categories", 0, "id"), "id"),
    "category without name": (drop("categories", 0, "name"), "'name'"),
    "category name is a number": (change("categories", 0, "name", to=3), "'name'"),
    "unknown category": (change("annotations", 1, "category_id", to=99), "99"),
    "category id missing": (drop("annotations", 1, "category_id"), "category_id"),
    "category id is a text": (change("annotations", 1, "category_id", to="3"), "'category_id'"),
    "image id missing": (drop("annotations", 1, "image_id"), "image_id"),
    "box missing": (drop("annotations", 1, "bbox"), "'bbox'"),
    "box of three numbers": (change("annotations", 1, "bbox", to=[1, 2, 3]), "'bbox'"),
    "box of five numbers": (change("annotations", 1, "bbox", to=[1, 2, 3, 4, 5]), "'bbox'"),
    "box with NaN": (change("annotations", 1, "bbox", to=[1, float("nan"), 3, 4]), "'bbox'"),
    "box with infinity": (change("annotations", 1, "bbox", to=[1, 2, float("inf"), 4]), "'bbox'"),
    "box with null": (change("annotations", 1, "bbox", to=[1, 2, None, 4]), "'bbox'"),
    "box with a text": (change("annotations", 1, "bbox", to=["1", 2, 3, 4]), "'bbox'"),
    "box with a truth value": (change("annotations", 1, "bbox", to=[True, 2, 3, 4]), "'bbox'"),
    "box of negative width": (change("annotations", 1, "bbox", to=[1, 2, -3, 4]), "'bbox'"),
    "box beyond all bounds": (change("annotations", 1, "bbox", to=[10**400, 2, 3, 4]), "'bbox'"),
    "box is null": (change("annotations", 1, "bbox", to=None), "'bbox'"),
    "box is a number": (change("annotations", 1, "bbox", to=4), "'bbox'"),
}


@pytest.mark.parametrize(("edit", "said"), BROKEN_INSTANCES.values(), ids=BROKEN_INSTANCES)
def test_malformed_instances_file_is_refused_by_name(small, edit, said):
    path = edit_json(small, "instances", edit)
    message = refusal_of(load_split, small, "train2014", with_instances=True)
    assert str(path) in message
    assert said in message


@pytest.mark.parametrize("name", ["../x.jpg", "a/../../x.jpg", "/etc/hosts", "..", ".", ""])
def test_file_name_that_leaves_the_folder_is_refused(small, name):
    (small / "COCO" / "x.jpg").write_bytes(b"there")
    path = edit_json(small, "captions", change("images", 0, "file_name", to=name))
    message = refusal_of(load_split, small, "train2014")
    assert str(path) in message
    assert repr(name) in message


def test_file_name_in_a_subfolder_is_found(small):
    folder = small / "COCO" / "train2014"
    (folder / "more").mkdir()
    (folder / file_name(300)).rename(folder / "more" / "x.png")
    edit_json(small, "captions", change("images", 0, "file_name", to="more/x.png"))
    split = load_split(small, "train2014")
    assert split.path(2) == folder / "more" / "x.png"


def test_missing_image_files_are_counted_and_the_first_named(small, caplog, monkeypatch):
    folder = small / "COCO" / "train2014"
    for image_id in (300, 42):
        (folder / file_name(image_id)).unlink()
    # a few are left out where images are read
    assert load_split(small, "train2014").image_ids.tolist() == [7, 42, 300]
    assert f"2 of 3 images are missing in {folder}, the first {file_name(42)!r}" in caplog.text
    monkeypatch.setattr(images, "FEW_BAD_IMAGES", 1)
    message = refusal_of(load_split, small, "train2014")
    assert message.startswith("2 of 3 images")
    assert str(folder) in message
    assert file_name(42) in message


def test_a_folder_without_any_of_the_images_is_refused(small):
    folder = small / "COCO" / "train2014"
    for path in folder.iterdir():
        path.unlink()
    assert refusal_of(load_split, small, "train2014").startswith("3 of 3 images")


def test_missing_image_whose_name_has_a_line_break_is_told_in_one_line(small, caplog):
    edit_json(small, "captions", change("images", 0, "file_name", to="two\nlines.jpg"))
    load_split(small, "train2014")
    (line,) = [line for line in caplog.text.splitlines() if "lines.jpg" in line]
    assert "1 of 3 images are missing" in line


def test_missing_image_folder_is_named(small):
    folder = small / "COCO" / "train2014"
    folder.rename(small / "elsewhere")
    assert str(folder) in refusal_of(load_split, small, "train2014")


def test_missing_captions_file_is_named(small):
    (small / "COCO" / "annotations" / "captions_train2014.json").unlink()
    message = refusal_of(load_split, small, "train2014")
    assert "captions_train2014.json" in message
    assert str(small / "COCO" / "annotations") in message


def test_captions_of_one_split_alone_are_not_completed_by_another_naming(small):
    path = small / "COCO" / "annotations" / "captions_train2014.json"
    shutil.copy(path, path.with_name("captions_val2017.json"))
    message = refusal_of(load_split, small, "val2014")
    assert message.startswith(f"no captions_val2014.json in {path.parent}")
    assert load_split(small, "train2014").name == "train2014"


# how the files name the two splits, and the images that do not give their name
NAMINGS = {
    "2014": ("train2014", "val2014", "COCO_{split}_{id:012d}.jpg"),
    "2017": ("train2017", "val2017", "{id:012d}.jpg"),
    "plain": ("train", "val", None),
}


def write_layout(folder, naming, image_folder=None):
    """Write both splits under the names of a naming; image 7 is of training, 8 of testing."""
    for image_id, split in ((7, NAMINGS[naming][0]), (8, NAMINGS[naming][1])):
        pictures = {image_id: Image.new("RGB", (image_id, 4))}
        made = folder.parent / f"{folder.name}.{split}"
        write_split(
            made,
            pictures,
            [(image_id, f"caption of {image_id}")],
            [(image_id, 18, [0, 0, 2, 2])],
            split=split,
        )
        shutil.copytree(made / "COCO", folder, dirs_exist_ok=True)
        if image_folder is not None:
            shutil.copytree(folder / split, folder / image_folder, dirs_exist_ok=True)
            shutil.rmtree(folder / split)
    return folder


def drop_file_names(folder, split, pattern):
    """Take the file names out of the captions file, and name the images by the pattern."""
    path = folder / "annotations" / f"captions_{split}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for image in content["images"]:
        name = image.pop("file_name")
        (folder / split / name).rename(folder / split / pattern.format(split=split, id=image["id"]))
    path.write_text(json.dumps(content), encoding="utf-8")


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
        assert loaded.folder == tmp_path / folder / (image_folder or name)
        with Image.open(loaded.path(0)) as picture:
            assert picture.size == (image_id, 4)
        annotations = tmp_path / folder / "annotations"
        assert loaded.caption_files == (annotations / f"captions_{name}.json",)
        assert loaded.instance_files == (annotations / f"instances_{name}.json",)


@pytest.mark.parametrize("naming", ["2014", "2017"])
def test_images_without_file_name_are_found_by_the_official_pattern(tmp_path, naming):
    folder = write_layout(tmp_path / "mine", naming)
    *names, pattern = NAMINGS[naming]
    for split, name in zip(SPLITS, names, strict=True):
        drop_file_names(folder, name, pattern)
        loaded = load_split(tmp_path, split, dataset="mine")
        expected = pattern.format(split=name, id=loaded.image_ids[0])
        assert loaded.file_names.tolist() == [expected]
        assert loaded.path(0).is_file()


def test_plainly_named_splits_must_give_file_names(tmp_path):
    folder = write_layout(tmp_path / "mine", "plain")
    drop_file_names(folder, "train", "{id}.jpg")
    message = refusal_of(load_split, tmp_path, "train2014", dataset="mine")
    assert str(folder / "annotations" / "captions_train.json") in message
    assert "'file_name'" in message


def test_the_first_of_several_namings_is_used_for_both_splits_and_that_is_said(tmp_path, caplog):
    for naming in ("plain", "2017", "2014"):
        write_layout(tmp_path / naming, naming)
        shutil.copytree(tmp_path / naming, tmp_path / "mine", dirs_exist_ok=True)
    with caplog.at_level(logging.INFO):
        names = [load_split(tmp_path, split, dataset="mine").name for split in SPLITS]
    assert names == ["train2014", "val2014"]
    said = caplog.records[0].getMessage()
    assert "train2014 and val2014 is used" in said
    assert "train2017 and val2017, train and val is not" in said
    for path in (tmp_path / "mine" / "annotations").glob("*2014.json"):
        path.unlink()
    names = [load_split(tmp_path, split, dataset="mine").name for split in SPLITS]
    assert names == ["train2017", "val2017"]


def strew(folder, *names):
    """Put stray captions files, of no use, into the annotations."""
    for name in names:
        (folder / "annotations" / f"captions_{name}.json").write_text("stray")


@pytest.mark.parametrize(
    ("naming", "strays"),
    [
        ("2017", ["val2014"]),
        ("2017", ["train2014", "val"]),
        ("plain", ["val2017", "train2014"]),
        ("2014", ["train2017"]),
    ],
)
def test_the_first_complete_naming_is_used_whatever_else_is_strewn_about(
    tmp_path, caplog, naming, strays
):
    strew(write_layout(tmp_path / "mine", naming), *strays)
    with caplog.at_level(logging.INFO):
        loaded = [load_split(tmp_path, split, dataset="mine") for split in SPLITS]
    assert [split.name for split in loaded] == list(NAMINGS[naming][:2])
    assert [split.image_ids.tolist() for split in loaded] == [[7], [8]]
    said = caplog.records[0].getMessage()
    assert f"{' and '.join(NAMINGS[naming][:2])} is used" in said
    assert f"{' and '.join(NAMINGS[naming][:2])} is not" not in said
    for stray in strays:
        assert stray in said


def test_without_a_complete_naming_the_first_that_has_a_file_is_used(tmp_path):
    folder = write_layout(tmp_path / "mine", "2017")
    (folder / "annotations" / "captions_val2017.json").unlink()
    strew(folder, "train")
    assert load_split(tmp_path, "train2014", dataset="mine").name == "train2017"
    message = refusal_of(load_split, tmp_path, "val2014", dataset="mine")
    assert message.startswith(f"no captions_val2017.json in {folder / 'annotations'}")


def test_folder_without_any_captions_file_is_refused_with_all_names_looked_for(tmp_path):
    (tmp_path / "mine").mkdir()
    message = refusal_of(load_split, tmp_path, "val2014", dataset="mine")
    for name in ("captions_val2014.json", "captions_val2017.json", "captions_val.json"):
        assert name in message
    assert str(tmp_path / "mine" / "annotations") in message


@pytest.mark.parametrize("image_folder", [None, "images"])
def test_file_names_cannot_leave_the_folder_of_any_data_set(tmp_path, image_folder):
    folder = write_layout(tmp_path / "mine", "plain", image_folder)
    (folder / "x.png").write_bytes(b"there")
    path = folder / "annotations" / "captions_train.json"
    path.write_text(path.read_text().replace(file_name(7, "train"), "../x.png"))
    message = refusal_of(load_split, tmp_path, "train2014", dataset="mine")
    assert str(path) in message
    assert "'../x.png'" in message
