"""Tables, rows by epoch and curves."""

import csv
import json

import matplotlib.figure
import pytest
from PIL import Image

from evaluation.reports import (
    CURVES,
    DrawnPanel,
    draw_curves,
    draw_learning_curves,
    flatten,
    format_metrics,
    metric_panels,
    write_history,
    write_results,
)

METRICS = {
    "heatmap": {"precision": 0.5, "true_positives": 3, "recall": None},
    "heatmap_chance": {"precision": 0.125, "true_positives": 1, "recall": 0.25},
    "concreteness": {
        "word_count": 7,
        "pearson_by_min_count": {
            "0": {"r": 0.25, "word_count": 7},
            "10": {"r": None, "word_count": 1},
        },
    },
    "word_association": None,
}


def test_table_has_every_value_and_the_chance_column_beside_it():
    lines = [line.split() for line in format_metrics(METRICS).splitlines()]
    assert ["heatmap", "value", "chance"] in lines
    assert ["precision", "0.5000", "0.1250"] in lines
    assert ["true", "positives", "3", "1"] in lines
    assert ["recall", "-", "0.2500"] in lines
    assert ["0", "0.2500", "7"] in lines
    assert ["10", "-", "1"] in lines
    assert ["word", "association:", "not", "measured"] in lines
    assert not any("heatmap_chance" in line for line in lines)


def test_flatten_keeps_undefined_values():
    flat = flatten(METRICS)
    assert flat["heatmap.recall"] is None
    assert flat["concreteness.pearson_by_min_count.10.word_count"] == 1
    assert flat["word_association"] is None


def test_history_has_a_row_per_metric_and_empty_cells_for_undefined(tmp_path):
    write_history(tmp_path / "h.csv", [{"a": 1.5, "b": None}, {"a": 2.0, "b": 0.25, "c": 3}])
    with (tmp_path / "h.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["metric", "1", "2"], ["a", "1.5", "2.0"], ["b", "", "0.25"], ["c", "", "3"]]


def test_results_refuse_nan_and_leave_nothing(tmp_path):
    parts = {"settings": {}, "data": {}, "not_measured": {}}
    with pytest.raises(ValueError, match="JSON"):
        write_results(tmp_path, "u", "m", metrics={"x": float("nan")}, **parts)
    assert not list(tmp_path.iterdir())
    path = write_results(tmp_path, "u", "m", metrics={"x": None}, **parts)
    assert path.name == "u_m.json"
    assert json.loads(path.read_text())["metrics"] == {"x": None}


@pytest.mark.parametrize("epochs", [1, 4])
def test_curves_are_drawn_with_what_there_is(tmp_path, epochs):
    history = [{"visual_loss": 1 / epoch, "text_loss": None} for epoch in range(1, epochs + 1)]
    draw_learning_curves(tmp_path / "c.png", history, "model")
    with Image.open(tmp_path / "c.png") as image:
        assert image.size[0] > 500
        assert len(image.convert("RGB").getcolors(100_000)) > 5


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are written, as they were when they were."""
    figures = []

    def keep(figure, file, **_options):
        figure.canvas.draw()
        figures.append(figure)
        file.write(b"picture")

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    return figures


def x_labels(axes) -> list[str]:
    """The labels of the ticks that can be seen."""
    low, high = axes.get_xlim()
    return [t.get_text() for t in axes.get_xticklabels() if low <= t.get_position()[0] <= high]


def test_every_panel_has_both_axis_labels_and_whole_epochs(tmp_path, drawn):
    names = [name for panel in CURVES for name in panel.metrics]
    history = [dict.fromkeys(names, value) for value in (0.5, 0.75, 0.5)]
    draw_learning_curves(tmp_path / "c.png", history, "model")
    (figure,) = drawn
    assert len(figure.axes) == len(CURVES)
    for axes in figure.axes:
        assert axes.get_ylabel()
        assert axes.get_xlabel() == "epoch"
        assert x_labels(axes) == ["1", "2", "3"]


def test_scores_of_all_words_association_and_active_clusters_are_drawn():
    history = [
        {
            "categorization.all_words.f_score": 0.25,
            "word_association.mean_association_strength": 3.5,
            "cluster_counts.active_clusters": 7,
            "text_loss": None,
        }
    ]
    panels = {panel.title: panel for panel in metric_panels(history)}
    assert {title: panel.curves for title, panel in panels.items()} == {
        "word categories (all words)": {"f score": [0.25]},
        "word association": {"word association": [3.5]},
        "clusters active for words": {"clusters active for words": [7]},
    }
    assert [title for title, panel in panels.items() if panel.is_count] == [
        "clusters active for words"
    ]


@pytest.mark.parametrize(
    ("steps", "labels"),
    [
        ([1], ["1"]),
        ([1, 2, 5, 10, 20, 28], ["1", "2", "5", "10", "20"]),
        ([1, 10, 100, 1000, 20_000], ["1", "10", "100", "1,000", "10,000"]),
    ],
)
def test_steps_stand_at_logarithms_with_plain_numbers(tmp_path, drawn, steps, labels):
    panel = DrawnPanel("p", "score", {"p": [0.5] * len(steps)})
    draw_curves(tmp_path / "c.png", steps, [panel], "t", "joint step", logarithmic=True)
    (axes,) = drawn[0].axes
    assert axes.get_xscale() == "log"
    assert x_labels(axes) == labels


def test_counts_have_whole_ticks_and_a_flat_zero_stands_at_the_bottom(tmp_path, drawn):
    panels = [
        DrawnPanel("a", "clusters", {"a": [3, 4]}, is_count=True),
        DrawnPanel("b", "share", {"x": [0.0, 0.0], "y": [None, 0.0]}),
    ]
    draw_curves(tmp_path / "c.png", [1, 2], panels, "t", "epoch")
    counts, shares = drawn[0].axes
    assert all(float(tick).is_integer() for tick in counts.get_yticks())
    assert shares.get_ylim() == (-0.05, 1)
