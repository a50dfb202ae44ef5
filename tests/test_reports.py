"""Tables, rows by epoch and curves."""

import json
from argparse import Namespace

import matplotlib.figure
import pytest

from evaluation.reports import (
    COUNT,
    CURVES,
    Panel,
    draw_curves,
    draw_learning_curves,
    format_metrics,
    metric_panels,
    read_history,
    write_history,
)
from evaluation.results import save_results

BY_COUNT = {"0": {"r": 0.25, "word_count": 7}, "10": {"r": None, "word_count": 1}}
METRICS = {
    "heatmap": {"precision": 0.5, "true_positives": 3, "recall": None},
    "heatmap_chance": {"precision": 0.125, "true_positives": 1, "recall": 0.25},
    "concreteness": {"word_count": 7, "pearson_by_min_count": BY_COUNT},
    "word_association": None,
}


def test_table_has_every_value_and_the_chance_column_beside_it():
    lines = [line.split() for line in format_metrics(METRICS).splitlines()]
    assert ["heatmap", "value", "chance"] in lines
    assert ["precision", "0.5000", "0.1250"] in lines
    assert ["recall", "-", "0.2500"] in lines
    assert ["0", "0.2500", "7"] in lines
    assert ["word", "association:", "not", "measured"] in lines
    assert not any("heatmap_chance" in line for line in lines)


def test_the_figures_that_matter_come_first_with_their_chance():
    metrics = {
        "heatmap": {"f1": 0.5, "precision": 0.4},
        "heatmap_equal_guess_chance": {"f1": 0.25, "precision": 0.2},
        "heatmap_chance": {"f1": 0.1, "precision": 0.1},
        "sentence_image_matching": {"accuracy": 0.5, "accuracy_half_ties": 0.75},
    }
    lines = [line.split() for line in format_metrics(metrics).splitlines()]
    first, *key, empty = [line[-2:] for line in lines[:4]]
    assert first == ["value", "chance"]
    assert key == [["0.5000", "0.2500"], ["0.7500", "0.5000"]]
    assert empty == []
    assert ["precision", "0.4000", "0.2000"] in lines


def test_history_has_a_row_per_metric_and_empty_cells_for_undefined(tmp_path):
    write_history(tmp_path / "h.csv", [{"a": 1.5, "b": None}, {"a": 2.0, "b": 0.25, "c": 3}])
    assert (tmp_path / "h.csv").read_text() == "metric,1,2\na,1.5,2.0\nb,,0.25\nc,,3\n"
    assert read_history(tmp_path / "h.csv")[0] == {"a": 1.5, "b": None, "c": None}


def test_results_refuse_nan_and_leave_nothing(tmp_path):
    options = Namespace(
        results_dir=tmp_path, utility="u", model_name="m", dataset="coco", word_list=None
    )
    with pytest.raises(ValueError, match="JSON"):
        save_results(options, {"x": float("nan")}, {}, {})
    assert not list(tmp_path.iterdir())
    save_results(options, {"x": None}, {}, {})
    assert json.loads((tmp_path / "u_m.json").read_text())["metrics"] == {"x": None}


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
    names = [name for _, _, metrics in CURVES for name in metrics]
    history = [dict.fromkeys(names, value) for value in (0.5, 0.75, 0.5)]
    draw_learning_curves(tmp_path / "c.png", history, "model")
    (figure,) = drawn
    assert len(figure.axes) == len(CURVES)
    for axes in figure.axes:
        assert axes.get_ylabel()
        assert axes.get_xlabel() == "epoch"
        assert x_labels(axes) == ["1", "2", "3"]
    (panel,) = metric_panels([{"cluster_counts.active_clusters": 7, "text_loss": None}])
    assert (panel.curves, panel.y_label) == ({"clusters active for words": [7]}, COUNT)


@pytest.mark.parametrize(
    ("steps", "labels"),
    [
        ([1, 2, 5, 10, 20, 28], ["1", "2", "5", "10", "20"]),
        ([1, 10, 100, 1000, 20_000], ["1", "10", "100", "1,000", "10,000"]),
    ],
)
def test_steps_stand_at_logarithms_with_plain_numbers(tmp_path, drawn, steps, labels):
    panel = Panel("p", "score", {"p": [0.5] * len(steps)})
    draw_curves(tmp_path / "c.png", steps, [panel], "t", by_step=True)
    (axes,) = drawn[0].axes
    assert axes.get_xscale() == "log"
    assert x_labels(axes) == labels


def test_counts_have_whole_ticks_and_a_flat_zero_stands_at_the_bottom(tmp_path, drawn):
    panels = [
        Panel("a", COUNT, {"a": [3, 4]}),
        Panel("b", "share", {"x": [0.0, 0.0], "y": [None, 0.0]}),
    ]
    draw_curves(tmp_path / "c.png", [1, 2], panels, "t")
    counts, shares = drawn[0].axes
    assert all(float(tick).is_integer() for tick in counts.get_yticks())
    assert shares.get_ylim() == (-0.05, 1)
