"""Pictures of what a model sees: labels, their places, what is drawn, and the user's own images."""

from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image

import evaluation.demonstrations as demonstrations
from datasets_src.datasets import load_split
from datasets_src.pairs import ImageFiles
from evaluation.demonstrations import (
    GOLD_COLOUR,
    LABEL_WIDTH,
    MAX_BOXES,
    PREDICTED_COLOURS,
    ClusterLabel,
    GoldObjects,
    choose_images,
    cluster_labels,
    draw_demonstrations,
    gold_objects,
    grid_shape,
    picture_names,
    place_labels,
    text_colour,
)
from evaluation.image_evaluation import VisualModel, image_logits, split_gold_boxes
from main import main
from models_src.visual_encoders import VisualEncoder
from tests.test_cli import fails


@pytest.fixture(scope="module")
def test_split(demo_data):
    return load_split(demo_data, "val2014", with_instances=True)


@pytest.fixture
def places(trained, tmp_path):
    """Options for the trained models, with results of the test's own and no data."""
    return [
        "--model_name=lstm",
        f"--models_dir={trained / 'models'}",
        f"--results_dir={tmp_path / 'results'}",
        "--workers=0",
    ]


@pytest.fixture
def own_images(tmp_path) -> list[Path]:
    """Three plain grey images of different shapes, two of one stem."""
    files = [tmp_path / "a.png", tmp_path / "other" / "a.jpg", tmp_path / "b.png"]
    files[1].parent.mkdir()
    for file, size in zip(files, [(40, 30), (300, 20), (20, 300)], strict=True):
        Image.new("RGB", size, (128, 128, 128)).save(file)
    return files


def one_spot(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """Return a map whose box has these inclusive edges."""
    map_ = np.zeros((224, 224))
    map_[top : bottom + 1, left : right + 1] = 1
    return map_


def pixels_of_colour(file: Path, colour: str) -> int:
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB"))
    return int((pixels == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=-1).sum())


def test_labels_name_classes_and_top_words():
    labels = cluster_labels([["the"], ["puppy", "dog", "hound", "cur"], []], ["dog", "cat"],
                            np.array([1, -1]))  # fmt: skip
    assert [label.full() for label in labels] == [
        "cluster 0 (the)",
        "cluster 1: dog (puppy, dog, hound)",
        "cluster 2",
    ]
    assert [label.short() for label in labels] == ["0 (the)", "1: dog", "2"]


def test_a_label_at_a_box_is_cut_to_its_width():
    names = tuple(f"class{k}" for k in range(20))
    text = ClusterLabel(7, names, ()).short()
    assert len(text) == LABEL_WIDTH
    assert text.startswith("7: class0, class1")
    assert text.endswith("…")


def test_chosen_images_are_seeded_and_at_most_all(test_split):
    first = choose_images(test_split, 4, seed=1)
    assert first.tolist() == choose_images(test_split, 4, seed=1).tolist()
    assert first.tolist() == sorted(set(first.tolist()))
    assert len(choose_images(test_split, 10_000, seed=1)) == len(test_split.image_ids)


def test_picture_names_are_unique():
    files = [Path(name) for name in ("a.png", "x/a.jpg", "A.gif", "a_2.png", "b.c.png", "a")]
    assert picture_names(files) == [
        "a.png",
        "a_2.png",
        "A_3.png",
        "a_2_2.png",
        "b.c.png",
        "a_4.png",
    ]


def test_gold_objects_are_the_images_own(test_split):
    instances = test_split.instances
    expected_boxes = split_gold_boxes(test_split)
    for image in range(len(test_split.image_ids)):
        gold = gold_objects(test_split, image)
        np.testing.assert_array_equal(gold.boxes, expected_boxes[image])
        names = [
            instances.class_names[instances.class_index[k]]
            for k in range(len(instances.image))
            if instances.image[k] == image
        ]
        assert list(gold.class_names) == names
    assert gold_objects(replace(test_split, instances=None), 0) is None


def test_a_box_of_several_classes_is_one_gold_object(test_split):
    instances = replace(
        test_split.instances,
        image=np.array([0, 0, 0]),
        class_index=np.array([0, 1, 2]),
        boxes=np.array([[0.0, 0, 9, 9], [4, 4, 20, 20], [4, 4, 20, 20]]),
        has_own_box=np.array([True, True, False]),
    )
    gold = gold_objects(replace(test_split, instances=instances), 0)
    names = instances.class_names
    assert len(gold.boxes) == 2
    assert gold.class_names == (names[0], f"{names[1]}, {names[2]}")


def overlaps(first: np.ndarray, second: np.ndarray, sizes: np.ndarray, i: int, j: int) -> bool:
    """Say whether labels i and j at two corners cover common ground."""
    start = np.maximum(first, second)
    end = np.minimum(first + sizes[i], second + sizes[j])
    return bool((end - start > 1e-6).all())


def test_places_of_labels_by_hand():
    area = (0, 0, 100, 100)
    size = np.array([[30, 10]])
    # above the box; inside at the upper edge; shifted left at the right edge
    assert place_labels(np.array([[20, 40, 60, 80]]), size, area).tolist() == [[20, 30]]
    assert place_labels(np.array([[20, 0, 60, 80]]), size, area).tolist() == [[20, 0]]
    assert place_labels(np.array([[90, 40, 100, 80]]), size, area).tolist() == [[70, 30]]
    # the second of two equal boxes has its label at the right edge, the third inside
    boxes = np.array([[10, 40, 90, 80]] * 3)
    found = place_labels(boxes, np.repeat(size, 3, axis=0), area)
    assert found.tolist() == [[10, 30], [60, 30], [10, 40]]
    # wider than the area: cut at the right, not at the left
    assert place_labels(np.array([[50, 50, 60, 60]]), np.array([[200, 10]]), area)[0, 0] == 0
    assert place_labels(np.zeros((0, 4)), np.zeros((0, 2)), area).shape == (0, 2)


@pytest.mark.parametrize("seed", range(5))
def test_labels_stay_inside_and_apart_where_there_is_room(seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 500, size=(12, 2, 2))
    boxes = np.hstack([corners.min(axis=1), corners.max(axis=1)])
    boxes[:4] = [0, 0, 500, 500]  # several that cover everything
    sizes = np.column_stack([rng.uniform(20, 120, 12), np.full(12, 15)])
    found = place_labels(boxes, sizes, (0, 0, 500, 500))
    assert (found >= 0).all()
    assert (found + sizes <= 500 + 1e-9).all()
    for i in range(12):
        for j in range(i):
            assert not overlaps(found[i], found[j], sizes, i, j)


def test_words_without_letters_are_quoted():
    label = ClusterLabel(3, (), (",", "dog", '"'))
    assert label.full() == 'cluster 3 (",", dog, \'"\')'
    assert label.short() == '3 (",", dog, \'"\')'
    assert ClusterLabel(3, (), ("50", "'s")).full() == "cluster 3 (50, 's)"


def test_box_colours_differ_and_their_texts_can_be_read():
    def luminance(colour: str) -> float:
        values = np.array([*to_rgb(colour)])
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    assert len(PREDICTED_COLOURS) == MAX_BOXES == 8
    for colour in (*PREDICTED_COLOURS, GOLD_COLOUR):
        low, high = sorted([luminance(colour), luminance(text_colour(colour))])
        assert (high + 0.05) / (low + 0.05) >= 4.5, colour
        others = [to_rgb(c) for c in (*PREDICTED_COLOURS, GOLD_COLOUR) if c != colour]
        assert np.abs(np.array(others) - to_rgb(colour)).sum(axis=1).min() > 0.4, colour


def test_box_picture_has_a_dashed_box_of_each_colour_and_solid_gold():
    maps = np.stack([one_spot(10, 20, 99, 119), one_spot(0, 0, 223, 223), one_spot(200, 3, 220, 9)])
    labels = [
        ClusterLabel(4, ("dog", "cat"), ("puppy",)),
        ClusterLabel(7, (), ("sky", "blue")),
        ClusterLabel(9, (), ()),
    ]
    gold = GoldObjects(np.array([[12, 22, 100, 110]]), ("dog $x$",))
    figure = demonstrations._box_figure(np.zeros((50, 80, 3), dtype=np.uint8), maps, labels, gold)
    axes = figure.axes[0]
    drawn = {}
    for patch in axes.patches:
        edges = (patch.get_x(), patch.get_y(), patch.get_width(), patch.get_height())
        drawn[edges] = (to_hex(patch.get_edgecolor()), patch.get_linestyle())
    assert drawn == {
        (10, 20, 90, 100): (PREDICTED_COLOURS[0], "--"),
        (0, 0, 224, 224): (PREDICTED_COLOURS[1], "--"),
        (200, 3, 21, 7): (PREDICTED_COLOURS[2], "--"),
        (12, 22, 89, 89): (GOLD_COLOUR, "-"),
    }
    grounds = {
        text.get_text(): to_hex(text.get_bbox_patch().get_facecolor()) for text in figure.texts
    }
    assert grounds == {
        "4: dog, cat": PREDICTED_COLOURS[0],
        "7 (sky, blue)": PREDICTED_COLOURS[1],
        "9": PREDICTED_COLOURS[2],
        "dog $x$": GOLD_COLOUR,
    }
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    for text in figure.texts:
        extent = text.get_bbox_patch().get_window_extent(renderer)
        assert extent.x0 > -1 and extent.y0 > -1
        assert extent.x1 < figure.bbox.width + 1
        # the strip above the image is the legend's
        assert extent.y1 < figure.bbox.height * axes.get_position(original=True).y1 + 1
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(legend) == 2
    assert legend[1] == "gold"


def test_a_label_stands_at_its_box():
    label = ClusterLabel(4, ("dog",), ())
    maps = one_spot(60, 100, 150, 180)[None]
    figure = demonstrations._box_figure(np.zeros((70, 70, 3), dtype=np.uint8), maps, [label], None)
    figure.canvas.draw()
    extent = figure.texts[0].get_bbox_patch().get_window_extent(figure.canvas.get_renderer())
    x, y = figure.axes[0].transData.transform((60, 100))  # the box's upper left corner
    assert extent.x0 == pytest.approx(x, abs=2)
    assert extent.y0 == pytest.approx(y, abs=2)  # the label is right above it


@pytest.mark.parametrize(
    ("count", "note"),
    [
        (0, "the image activates no cluster"),
        (MAX_BOXES, ""),
        (MAX_BOXES + 3, "11 boxes are predicted; those of the strongest 8 clusters are drawn"),
    ],
)
def test_no_box_and_too_many_boxes_are_said(count, note):
    maps = np.repeat(one_spot(5, 5, 50, 50)[None], count, axis=0)
    labels = [ClusterLabel(k, (), ()) for k in range(count)]
    pixels = np.zeros((50, 50, 3), dtype=np.uint8)
    figure = demonstrations._box_figure(pixels, maps, labels, None)
    assert figure.legends[0].get_title().get_text() == note
    assert len(figure.texts) == min(count, MAX_BOXES)


def test_heatmap_titles_have_number_class_names_and_words():
    maps = np.stack([one_spot(10, 20, 99, 119)] * 2)
    labels = [ClusterLabel(4, ("dog",), ("puppy", "cur")), ClusterLabel(5, ("x" * 9,) * 60, ())]
    pixels = np.zeros((50, 80, 3), dtype=np.uint8)
    titles = [a.get_title() for a in demonstrations._heatmap_figure(pixels, maps, labels).axes]
    assert titles[:2] == ["image", "cluster 4: dog (puppy, cur)"]
    assert titles[2].count("\n") == demonstrations.TITLE_LINES - 1


def test_panels_leave_at_most_one_place_empty():
    assert [grid_shape(panels) for panels in (1, 4, 5, 6, 9, 10, 12)] == [
        (1, 1), (1, 4), (1, 5), (2, 3), (3, 3), (2, 5), (3, 4),
    ]  # fmt: skip
    for panels in range(1, demonstrations.MAX_PANELS + 2):
        rows, columns = grid_shape(panels)
        assert columns <= 5
        assert 0 <= rows * columns - panels <= 1


@pytest.mark.parametrize("size", [(50, 80), (20, 300), (80, 80), (300, 120)])
def test_heatmap_rows_stand_close_and_titles_stay_inside(size):
    labels = [ClusterLabel(k, ("dog",), ("puppy", "cur")) for k in range(8)]
    maps = np.stack([one_spot(10, 20, 99, 119)] * 8)
    figure = demonstrations._heatmap_figure(np.zeros((*size, 3), dtype=np.uint8), maps, labels)
    figure.draw_without_rendering()
    images = np.array([axes.get_window_extent().extents for axes in figure.axes])  # (9, 4)
    titles = np.array([axes.title.get_window_extent().extents for axes in figure.axes])
    for upper, lower in ((0, 3), (3, 6)):
        gap = images[upper, 1] - titles[lower, 3]  # pixels, a hundred an inch
        assert -1 < gap < 45
    assert titles.min() > -1
    assert titles[:, 3].max() < figure.bbox.height + 1
    assert titles[:, 2].max() < figure.bbox.width + 1


def test_each_image_is_drawn_with_its_own_clusters_the_strongest_first(
    test_split, tmp_path, monkeypatch
):
    torch.manual_seed(0)
    model = VisualModel(VisualEncoder("resnet18", 6).eval(), 0.0, 48, 3, 0, "cpu")
    images = np.array([1, 4, 5, 9])
    drawn = []

    def record(pixels, maps, labels, gold):
        drawn.append((pixels.shape, [label.cluster for label in labels], len(maps), gold))
        return Figure()

    monkeypatch.setattr(demonstrations, "_box_figure", record)
    golds = [gold_objects(test_split, int(image)) for image in images]
    labels = [ClusterLabel(k, (), ()) for k in range(6)]
    files = [tmp_path / f"{image}.png" for image in images]
    draw_demonstrations("bbox", model, test_split, images, golds, labels, files)
    source = ImageFiles(tuple(test_split.path(int(image)) for image in images))
    logits = image_logits(model, source, 4)
    assert sum(len(clusters) for _, clusters, _, _ in drawn) > 0
    for position, (shape, clusters, map_count, gold) in enumerate(drawn):
        order = np.argsort(-logits[position], kind="stable")
        assert clusters == [k for k in order if logits[position, k] >= 0]
        assert map_count == len(clusters)
        assert gold is golds[position]
        width, height = Image.open(source.files[position]).size
        assert shape == (height, width, 3)
    assert all(file.is_file() for file in files)


@pytest.mark.parametrize("kind", ["heatmap", "bbox"])
def test_own_images_need_no_data_folder(places, own_images, tmp_path, capsys, kind):
    utility = f"{kind}_demonstration"
    assert (
        main(
            [
                f"--utility={utility}",
                f"--datasets_dir={tmp_path / 'nowhere'}",
                "--visual_threshold=-1000",
                "--images",
                *map(str, own_images),
                *places,
            ]
        )
        == 0
    )
    folder = tmp_path / "results" / "lstm" / utility / "own_images"
    assert {path.name for path in folder.iterdir()} == {"a.png", "a_2.png", "b.png"}
    printed = capsys.readouterr().out
    assert "without class names" in printed
    assert f"3 pictures: {folder}" in printed
    if kind == "bbox":
        for picture in folder.iterdir():
            assert pixels_of_colour(picture, PREDICTED_COLOURS[0]) > 100
            assert pixels_of_colour(picture, GOLD_COLOUR) == 0


def test_test_images_have_gold_boxes(places, demo_data, tmp_path):
    chosen = ["--num_items=2", "--visual_threshold=-1000"]
    data = f"--datasets_dir={demo_data}"
    assert main(["--utility=bbox_demonstration", data, *chosen, *places]) == 0
    pictures = list((tmp_path / "results" / "lstm" / "bbox_demonstration").iterdir())
    assert len(pictures) == 2
    for picture in pictures:
        assert pixels_of_colour(picture, PREDICTED_COLOURS[0]) > 100
        assert pixels_of_colour(picture, GOLD_COLOUR) > 100


def test_labels_of_own_images_with_and_without_data(
    places, own_images, demo_data, tmp_path, monkeypatch
):
    found = []
    monkeypatch.setattr(
        demonstrations, "draw_demonstrations", lambda *arguments: found.append(arguments[5])
    )
    for folder in (demo_data, tmp_path / "nowhere"):
        call = ["--utility=bbox_demonstration", f"--datasets_dir={folder}", *places]
        assert main([*call, "--images", str(own_images[0])]) == 0
    with_data, without = found
    assert sum(len(label.class_names) for label in with_data) == 15  # every class name is known
    assert not any(label.class_names for label in without)
    # the words are the model's, with data or without
    assert [label.words for label in with_data] == [label.words for label in without]
    assert any(label.words for label in without)


@pytest.mark.parametrize("choice", ["--num_items=3", "--seed=1"])
def test_own_images_exclude_a_choice_of_test_images(places, own_images, tmp_path, capsys, choice):
    call = ["--utility=bbox_demonstration", "--images", str(own_images[0]), choice, *places]
    fails(capsys, *call, mentions="--images")
    assert not (tmp_path / "results" / "lstm").exists()


def test_own_images_that_are_none_leave_nothing(places, own_images, tmp_path, capsys):
    (tmp_path / "text.png").write_text("no image")
    broken = tmp_path / "broken.png"
    broken.write_bytes(own_images[0].read_bytes()[:60])
    for bad in (tmp_path / "absent.png", tmp_path / "text.png", broken, tmp_path / "other"):
        call = ["--utility=heatmap_demonstration", "--images", str(own_images[0]), str(bad)]
        fails(capsys, *call, *places, mentions=str(bad))
    assert not (tmp_path / "results" / "lstm").exists()


def test_show_without_a_display_is_told_before_the_work(places, own_images, tmp_path, capsys):
    before = matplotlib.get_backend()
    matplotlib.use("agg")
    try:
        call = ["--utility=bbox_demonstration", "--images", str(tmp_path / "absent.png"), "--show"]
        fails(capsys, *call, *places, mentions="--show")
    finally:
        matplotlib.use(before)
    assert not (tmp_path / "results" / "lstm").exists()


def test_show_with_a_backend_that_fails_is_one_line(places, own_images, monkeypatch, capsys):
    def fail(backend):
        raise ImportError("Cannot load backend 'TkAgg'; no\ndisplay")

    monkeypatch.setattr(matplotlib, "get_backend", lambda: "tkagg")
    monkeypatch.setattr(pyplot, "switch_backend", fail)
    call = ["--utility=bbox_demonstration", "--images", str(own_images[0]), "--show"]
    fails(capsys, *call, *places, mentions="TkAgg")


def test_show_opens_all_pictures_and_waits(places, own_images, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(matplotlib, "get_backend", lambda: "tkagg")
    monkeypatch.setattr(pyplot, "switch_backend", lambda backend: None)
    monkeypatch.setattr(pyplot, "show", lambda block: shown.append((pyplot.get_figlabels(), block)))
    call = ["--utility=bbox_demonstration", f"--datasets_dir={tmp_path}", "--show", "--images"]
    try:
        assert main([*call, *map(str, own_images), *places]) == 0
    finally:
        pyplot.close("all")
    folder = tmp_path / "results" / "lstm" / "bbox_demonstration" / "own_images"
    expected = [str(folder / name) for name in ("a.png", "a_2.png", "b.png")]
    assert shown == [(expected, True)]


def test_own_images_do_not_take_the_place_of_test_images(
    places, demo_data, own_images, test_split, tmp_path
):
    call = ["--utility=bbox_demonstration", f"--datasets_dir={demo_data}", *places]
    assert main([*call, "--num_items=1000"]) == 0
    folder = tmp_path / "results" / "lstm" / "bbox_demonstration"
    before = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    named_alike = tmp_path / next(iter(before))
    named_alike.write_bytes(own_images[0].read_bytes())
    assert main([*call, "--images", str(named_alike)]) == 0
    assert {path.name: path.read_bytes() for path in folder.glob("*.png")} == before
