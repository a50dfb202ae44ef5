"""Pictures of what a model sees: what is drawn and said, and the user's own images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

import evaluation.demonstrations as demonstrations
from evaluation.demonstrations import (
    GOLD_COLOURS,
    MAX_CLUSTERS,
    NO_GOLD,
    GoldObjects,
    draw_figure,
    gold_objects,
)
from evaluation.image_evaluation import split_gold_boxes
from main import main
from tests.test_cli import fails

GOLD = GoldObjects(np.array([[12, 22, 100, 110], [150, 9, 200, 60]]), ("cat", "dog $x$"))


@pytest.fixture
def call(places):
    return [*places, "--model_name=lstm", "--workers=0"]


@pytest.fixture
def own_images(tmp_path) -> list[Path]:
    """Three plain grey images of different shapes, two of one stem."""
    files = [tmp_path / "a.png", tmp_path / "A.jpg", tmp_path / "b.png"]
    for file, size in zip(files, [(40, 30), (300, 20), (20, 300)], strict=True):
        Image.new("RGB", size, (128, 128, 128)).save(file)
    return files


def figure_of(kind, count, gold, size=(50, 80)):
    """Draw ``count`` clusters with maps of 2 x 3 cells; box k begins at column k."""
    cells = np.arange(6.0).reshape(1, 2, 3).repeat(count, axis=0)
    boxes = np.array([[k, 20, 99, 119] for k in range(count)]).reshape(-1, 4)
    peaks = np.array([[160 + k, 30] for k in range(count)]).reshape(-1, 2)
    labels = [f"cluster {k}" for k in range(count)]
    pixels = np.full((*size, 3), 200, dtype=np.uint8)
    return draw_figure(kind, pixels, labels, cells, boxes, peaks, gold)


def drawn_boxes(axes):
    """Return (left, top, width, height) -> colours and line styles, the upper last."""
    drawn = {}
    for patch in axes.patches:
        edges = (patch.get_x(), patch.get_y(), patch.get_width(), patch.get_height())
        drawn.setdefault(edges, []).append((to_hex(patch.get_edgecolor()), patch.get_linestyle()))
    return drawn


def test_box_picture_has_solid_gold_and_a_dashed_box_in_a_panel_of_its_own():
    first, second = figure_of("bbox", 1, GOLD).axes
    solid = {
        (12, 22, 89, 89): [(GOLD_COLOURS[0], "solid")],
        (150, 9, 51, 52): [(GOLD_COLOURS[1], "solid")],
    }
    assert drawn_boxes(first) == solid
    dashed = {(0, 20, 100, 100): [("#000000", "solid"), ("#ffffff", "--")]}
    assert drawn_boxes(second) == solid | dashed
    # 88 x 89 pixels of 100 x 100 + 89 x 89 - 88 x 89
    assert second.get_title() == "cluster 0\nIoU 0.78 with 1 cat"


def test_heatmap_picture_shows_the_cells_and_where_the_maximum_is():
    figure = figure_of("heatmap", 2, GOLD)
    _, panel, _ = figure.axes
    photo, map_ = panel.images
    np.testing.assert_array_equal(map_.get_array(), [[0, 1, 2], [3, 4, 5]])
    assert map_.get_interpolation() == "nearest"
    assert map_.get_extent() == photo.get_extent()
    (cross,) = panel.lines
    assert cross.get_xydata().tolist() == [[160.5, 30.5]]
    assert panel.get_title() == "cluster 0\nmaximum in 2 dog $x$"
    assert "2 x 3 cells" in figure.get_suptitle()


def test_gold_boxes_are_numbered_in_their_colours_and_named_once():
    names = ("chair", "person", "person", "person", "table, desk")
    same = [90, 9, 99, 99]
    boxes = np.array([[5, 5, 60, 60], same, same, [90, 9, 150, 99], [5, 90, 20, 99]])
    figure = figure_of("bbox", 0, GoldObjects(boxes, names))
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["1", "2", "3", "4", "5"]
    grounds = [to_hex(text.get_bbox_patch().get_facecolor()) for text in axes.texts]
    assert grounds == list(GOLD_COLOURS[:5])
    assert len({text.get_position() for text in axes.texts}) == 5  # of equal boxes, too
    assert "1 chair; 2-4 person; 5 table, desk" in figure.get_suptitle().replace("\n", " ")
    assert axes.get_title() == "image (activates no cluster)"


def test_without_gold_nothing_is_compared_and_too_many_clusters_are_said():
    figure = figure_of("heatmap", MAX_CLUSTERS + 2, NO_GOLD)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[1:] == [f"cluster {k}" for k in range(MAX_CLUSTERS)]
    assert "strongest\n11 of 13" in titles[0]
    assert "gold" not in figure.get_suptitle()


@pytest.mark.parametrize("size", [(50, 80), (20, 300)])
def test_panels_stand_close_and_texts_stay_inside(size):
    figure = figure_of("heatmap", 8, GOLD, size)
    figure.draw_without_rendering()
    images = np.array([axes.get_window_extent().extents for axes in figure.axes])  # (9, 4)
    titles = np.array([axes.title.get_window_extent().extents for axes in figure.axes])
    for upper, lower in ((0, 3), (3, 6)):
        assert -1 < images[upper, 1] - titles[lower, 3] < 60  # pixels, a hundred an inch
    note = figure._suptitle.get_window_extent().extents
    texts = np.vstack([titles, note])
    assert texts.min() > -1
    assert (texts[:, 2:].max(axis=0) < [figure.bbox.width + 1, figure.bbox.height + 1]).all()


def test_gold_objects_are_the_images_own_by_class(test_split):
    instances = test_split.instances
    for image, expected in enumerate(split_gold_boxes(test_split)):
        gold = gold_objects(test_split, image)
        classes = instances.class_index[instances.image == image]
        names = [instances.class_names[k] for k in classes]
        order = sorted(range(len(names)), key=names.__getitem__)
        assert gold.class_names == tuple(names[k] for k in order)
        np.testing.assert_array_equal(gold.boxes, expected[order])
    assert gold_objects(replace(test_split, instances=None), 0) == NO_GOLD


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
    assert set(gold.class_names) == {names[0], f"{names[1]}, {names[2]}"}


@pytest.mark.parametrize("kind", ["heatmap", "bbox"])
def test_each_picture_has_its_images_clusters_the_strongest_first(
    call, test_split, tmp_path, monkeypatch, kind
):
    drawn = []
    monkeypatch.setattr(
        demonstrations, "draw_figure", lambda *parts: drawn.append(parts) or draw_figure(*parts)
    )
    options = ["--num_items=3", "--seed=1", "--visual_threshold=-1000"]
    assert main([*call, f"--utility={kind}_demonstration", *options]) == 0
    folder = tmp_path / "lstm" / f"{kind}_demonstration"
    assert len(drawn) == 3 == len(list(folder.glob("*.png")))
    orders = set()
    for _, pixels, labels, *_, gold in drawn:
        (image,) = [
            image
            for image in range(len(test_split.image_ids))
            if np.array_equal(pixels, Image.open(test_split.path(image)).convert("RGB"))
        ]
        assert (folder / f"{test_split.image_ids[image]}.png").is_file()
        assert gold.class_names == gold_objects(test_split, image).class_names
        numbers = [label.split()[1].rstrip(":") for label in labels]
        assert len(set(numbers)) == 20
        orders.add(tuple(numbers))
    assert len(orders) > 1  # not the clusters' own order
    assert any("(" in label for label in labels)  # words
    # each of the 15 single-word class names is of one cluster
    parts = [label.partition(" (")[0].partition(": ")[2] for label in labels]
    assert sum(len(part.split(", ")) for part in parts if part) == 15


def test_own_images_need_no_data_and_have_a_folder_of_their_own(call, own_images, tmp_path, capsys):
    call += ["--utility=bbox_demonstration", f"--datasets_dir={tmp_path / 'nowhere'}"]
    assert main([*call, "--images", *map(str, own_images)]) == 0
    folder = tmp_path / "lstm" / "bbox_demonstration" / "own_images"
    assert {path.name for path in folder.iterdir()} == {"1_a.png", "2_A.png", "3_b.png"}
    printed = capsys.readouterr().out
    assert "without class names" in printed
    assert str(folder) in printed


def test_own_images_that_are_none_leave_nothing(call, own_images, tmp_path, capsys):
    bad = tmp_path / "text.png"
    bad.write_text("no image")
    call += ["--utility=heatmap_demonstration", "--images", str(own_images[0]), str(bad)]
    fails(capsys, *call, mentions=str(bad))
    assert not (tmp_path / "lstm").exists()


@pytest.mark.parametrize("has_viewer", [True, False])
def test_show_opens_all_pictures_or_says_so(call, own_images, monkeypatch, capsys, has_viewer):
    shown = []
    monkeypatch.setattr(
        "PIL.ImageShow.show", lambda _picture, title: shown.append(title) or has_viewer
    )
    call += ["--utility=bbox_demonstration", "--show", "--images", *map(str, own_images)]
    assert main(call) == 0
    names = [Path(title).name for title in shown]
    assert names == (["1_a.png", "2_A.png", "3_b.png"] if has_viewer else ["1_a.png"])
    assert ("see the files" in "".join(capsys.readouterr())) != has_viewer
