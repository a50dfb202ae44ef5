"""Tables, rows by epoch and curves."""

import csv
import json

import pytest
from PIL import Image

from evaluation.reports import (
    draw_learning_curves,
    flatten,
    format_metrics,
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
