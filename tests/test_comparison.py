"""Models side by side: seeds averaged, chance beside, significance over words, four formats."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from evaluation.comparison import (
    Cell,
    ModelResults,
    WordAnswers,
    as_latex,
    as_markdown,
    as_text,
    bootstrap_p,
    by_setting,
    comparison_table,
    matching_models,
    read_word_answers,
    significance,
    table_cells,
    word_scores,
)
from main import main
from tests.test_cli import fails


def write(folder: Path, name: str, utility: str = "text_evaluation", **changes) -> None:
    metrics = {
        "categorization": {"known_words": {"f_score": changes.pop("f", 0.5)}},
        "categorization_chance": {"known_words": {"f_score": 0.25}},
        "concreteness": {"pearson_by_min_count": {"20": {"r": changes.pop("r", None)}}},
    }
    content = {
        "metrics": metrics,
        "settings": {"cluster_num": 20, "seed": 1, "dataset": "coco"} | changes.pop("settings", {}),
        "data": {"train_images": 5, "filtered": True} | changes.pop("data", {}),
    }
    (folder / f"{utility}_{name}.json").write_text(json.dumps(content | changes))


def results(name: str, **metrics) -> ModelResults:
    return ModelResults(name, metrics, {}, {})


def answers(clusters: list[int], concreteness: list[float] | None = None) -> WordAnswers:
    """Return answers about twelve words in three categories with known ratings."""
    n = len(clusters)
    return WordAnswers(
        tuple(f"w{k}" for k in range(n)),
        np.full(n, 30),
        np.array(clusters),
        np.linspace(0, 1, n) if concreteness is None else np.array(concreteness),
        np.linspace(1, 5, n),
        np.arange(n) % 3,
    )


PERFECT, RANDOM = [0, 1, 2] * 8, [0, 0, 1, 2, 1, 2, 1, 0, 2, 2, 1, 0] * 2


def test_seeds_are_averaged_and_the_chance_row_follows():
    f, chance = "categorization.known_words.f_score", "categorization_chance.known_words.f_score"
    models = [
        results("a_0", **{f: 0.2, chance: 0.1}),
        results("b", **{f: 0.9, "heatmap.f1": 0.5}),
        results("a_1", **{f: 0.4, chance: 0.3}),
    ]
    assert list(by_setting(models)) == ["a", "b"]
    table = comparison_table(models)
    assert list(table) == ["words: F-score", "words: F-score (random)", "heatmaps f1"]
    assert table["words: F-score"]["a"] == Cell(
        pytest.approx(0.3), pytest.approx(0.02**0.5), seeds=2
    )
    assert table["words: F-score"]["b"] == Cell(0.9, None, seeds=1)
    assert table["words: F-score (random)"]["b"] is None
    assert table["heatmaps f1"]["a"] is None


def test_a_mean_needs_the_figure_of_every_seed():
    models = [results("a_0", **{"heatmap.f1": 0.5}), results("a_1"), results("b")]
    assert comparison_table(models) == {}


def test_patterns_find_each_model_once_in_order(tmp_path):
    for name in ("a_10", "a_9", "b_0", "a_9_best"):
        write(tmp_path, name)
    write(tmp_path, "a_9", "visual_evaluation")
    assert matching_models(tmp_path, ["b_0", "a_[0-9]", "a_*"]) == [
        "b_0",
        "a_9",
        "a_9_best",
        "a_10",
    ]


def test_word_scores_are_those_of_the_drawn_words():
    whole = word_scores(answers(PERFECT), np.arange(24))
    assert whole["words: F-score"] == whole["words: adjusted mutual information"] == 1
    assert whole["concreteness r, count > 20"] == pytest.approx(1)
    one = word_scores(answers(PERFECT), np.array([3, 3, 3]))
    assert one["concreteness r, count > 20"] is None
    unknown = word_scores(answers([-1] * 24), np.arange(24))
    assert unknown["words: F-score"] is None


def test_significance_tells_a_real_difference_from_none():
    found = significance(
        {
            "good": [answers(PERFECT), answers(PERFECT)],
            "same": [answers(PERFECT)],
            "bad": [answers(RANDOM)],
        },
        draws=60,
        seed=0,
    )
    assert found["words: F-score"]["same"] == 1
    assert found["words: F-score"]["bad"] == pytest.approx(2 / 62)
    assert found["concreteness r, count > 20"]["bad"] == 1  # both have the same concreteness
    assert "good" not in found["words: F-score"]


def test_significance_is_the_same_for_the_same_seed_and_refuses_other_words():
    sides = {"a": [answers(RANDOM)], "b": [answers(RANDOM[::-1])]}
    first, second = (significance(sides, draws=20, seed=3) for _ in range(2))
    assert first == second
    with pytest.raises(ValueError, match="different words"):
        significance({"a": [answers(RANDOM)], "b": [answers(RANDOM[:-1])]}, draws=1, seed=0)


def test_bootstrap_p_of_draws():
    assert bootstrap_p(np.ones(98)) == pytest.approx(2 / 100)
    assert bootstrap_p(np.array([1.0, -1.0])) == 1
    assert bootstrap_p(np.zeros(6)) == 1
    assert bootstrap_p(np.zeros(0)) is None
    assert bootstrap_p(np.array([1.0] * 88 + [-1.0] * 10)) == pytest.approx(22 / 100)


def test_formats_escape_and_align():
    table = {"boxes f1": {"my_model": Cell(-0.5, 0.25, 2), "b": None}}
    lines = table_cells(table, {"boxes f1": {"b": 0.03}}, " ± ")
    assert lines == [
        ["", "my_model", "b"],
        ["boxes f1", "-0.500 ± 0.250", "-"],
        ["  p against my_model", "-", "0.030"],
    ]
    assert as_text(lines).splitlines()[1] == "boxes f1              -0.500 ± 0.250      -"
    assert as_markdown(lines).splitlines()[1:3] == [
        "| --- | ---: | ---: |",
        "| boxes f1 | -0.500 ± 0.250 | - |",
    ]
    latex = as_latex(lines)
    assert r"boxes f1 & $-$0.500 $\pm$ 0.250 & - \\" in latex
    assert r"\quad p against my\_model & - & 0.030 \\" in latex
    assert r"\begin{tabular}{lrr}" in latex


def test_table_of_words_is_read_or_refused(tmp_path):
    path = tmp_path / "words.csv"
    assert read_word_answers(path) is None
    path.write_text(
        "word,count,cluster,concreteness,concreteness_rating,category\n"
        "dog,7,0,0.5,4.8,animal\nof,9,,0,1.2,\nthing,3,1,0.1,,\n"
    )
    found = read_word_answers(path)
    assert found.words == ("dog", "of")
    assert found.clusters.tolist() == [0, -1]
    assert found.categories.tolist() == [0, -1]
    path.write_text("word,count\ndog,7\n")
    with pytest.raises(Exception, match="no table of --utility word_clusters"):
        read_word_answers(path)


def test_command_compares_trained_models(places, tmp_path, caplog):
    for name in ("lstm", "generative"):
        for utility in ("text_evaluation", "visual_evaluation", "word_clusters"):
            device = ["--workers=0"] if utility == "visual_evaluation" else []
            assert main([*places, f"--utility={utility}", f"--model_name={name}", *device]) == 0
    assert main([*places, "--utility=compare_models", "--model_name", "lstm", "gen*"]) == 0
    rows = list(csv.DictReader((tmp_path / "compare_models.csv").read_text().splitlines()))
    stored = json.loads((tmp_path / "text_evaluation_lstm.json").read_text())["metrics"]
    row = next(r for r in rows if r["metric"] == "words: F-score" and r["setting"] == "lstm")
    assert float(row["mean"]) == stored["categorization"]["known_words"]["f_score"]
    assert row["seeds"] == "1"
    assert row["p_value"] == ""
    other = next(r for r in rows if r["metric"] == row["metric"] and r["setting"] == "generative")
    assert 0 < float(other["p_value"]) <= 1
    for ending in ("txt", "md", "tex"):
        assert "p against lstm" in (tmp_path / f"compare_models.{ending}").read_text()

    # a table of words of another training of that name does not count
    path = tmp_path / "word_clusters_lstm.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    path.write_text("\n".join(",".join([*line[:2], "0", *line[3:]]) for line in lines[1:]))
    path.write_text(",".join(lines[0]) + "\n" + path.read_text() + "\n")
    assert main([*places, "--utility=compare_models", "--model_name", "lstm", "generative"]) == 0
    assert "another training of that name" in caplog.text
    assert "p against" not in (tmp_path / "compare_models.txt").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"train_images": 6}}, "on other data than that of 'a_0' (train_images 5 and 6)"),
        ({"settings": {"dataset": "mine"}}, "(dataset 'coco' and 'mine')"),
        ({"settings": {"cluster_num": 30}}, "as seeds of one setting, but differ (cluster_num 20"),
        ({"metrics": 5}, "is no results file of --utility text_evaluation"),
    ],
)
def test_models_that_were_not_evaluated_alike_are_refused(tmp_path, capsys, changes, message):
    write(tmp_path, "a_0")
    write(tmp_path, "a_1", **changes)
    call = ["--utility=compare_models", "--model_name=a_*", f"--results_dir={tmp_path}"]
    fails(capsys, *call, mentions=message)
    write(tmp_path, "a_1", settings={"seed": 2})
    assert main(call) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--utility=text_evaluation --model_name a b", "takes one"),
        ("--utility=text_evaluation --model_name=a*", "no name for files"),
        ("--utility=compare_models --model_name=../a", "no name for files"),
        ("--utility=compare_models --model_name=a*", "no results of a model"),
    ],
)
def test_names_without_a_model_are_refused(tmp_path, capsys, words, message):
    fails(capsys, *words.split(), f"--results_dir={tmp_path}", mentions=message)
