"""Flickr30k's own layout, with and without the boxes of Entities."""

import pytest
from PIL import Image

from datasets_src.datasets import load_split
from datasets_src.filtering import FILTER_FILE, filter_images, load_filtered_split
from datasets_src.flickr30k import CAPTION_FILE, CHAIN_TYPES
from datasets_src.splits import SPLITS
from evaluation.image_evaluation import split_gold_boxes
from main import main
from tests.conftest import TINY, dirs, results_of
from tests.test_coco import found_instances, refusal_of, rows_of
from utils.files import sha256_of_file

TRAIN, TEST = SPLITS
# image id -> (width, height, mode)
IMAGES = {
    900: (60, 40, "RGB"),
    36: (50, 70, "RGB"),
    5000000000: (30, 30, "L"),
    12: (20, 20, "RGB"),
    13: (20, 20, "RGB"),
}
LISTS = {"train": [5000000000, 900, 36], "val": [], "test": [13, 12]}
CAPTIONS = [
    (900, "Two young guys look at their hands ."),
    (900, "A man\u2019s hat"),
    (12, "A dog ."),
    (36, ""),
    (5000000000, "a #1\ttab"),
    (36, "the street"),
    (13, "A cat ."),
]


def obj(chains, *boxes, more=""):
    """Return an object of an annotation, with boxes (xmin, ymin, xmax, ymax)."""
    names = "".join(f"<name>{chain}</name>" for chain in chains)
    form = "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"
    edges = "".join(f"<bndbox>{form.format(*box)}</bndbox>" for box in boxes)
    return f"<object>{names}{edges}{more}</object>"


OBJECTS = {
    900: [
        obj([1], (1, 2, 10, 20)),
        obj([2, 1], (11, 1, 11, 1)),  # one pixel, of two chains
        obj([3], more="<scene>1</scene><nobndbox>0</nobndbox>"),
        obj([4], more="<scene>0</scene><nobndbox>1</nobndbox>"),
        obj([0], (1, 1, 5, 5)),  # not visual
        obj([7], (1, 1, 5, 5)),  # without type
        obj([8], (1, 1, 5, 5)),  # in no caption
    ],
    36: [obj([5], (3, 4, 50, 70), (1, 1, 2, 2))],
    5000000000: [],
    12: [obj([9], (2, 2, 3, 3))],
    13: [obj([9], (2, 2, 3, 3))],
}
PHRASES = {
    900: "[/EN#1/people Two young guys] look at [/EN#2/clothing/other their hats] in "
    "[/EN#3/scene a park] with [/EN#4/other rain] , [/EN#0/notvisual which] [/EN#7 thing] is .\n"
    "[/EN#2/clothing Hats] [and] brackets\n",
    36: "[/EN#5/scene the street]\n\n",
    5000000000: "a photograph\n",
    12: "[/EN#9/animals A dog] .",
    13: "[/EN#9/animals A cat] .",
}
EXPECTED = [  # image id, class, [x, y, width, height]
    (36, "scene", [2, 3, 48, 67]),
    (36, "scene", [0, 0, 2, 2]),
    (900, "people", [0, 1, 10, 19]),
    (900, "clothing", [10, 0, 1, 1]),
    (900, "other", [10, 0, 1, 1]),
    (900, "people", [10, 0, 1, 1]),
]


def annotation(width, height, objects):
    return (
        f"<annotation><filename>x.jpg</filename><size><width>{width}</width><height>{height}"
        f"</height><depth>3</depth></size>{''.join(objects)}</annotation>"
    )


def write_flickr30k(folder, entities=True, image_folder="flickr30k-images"):
    (folder / image_folder).mkdir(parents=True)
    for image_id, (width, height, mode) in IMAGES.items():
        picture = Image.new(mode, (width, height))
        picture.save(folder / image_folder / f"{image_id}.jpg")
    for name, ids in LISTS.items():
        (folder / f"{name}.txt").write_text("".join(f"{image_id}\n" for image_id in ids))
    lines = [f"{image_id}.jpg#{n}\t{text}\n" for n, (image_id, text) in enumerate(CAPTIONS)]
    (folder / CAPTION_FILE).write_text("".join(lines), encoding="utf-8")
    if entities:
        (folder / "Annotations").mkdir()
        (folder / "Sentences").mkdir()
        for image_id, (width, height, _) in IMAGES.items():
            text = annotation(width, height, OBJECTS[image_id])
            (folder / "Annotations" / f"{image_id}.xml").write_text(text)
            (folder / "Sentences" / f"{image_id}.txt").write_text(PHRASES[image_id])
    return folder


@pytest.fixture
def flickr(tmp_path):
    return write_flickr30k(tmp_path / "flickr30k")


def load(folder, split=TRAIN, with_instances=True):
    return load_split(folder.parent, split, with_instances=with_instances, dataset="flickr30k")


def load_filtered(folder, with_instances=False):
    return load_filtered_split(
        folder.parent, TRAIN, use_all_images=False, with_instances=with_instances,
        dataset="flickr30k",
    )  # fmt: skip


@pytest.mark.parametrize("with_instances", [False, True])
@pytest.mark.parametrize(("entities", "place"), [(True, "flickr30k-images"), (False, "images")])
def test_images_and_captions_are_read(tmp_path, entities, with_instances, place):
    folder = write_flickr30k(tmp_path / "flickr30k", entities, place)
    split = load(folder, TRAIN, with_instances)
    assert split.name == "train"
    assert split.image_ids.tolist() == [36, 900, 5000000000]
    assert split.file_names.tolist() == ["36.jpg", "900.jpg", "5000000000.jpg"]
    known = entities and with_instances
    assert split.sizes.tolist() == ([[50, 70], [60, 40], [30, 30]] if known else [[0, 0]] * 3)
    assert split.folder == folder / place
    _, captions, _ = rows_of(split)
    assert captions == [row for row in CAPTIONS if row[0] not in (12, 13)]
    assert (split.instances is not None) == known
    test = load(folder, TEST, with_instances)
    assert test.name == "test"
    assert test.image_ids.tolist() == [12, 13]
    assert test.captions == ("A dog .", "A cat .")


def test_each_box_of_each_chain_is_an_instance_of_each_type(flickr):
    split = load(flickr)
    assert found_instances(split) == EXPECTED
    assert split.instances.class_names == CHAIN_TYPES


def test_box_of_several_chains_and_types_or_drawn_twice_is_one_gold_box(flickr):
    objects = [obj([1], (1, 1, 10, 10)), obj([2], (2, 1, 10, 10)), obj([3, 1], (1, 1, 10, 10))]
    (flickr / "test.txt").write_text("12\n")
    (flickr / "Annotations" / "12.xml").write_text(annotation(20, 20, objects))
    (flickr / "Sentences" / "12.txt").write_text(
        "[/EN#1/people A man] in [/EN#2/clothing a hat] and [/EN#3/clothing/people others]\n"
    )
    split = load(flickr, TEST)
    first, second = [0, 0, 10, 10], [1, 0, 9, 10]
    expected = [(12, "people", first), (12, "clothing", second), (12, "clothing", first)]
    assert found_instances(split) == expected
    assert split.instances.has_own_box.tolist() == [True, True, False]
    (gold,) = split_gold_boxes(split)
    assert gold.tolist() == [[0, 0, 112, 112], [11, 0, 112, 112]]


def test_split_whose_chains_have_no_box_has_no_instances(flickr):
    for path in (flickr / "Sentences").iterdir():
        path.write_text("[/EN#9/notvisual A dog] .\n")
    split = load(flickr, TEST)
    assert split.instances is None
    assert split.sizes.tolist() == [[20, 20]] * 2
    for path in (flickr / "Annotations").iterdir():  # read only when asked for
        path.write_text("nonsense")
    assert load(flickr, with_instances=False).instances is None


def test_windows_line_ends_and_blank_lines_do_not_matter(flickr):
    expected = load(flickr)
    for path in (flickr / "train.txt", flickr / CAPTION_FILE, flickr / "Sentences" / "900.txt"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert rows_of(load(flickr)) == rows_of(expected)


def test_images_without_caption_are_kept_with_a_warning(flickr, caplog):
    path = flickr / CAPTION_FILE
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    assert load(flickr).image_ids.tolist() == [36, 900, 5000000000]
    assert "images of train.txt without caption: 2" in caplog.text


LIST, PHRASE_FILE, BOX_FILE = "train.txt", "Sentences/36.txt", "Annotations/36.xml"
OF_ENTITIES = (LIST, PHRASE_FILE, BOX_FILE)


@pytest.mark.parametrize("name", [*OF_ENTITIES, CAPTION_FILE, "flickr30k-images"])
def test_missing_file_or_image_folder_is_refused_by_name(flickr, name):
    (flickr / name).rename(flickr / "elsewhere")
    message = refusal_of(load, flickr)
    assert str(flickr / name) in message
    assert ("flickr30k_entities" in message) == (name in OF_ENTITIES)


@pytest.mark.parametrize(
    ("name", "old", "new"),  # without old text, the new is the second line
    [
        (LIST, None, "36.png"),
        (LIST, None, "-36"),
        (LIST, None, "9" * 30),
        (CAPTION_FILE, None, "36.jpg#0 no tab"),
        (CAPTION_FILE, None, "36.jpg\tno number"),
        (CAPTION_FILE, None, "\u0663\u0666.jpg#0\tother digits"),
        (PHRASE_FILE, None, "[/EN#x/people A man]"),
        (PHRASE_FILE, None, "[/EN#5/people"),
        (PHRASE_FILE, None, "[/EN#5/robots A robot]"),
        (PHRASE_FILE, None, f"[/EN#{'9' * 5000}/people A man]"),
        (BOX_FILE, "</annotation>", ""),
        (BOX_FILE, "<width>50</width>", ""),
        (BOX_FILE, "<width>50</width>", "<width>0</width>"),
        (BOX_FILE, "<name>5</name>", "<name>dog</name>"),
        (BOX_FILE, "<xmin>3</xmin>", ""),
        (BOX_FILE, "<xmin>3</xmin>", "<xmin>51</xmin>"),  # right of xmax
    ],
)
def test_malformed_file_is_refused_by_name_and_line(flickr, name, old, new):
    path = flickr / name
    text = path.read_text()
    assert old is None or old in text
    text = f"{text.splitlines()[0]}\n{new}\n" if old is None else text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    assert (f"{path} line 2" if old is None else str(path)) in refusal_of(load, flickr)


def test_filter_drops_grayscale_images_and_those_without_box(flickr):
    results = filter_images(flickr.parent, dataset="flickr30k")
    assert {name: result["dropped"] for name, result in results.items()} == {
        "train": {"no_instances": [5000000000], "grayscale": [], "multi_word_category": []},
        "test": {"no_instances": [], "grayscale": [], "multi_word_category": []},
    }
    assert (flickr / FILTER_FILE).is_file()
    split = load_filtered(flickr)
    assert split.filtered is True
    assert split.image_ids.tolist() == [36, 900]


@pytest.mark.parametrize(
    "name", [CAPTION_FILE, "train.txt", "Annotations/900.xml", "Sentences/900.txt"]
)
def test_filter_of_other_files_is_noticed(flickr, name):
    filter_images(flickr.parent, dataset="flickr30k")
    path = flickr / name
    changed = {"train.txt": "36\n900\n", CAPTION_FILE: path.read_text().replace("Two", "Six")}
    path.write_text(changed.get(name, path.read_text() + " "))
    assert str(flickr / FILTER_FILE) in refusal_of(load_filtered, flickr, with_instances=True)


def test_filter_ties_to_names_and_sizes_of_entities_files_and_reads_none(flickr, monkeypatch):
    """There are some 60,000 of them, and text utilities need none."""
    filter_images(flickr.parent, dataset="flickr30k")
    hashed = []
    monkeypatch.setattr(
        "datasets_src.filtering.sha256_of_file",
        lambda path: hashed.append(path.name) or sha256_of_file(path),
    )
    path = flickr / "Sentences" / "900.txt"
    path.write_text(path.read_text().replace("/scene", "/other"))  # of the same size
    assert load_filtered(flickr).filtered is True
    assert hashed == [CAPTION_FILE, "train.txt"]


def test_filter_of_captions_alone_is_refused(tmp_path):
    folder = write_flickr30k(tmp_path / "flickr30k", entities=False)
    message = refusal_of(filter_images, tmp_path, dataset="flickr30k")
    assert str(folder / "Annotations") in message
    assert "needs no setup" in message


def test_flickr30k_is_filtered_trained_and_evaluated(flickr, tmp_path):
    places = [*dirs(tmp_path, tmp_path / "models", tmp_path), "--dataset=flickr30k"]
    assert main(["--utility=filter_unwanted_coco_images", *places]) == 0
    assert main([*TINY, "--epochs=1", "--text_encoder=generative", *places]) == 0
    assert main(["--utility=visual_evaluation", "--workers=0", *places]) == 0
    results = results_of(tmp_path, "visual_evaluation", "model1")
    assert results["data"]["filtered"] is True
    assert results["metrics"]["sentence_image_matching"]["trial_count"] == 2
    assert results["metrics"]["heatmap"] is not None
    scores = results["metrics"]["class_name_classification"]
    counts = [count for name, count in scores.items() if name.endswith("tives")]
    assert sum(counts) == 2 * len(CHAIN_TYPES)
