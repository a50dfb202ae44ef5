"""Models side by side: seeds averaged, chance beside, significance over units, four formats."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evaluation import comparison
from evaluation.comparison import (
    RESAMPLED,
    Answers,
    ModelResults,
    as_latex,
    comparison_table,
    matching_models,
    read_image_answers,
    read_results,
    read_word_answers,
    significance,
    table_cells,
)
from main import main
from tests.test_cli import fails
from utils.errors import UserError

F_SCORE, AMI = (
    "categorization.known_words.f_score",
    "categorization.known_words.adjusted_mutual_info",
)


def write(folder: Path, name: str, utility: str = "text_evaluation", **changes) -> None:
    data, metrics = {"test_fingerprint": "a"}, {"class_name_classification": {"f1": 0.5}}
    if utility != "visual_evaluation":
        data = {"train_fingerprint": "a", "norms_fingerprint": "a"}
        metrics = {
            "categorization": {"known_words": {"f_score": changes.pop("f", 0.5)}},
            "categorization_chance": {"known_words": {"f_score": 0.25}},
        }
    content = {
        "metrics": metrics,
        "settings": {"cluster_num": 20, "seed": 1, "dataset": "coco"} | changes.pop("settings", {}),
        "data": data | changes.pop("data", {}),
    }
    (folder / f"{utility}_{name}.json").write_text(json.dumps(content | changes))


def results(name: str, **metrics) -> ModelResults:
    return ModelResults(name, metrics, {}, {})


def compare(folder: Path, *names: str) -> list[str]:
    return ["--utility=compare_models", f"--results_dir={folder}", "--model_name", *names]


def rows_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "compare_models.csv").set_index(["metric", "setting"])


# the table


def test_seeds_are_averaged_and_the_chance_row_follows():
    chance = "categorization_chance.known_words.f_score"
    models = [
        results("a_0", **{F_SCORE: 0.2, chance: 0.1}),
        results("b", **{F_SCORE: 0.9, "heatmap.f1": 0.5, "heatmap_chance.f1": 0.1,
                        "heatmap_equal_guess_chance.f1": 0.3}),
        results("a_1", **{F_SCORE: 0.4, chance: 0.3}),
    ]  # fmt: skip
    table = comparison_table(models).set_index(["metric", "setting"])
    assert list(dict.fromkeys(metric for metric, _ in table.index)) == [
        "words: F-score", "words: F-score (random)", "heatmaps f1", "heatmaps f1 (random)",
    ]  # fmt: skip
    assert table.loc[("words: F-score", "a")].tolist() == pytest.approx([0.3, 0.02**0.5, 2])
    assert table.loc[("words: F-score", "b"), "mean"] == 0.9
    assert np.isnan(table.loc[("words: F-score", "b"), "standard_deviation"])
    assert np.isnan(table.loc[("words: F-score (random)", "b"), "mean"])
    assert np.isnan(table.loc[("heatmaps f1", "a"), "mean"])
    half = [results("a_0", **{"heatmap.f1": 0.5}), results("a_1"), results("b")]
    assert comparison_table(half)["mean"].isna().all()  # a mean needs every seed
    # against as many guesses as the model makes
    assert table.loc[("heatmaps f1 (random)", "b"), "mean"] == 0.3


def test_models_that_differ_in_a_number_are_seeds_of_one_setting():
    names = ["x_0", "x_0_best", "x_1", "x_1_best", "x_best", "y2", "x_0_b"]
    settings = [results(name).setting for name in names]
    assert settings == ["x", "x_best", "x", "x_best", "x_best", "y2", "x_0_b"]


def test_patterns_find_each_model_once_in_order(tmp_path):
    for name in ("a_10", "a_9", "b_0", "a_9_best"):
        write(tmp_path, name)
    write(tmp_path, "a_9", "visual_evaluation")
    found = matching_models(tmp_path, ["b_0", "a_[0-9]", "a_*"])
    assert found == ["b_0", "a_9", "a_9_best", "a_10"]


def test_formats_escape_and_align():
    columns = ["metric", "setting", "mean", "standard_deviation", "p_value"]
    rows = [["my_model", -0.5, 0.25, np.nan], ["lstm-0.03", np.nan, np.nan, 0.03]]
    cells = table_cells(pd.DataFrame([["r, count > 20", *row] for row in rows], columns=columns))
    assert cells.to_string().splitlines()[1:] == [
        "r, count > 20         -0.500 ± 0.250         -",
        "  p against my_model               -     0.030",
    ]
    latex = as_latex(cells)
    assert r"r, count $>$ 20 & $-$0.500 $\pm$ 0.250 & - \\" in latex
    assert r"\quad p against my\_model & - & 0.030 \\" in latex
    assert r" & my\_model & lstm-0.03 \\" in latex
    assert r"\begin{tabular}{lrr}" in latex


def test_one_command_gives_a_markdown_table_of_seeds_control_and_baselines(tmp_path):
    for name, f in (("demo_0", 0.5), ("demo_1", 0.7), ("control_0", 0.4), ("control_1", 0.4)):
        write(tmp_path, name, f=f)
        write(tmp_path, name, "visual_evaluation",
              metrics={"heatmap": {"f1": 0.3}, "heatmap_equal_guess_chance": {"f1": 0.2}},
              settings={"visual_threshold": 0.1 if "demo" in name else 0.5})  # fmt: skip
    write(tmp_path, "text_only", "train_text_only_baseline", f=0.6)
    assert main(compare(tmp_path, "demo_?", "control_?", "text_only")) == 0
    table, *notes = (tmp_path / "compare_models.md").read_text().split("\n\n")
    assert (
        table
        == """\
|                         |          demo |       control |   text_only |
|:------------------------|--------------:|--------------:|------------:|
| words: F-score          | 0.600 ± 0.141 | 0.400 ± 0.000 |       0.600 |
| words: F-score (random) | 0.250 ± 0.000 | 0.250 ± 0.000 |       0.250 |
| heatmaps f1             | 0.300 ± 0.000 | 0.300 ± 0.000 |           - |
| heatmaps f1 (random)    | 0.200 ± 0.000 | 0.200 ± 0.000 |           - |"""
    )
    assert "demo (demo_0, demo_1); control (control_0, control_1)" in notes[0]
    assert "different values of visual_threshold: 0.1 for demo; 0.5 for control" in notes[1]


# what may be compared


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"norms_fingerprint": "b"}}, "(other norms)"),
        ({"data": {"train_fingerprint": "b"}}, "text_evaluation of 'a_1' was on other data"),
        ({"settings": {"word_list_sha256": "b"}}, "(another word list)"),
        ({"settings": {"cluster_num": 30}}, "as seeds of one setting, but differ (cluster_num 20"),
        ({"settings": {"text_threshold": 0.1}}, "but differ (text_threshold None and 0.1)"),
        ({"metrics": 5}, "remove it and run --utility text_evaluation again"),
    ],
)
def test_models_that_were_not_evaluated_alike_are_refused(tmp_path, capsys, changes, message):
    write(tmp_path, "a_0")
    write(tmp_path, "a_1", **changes)
    fails(capsys, *compare(tmp_path, "a_*"), mentions=message)
    write(tmp_path, "a_1", settings={"seed": 2})
    assert main([*compare(tmp_path, "a_*"), "--use_all_images"]) == 0


def test_words_and_images_have_their_own_data(tmp_path, capsys):
    write(tmp_path, "a", settings={"word_list_sha256": "b"})
    write(tmp_path, "visual", "visual_evaluation")
    # ratings are those of all words, with a word list and without
    ratings = {"metrics": {"concreteness": {"word_count": 9}}}
    write(tmp_path, "supervised", "train_concreteness_supervised_model", **ratings)
    assert main(compare(tmp_path, "a", "visual", "supervised")) == 0
    write(tmp_path, "other", "visual_evaluation", data={"test_fingerprint": "d"})
    fails(capsys, *compare(tmp_path, "a", "visual", "other"), mentions="other test captions")


@pytest.mark.parametrize(
    "other",
    [None, {"run": "y", "step": 3}, {"run": "x", "step": 4}],
    ids=["baseline", "run", "step"],
)
def test_one_name_for_two_trainings_or_for_a_model_and_a_baseline_is_refused(tmp_path, other):
    origin = {"origin": {"run": "x", "step": 3, "seed": 1}}
    write(tmp_path, "a", settings=origin)
    write(tmp_path, "a", "visual_evaluation", settings=origin)
    assert read_results(tmp_path, "a").metrics[F_SCORE] == 0.5
    write(tmp_path, "a", "visual_evaluation", settings={"origin": other} if other else {})
    with pytest.raises(UserError, match="of different trainings, or one is of a baseline"):
        read_results(tmp_path, "a")


@pytest.mark.parametrize(
    ("name", "message"), [("../a", "no name for files"), ("a*", "no stored results match 'a*'")]
)
def test_names_without_a_model_are_refused(tmp_path, capsys, name, message):
    fails(capsys, *compare(tmp_path, name), mentions=message)
    several = ["--utility=text_evaluation", "--model_name", "a", "b", f"--results_dir={tmp_path}"]
    fails(capsys, *several, mentions="takes one")


# significance

PERFECT, RANDOM = [0, 1, 2] * 8, [0, 0, 1, 2, 1, 2, 1, 0, 2, 2, 1, 0] * 2


def of_words(folder: Path, clusters, categories=None, concreteness=None) -> Answers:
    """Answers about words in three categories, which all have ratings."""
    count = len(clusters)
    path = folder / "words.csv"
    pd.DataFrame(
        {
            "word": [f"w{k}" for k in range(count)],
            "count": 30,
            "cluster": clusters,
            "concreteness": np.linspace(0, 1, count) if concreteness is None else concreteness,
            "concreteness_rating": np.linspace(1, 5, count),
            "category": np.arange(count) % 3 if categories is None else categories,
        }
    ).to_csv(path, index=False)
    return read_word_answers(path)["words"]


def score(answers: Answers, drawn, path: str) -> float:
    return dict(zip(RESAMPLED, answers.scores(np.array(drawn)), strict=True))[path]


def p_of(groups, path: str, draws: int, seed: int = 0) -> list[float]:
    return significance(groups, seed, draws)[:, list(RESAMPLED).index(path)].tolist()


def test_tables_of_words_are_read_or_refused(tmp_path):
    path = tmp_path / "words.csv"
    assert read_word_answers(path) == {}
    path.write_text(
        "word,count,cluster,concreteness,concreteness_rating,category\n"
        'null,7,0,0.5,4.8,animal\n"o,f",9,,0,1.2,\nthing,3,1,0.1,,\n'
    )
    assert read_word_answers(path)["words"].units == ["null", "o,f"]
    path.write_text("word,count\ndog,7\n")
    with pytest.raises(UserError, match=r"words\.csv: .*word_clusters"):
        read_word_answers(path)


def test_words_score_as_drawn(tmp_path):
    perfect = of_words(tmp_path, PERFECT)
    assert score(perfect, range(24), F_SCORE) == score(perfect, range(24), AMI) == 1
    r = "concreteness.pearson_by_min_count.20.r"
    assert score(perfect, range(24), r) == pytest.approx(1)
    assert np.isnan(score(of_words(tmp_path, [None] * 24), range(24), F_SCORE))


def test_significance_tells_a_real_difference_from_none(tmp_path):
    perfect, random = of_words(tmp_path, PERFECT), of_words(tmp_path, RANDOM)
    groups = [[perfect, perfect], [perfect], [random]]
    assert p_of(groups, F_SCORE, draws=60)[1:] == [1, pytest.approx(1 / 61)]
    # both have the same concreteness
    assert p_of(groups, "concreteness.pearson_by_min_count.20.r", draws=60)[2] == 1
    assert np.isnan(p_of(groups, "heatmap.f1", draws=2)).all()
    assert p_of(groups, AMI, 20, seed=3) == p_of(groups, AMI, 20, seed=3)


def test_many_clusters_and_few_that_mean_nothing_do_not_differ_significantly(tmp_path):
    rng = np.random.default_rng(0)
    values = []
    for seed in range(20):
        categories = rng.integers(12, size=144)
        many, few = (of_words(tmp_path, rng.integers(n, size=144), categories) for n in (70, 8))
        values.append(p_of([[many], [few]], AMI, draws=40, seed=seed)[1])
    assert np.mean(np.array(values) < 0.05) <= 0.1
    assert np.mean(values) > 0.3


EVALUATED = ModelResults("m", {}, {"visual_evaluation": {}}, {})


def of_images(folder: Path, counts, outcomes) -> dict[str, Answers]:
    arrays = {"image_ids": np.arange(len(counts)), "heatmap": np.array(counts)}
    pairs = np.arange(2 * len(outcomes)).reshape(-1, 2)
    arrays |= {"matching_image_ids": pairs, "sentence_image_matching": np.array(outcomes)}
    np.savez(folder / "visual_evaluation_m.npz", **arrays)
    return read_image_answers(folder, EVALUATED)


def test_images_and_pairs_score_as_drawn(tmp_path):
    found = of_images(tmp_path, [[1, 0, 0], [0, 2, 1], [3, 1, 1]], [[1, 0], [-1, 1], [1, 1]])
    # 7 true, 2 false, 2 missed
    assert score(found["images"], [0, 2, 2], "heatmap.f1") == pytest.approx(14 / 18)
    assert np.isnan(score(found["images"], [0, 2, 2], "bounding_box.f1"))
    pairs = found["pairs of images"]
    assert pairs.units == [[0, 1], [2, 3], [4, 5]]
    assert score(pairs, [0, 2, 2, 2], "sentence_image_matching.accuracy") == 7 / 8


def test_significance_over_images_is_paired(tmp_path):
    base = np.random.default_rng(0).integers(0, 3, size=(40, 3))
    # a little better in every image
    a, b = (of_images(tmp_path, base + more, [])["images"] for more in ([1, 0, 0], [0, 0, 0]))
    groups = [[a], [b], [a]]
    assert p_of(groups, "heatmap.f1", draws=98)[1:] == [pytest.approx(1 / 99), 1]


def test_damaged_results_by_image_are_refused(tmp_path):
    of_images(tmp_path, [[1, 0, 0]], [])
    path = tmp_path / "visual_evaluation_m.npz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"visual_evaluation_m\.npz: .* run --utility visual"):
        read_image_answers(tmp_path, EVALUATED)
    with pytest.raises(UserError, match="visual_evaluation_m"):
        of_images(tmp_path, [[1, 0]] * 3, [[1, 1]])


# the command, on trained models


def test_command_compares_trained_models(places, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(comparison, "DRAWS", 20)
    for name in ("lstm", "generative"):
        for utility in ("text_evaluation", "word_clusters", "visual_evaluation"):
            assert main([*places, f"--utility={utility}", f"--model_name={name}"]) == 0
    for words in (
        ["train_text_only_baseline"],
        ["word_clusters", "--model_type=text_only"],
        ["train_concreteness_supervised_model", "--conc_use_suffix"],
    ):
        models = f"--models_dir={tmp_path / 'models'}"
        assert main([*places, models, "--utility", *words]) == 0
    call = compare(tmp_path, "lstm", "gen*", "text_only", "supervised_concreteness")
    assert main(call) == 0
    rows = rows_of(tmp_path)
    stored = json.loads((tmp_path / "text_evaluation_lstm.json").read_text())["metrics"]
    row = rows.loc[("words: F-score", "lstm")]
    assert row["mean"] == stored["categorization"]["known_words"]["f_score"]
    assert (row["seeds"], np.isnan(row["p_value"])) == (1, True)
    for metric in ("class names f1", "boxes f1", "heatmaps f1", "sentence-image matching"):
        assert 0 < rows.loc[(metric, "generative"), "p_value"] <= 1, metric
    assert 0 < rows.loc[("words: F-score", "text_only"), "p_value"] <= 1
    assert rows.loc[("concreteness r", "supervised_concreteness"), "mean"] > -1
    for ending in ("txt", "md", "tex"):
        text = (tmp_path / f"compare_models.{ending}").read_text()
        assert "p against lstm" in text
        assert "conservative" in text

    def check(message: str) -> None:
        caplog.clear()
        assert main(call) == 0
        assert message in caplog.text

    # what is stored of another training of that name, or of other images, does not count
    words = pd.read_csv(tmp_path / "word_clusters_lstm.csv", keep_default_na=False)
    words.assign(cluster=range(len(words))).to_csv(tmp_path / "word_clusters_lstm.csv", index=False)
    check("no significance over words for lstm")
    assert rows_of(tmp_path).xs("text_only", level="setting")["p_value"].isna().all()
    stored = tmp_path / "visual_evaluation_generative.npz"
    arrays = dict(np.load(stored))
    np.savez(stored, **arrays | {"image_ids": arrays["image_ids"] + 1})
    check("over images for generative: no answers by images that fit the results are stored")
    stored.unlink()
    check("over pairs of images for generative: no answers")
    assert "p against" not in (tmp_path / "compare_models.txt").read_text()
