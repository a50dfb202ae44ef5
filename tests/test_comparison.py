"""Models side by side: seeds averaged, chance beside, significance over words, four formats."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation.comparison import (
    Cell,
    ImageAnswers,
    ModelResults,
    WordAnswers,
    as_latex,
    as_markdown,
    as_text,
    by_setting,
    comparison_table,
    image_scores,
    matching_models,
    pair_scores,
    read_image_answers,
    read_word_answers,
    significance,
    subsampling_p,
    table_cells,
    word_scores,
)
from evaluation.reports import write_by_image
from main import main
from tests.test_cli import fails
from utils.errors import UserError


def write(folder: Path, name: str, utility: str = "text_evaluation", **changes) -> None:
    metrics = {
        "categorization": {"known_words": {"f_score": changes.pop("f", 0.5)}},
        "categorization_chance": {"known_words": {"f_score": 0.25}},
        "concreteness": {"pearson_by_min_count": {"20": {"r": changes.pop("r", None)}}},
    }
    content = {
        "metrics": metrics,
        "settings": {"cluster_num": 20, "seed": 1, "dataset": "coco"} | changes.pop("settings", {}),
        "data": {
            "train_images": 5,
            "filtered": True,
            "train_fingerprint": "a",
            "norms_fingerprint": "a",
        }
        | changes.pop("data", {}),
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
        word_scores,
        draws=60,
        seed=0,
    )
    assert found["words: F-score"]["same"] == 1
    assert found["words: F-score"]["bad"] == pytest.approx(1 / 61)
    assert found["concreteness r, count > 20"]["bad"] == 1  # both have the same concreteness
    assert "good" not in found["words: F-score"]


def test_significance_is_the_same_for_the_same_seed_and_refuses_other_words():
    sides = {"a": [answers(RANDOM)], "b": [answers(RANDOM[::-1])]}
    first, second = (significance(sides, word_scores, draws=20, seed=3) for _ in range(2))
    assert first == second
    with pytest.raises(ValueError, match="different units"):
        significance(
            {"a": [answers(RANDOM)], "b": [answers(RANDOM[:-1])]}, word_scores, draws=1, seed=0
        )


def test_subsampling_p_of_draws():
    assert subsampling_p(1.0, np.tile([0.9, 1.1], 50)) == pytest.approx(1 / 101)
    assert subsampling_p(0.05, np.array([0.0, 0.1])) == 1
    assert subsampling_p(0.0, np.zeros(6)) == 1
    assert subsampling_p(0.3, np.array([-0.5, 0.5, 0.1, -0.1])) == pytest.approx(3 / 5)
    assert subsampling_p(None, np.ones(3)) is None
    assert subsampling_p(1.0, np.zeros(0)) is None


def test_many_clusters_and_few_that_mean_nothing_do_not_differ_significantly():
    rng = np.random.default_rng(0)
    values = []
    for seed in range(30):
        many, few = (
            replace(answers(rng.integers(clusters, size=24 * 6).tolist()), categories=categories)
            for categories in [rng.integers(12, size=24 * 6)]
            for clusters in (70, 8)
        )
        found = significance({"many": [many], "few": [few]}, word_scores, draws=40, seed=seed)
        values.append(found["words: adjusted mutual information"]["few"])
    assert np.mean(np.array(values) < 0.05) <= 0.1
    assert np.mean(values) > 0.3


def image_answers(counts: list[list[int]], section: str = "heatmap") -> ImageAnswers:
    """Return what is counted in some images."""
    return ImageAnswers(tuple(range(len(counts))), {section: np.array(counts)})


def test_image_scores_are_those_of_the_drawn_images():
    answers_ = image_answers([[1, 0, 0], [0, 2, 1], [3, 1, 1]])
    found = image_scores(answers_, np.array([0, 2, 2]))  # 7 true, 2 false, 2 missed
    assert found["heatmaps f1"] == pytest.approx(14 / 18)
    assert found["boxes f1"] is None
    assert image_scores(image_answers([[0, 0, 0]]), np.array([0, 0]))["heatmaps f1"] is None


def test_pair_scores_are_those_of_the_drawn_pairs():
    outcomes = {"sentence_image_matching": np.array([[1, 0], [-1, 1], [1, 1]])}
    found = pair_scores(ImageAnswers(((1, 2), (3, 4), (5, 6)), outcomes), np.array([0, 2, 2, 2]))
    assert found == {"sentence-image matching": 7 / 8}
    assert pair_scores(ImageAnswers((), {}), np.zeros(0, int)) == {"sentence-image matching": None}


def test_significance_over_images_is_paired():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 3, size=(40, 3))
    better = base + np.array([1, 0, 0])  # a little in every image
    sides = {"a": [image_answers(better)], "b": [image_answers(base)], "c": [image_answers(better)]}
    found = significance(sides, image_scores, draws=98, seed=1)["heatmaps f1"]
    assert found == {"b": pytest.approx(1 / 99), "c": 1}


def test_results_by_image_are_read_or_refused(tmp_path):
    model = ModelResults("m", {}, {"visual_evaluation": {}}, {})
    assert read_image_answers(tmp_path, model) is None
    assert read_image_answers(tmp_path, results("m")) is None
    arrays = {"image_ids": np.array([4, 9]), "heatmap": np.array([[1, 2, 300], [0, 0, 0]])}
    pairs = {
        "matching_image_ids": np.array([[4, 9]]),
        "sentence_image_matching": np.array([[1, -1]], dtype=np.int8),
    }
    write_by_image(tmp_path, "visual_evaluation", "m", arrays | pairs)
    images, matching = read_image_answers(tmp_path, model)
    assert images.units == (4, 9)
    assert images.arrays["heatmap"].tolist() == [[1, 2, 300], [0, 0, 0]]
    assert matching.units == ((4, 9),)
    assert matching.arrays["sentence_image_matching"].tolist() == [[1, -1]]
    path = tmp_path / "visual_evaluation_m.npz"
    whole = path.read_bytes()
    write_by_image(tmp_path, "visual_evaluation", "m", arrays | pairs)
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-40])
    with pytest.raises(UserError, match=r"visual_evaluation_m\.npz is damaged"):
        read_image_answers(tmp_path, model)
    for broken in (
        {"heatmap": np.zeros((3, 3), int)},
        {"heatmap": np.zeros((2, 3))},
        {"heatmap": np.array([[None] * 3] * 2)},
        {"matching_image_ids": np.zeros((2, 2), int)},
    ):
        write_by_image(tmp_path, "visual_evaluation", "m", arrays | pairs | broken)
        with pytest.raises(UserError, match="damaged"):
            read_image_answers(tmp_path, model)
    write_by_image(tmp_path, "visual_evaluation", "m", {"heatmap": arrays["heatmap"]})
    with pytest.raises(UserError, match="damaged"):
        read_image_answers(tmp_path, model)


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
    assert as_latex([["", "lstm-0.03"], ["r", "-1.250"]]).count("$-$") == 1
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


def test_words_of_a_baseline_have_significance_too(places, tmp_path, capsys):
    models = [*places, f"--models_dir={tmp_path / 'models'}"]
    assert main([*places, "--utility=text_evaluation", "--model_name=lstm"]) == 0
    assert main([*places, "--utility=word_clusters", "--model_name=lstm"]) == 0
    assert main([*models, "--utility=train_text_only_baseline"]) == 0
    assert main([*models, "--utility=word_clusters", "--model_type=text_only"]) == 0
    for utility in ("categorization_evaluation", "word_clusters"):
        assert main([*places, f"--utility={utility}", "--model_type=random", "--seed=3"]) == 0
    supervised = ["--utility=train_concreteness_supervised_model", "--conc_use_suffix"]
    assert main([*models, *supervised]) == 0
    names = ["lstm", "text_only", "random", "supervised_concreteness"]
    assert main([*places, "--utility=compare_models", "--model_name", *names]) == 0
    found = list(csv.DictReader((tmp_path / "compare_models.csv").read_text().splitlines()))
    rows = {(row["metric"], row["setting"]): row for row in found}
    for metric, setting in (
        ("words: F-score", "text_only"),
        ("words: F-score", "random"),
        ("concreteness r, count > 20", "text_only"),
    ):
        assert 0 < float(rows[metric, setting]["p_value"]) <= 1, (metric, setting)
    assert rows["concreteness r", "random"]["mean"] == ""
    supervised = json.loads(
        (tmp_path / "train_concreteness_supervised_model_supervised_concreteness.json").read_text()
    )["metrics"]["concreteness"]["pearson_by_min_count"]["0"]["r"]
    assert float(rows["concreteness r", "supervised_concreteness"]["mean"]) == supervised

    words = read_word_answers(tmp_path / "word_clusters_text_only.csv")
    joint = read_word_answers(tmp_path / "word_clusters_lstm.csv")
    assert words.words == joint.words
    assert not np.isnan(words.concreteness).any()
    of_random = read_word_answers(tmp_path / "word_clusters_random.csv")
    assert np.isnan(of_random.concreteness).all()
    assert ((of_random.clusters >= 0) == (of_random.categories >= 0)).all()
    capsys.readouterr()
    for given, name in ((["--seed=3"], "lstm"), (["--model_type=text_only", "--seed=3"], "b")):
        call = [*places, "--utility=word_clusters", f"--model_name={name}", *given]
        fails(capsys, *call, mentions="--seed has no effect on --model_type")


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
    for metric in ("class names f1", "boxes f1", "heatmaps f1", "sentence-image matching"):
        row = next(r for r in rows if r["metric"] == metric and r["setting"] == "generative")
        assert 0 < float(row["p_value"]) <= 1, metric
    for ending in ("txt", "md", "tex"):
        assert "p against lstm" in (tmp_path / f"compare_models.{ending}").read_text()

    # a table of words of another training of that name does not count
    path = tmp_path / "word_clusters_lstm.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    path.write_text("\n".join(",".join([*line[:2], "0", *line[3:]]) for line in lines[1:]))
    path.write_text(",".join(lines[0]) + "\n" + path.read_text() + "\n")
    assert main([*places, "--utility=compare_models", "--model_name", "lstm", "generative"]) == 0
    assert "another training of that name" in caplog.text
    table = (tmp_path / "compare_models.txt").read_text()
    assert table.count("p against") == 5  # over images

    # and so with results by image: of another training, of other images, absent
    of_lstm, other = (tmp_path / f"visual_evaluation_{name}.npz" for name in ("lstm", "generative"))
    whole = of_lstm.read_bytes()
    arrays = dict(np.load(of_lstm))
    compare = [*places, "--utility=compare_models", "--model_name", "lstm", "generative"]
    for changed, message in (
        ({"heatmap": arrays["heatmap"] + 1}, "scores otherwise than the results of lstm"),
        ({"image_ids": arrays["image_ids"] + 1}, "over images: they are not the same for all"),
    ):
        caplog.clear()
        write_by_image(tmp_path, "visual_evaluation", "lstm", arrays | changed)
        assert main(compare) == 0
        assert message in caplog.text
        table = (tmp_path / "compare_models.txt").read_text()
        assert table.count("p against") == 1  # over pairs of images
    of_lstm.write_bytes(whole)
    other.unlink()
    caplog.clear()
    assert main(compare) == 0
    assert (
        "no significance over images for generative: no answers by images are stored" in caplog.text
    )
    assert "p against" not in (tmp_path / "compare_models.txt").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": {"train_images": 6}},
            "text_evaluation of 'a_1' was on other data than text_evaluation of 'a_0' "
            "(train_images 5 and 6)",
        ),
        ({"data": {"norms_fingerprint": "b"}}, "(other norms)"),
        ({"data": {"train_fingerprint": "b"}}, "(other training captions)"),
        ({"data": {"train_fingerprint": None}}, "of 'a_1' was stored by an earlier version"),
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
    ("changes", "message"),
    [
        ({"data": {"train_fingerprint": "b"}}, "(other training captions)"),
        ({"data": {"norms_fingerprint": "b"}}, "(other norms)"),
        ({"settings": {"word_list_sha256": "b"}}, "(another word list)"),
    ],
)
def test_a_baseline_of_other_data_is_refused(tmp_path, capsys, changes, message):
    write(tmp_path, "a")
    write(tmp_path, "visual", "visual_evaluation", data={"test_fingerprint": "c"})
    write(tmp_path, "text_only", "train_text_only_baseline", **changes)
    call = ["--utility=compare_models", f"--results_dir={tmp_path}", "--model_name", "a", "visual"]
    assert main(call) == 0  # words and images have their own data
    fails(capsys, *call, "text_only", mentions=message)


def test_a_word_list_does_not_matter_to_concreteness_alone(tmp_path):
    write(tmp_path, "a", settings={"word_list_sha256": "b"})
    write(tmp_path, "supervised", "train_concreteness_supervised_model")
    call = ["--utility=compare_models", f"--results_dir={tmp_path}", "--model_name"]
    assert main([*call, "a", "supervised"]) == 0


def test_one_name_for_two_trainings_or_for_a_model_and_a_baseline_is_refused(tmp_path, capsys):
    def origin(run, step=3):
        return {"origin": {"run": run, "step": step, "seed": 1}}

    call = ["--utility=compare_models", f"--results_dir={tmp_path}", "--model_name=a"]
    write(tmp_path, "a", settings=origin("x"))
    write(tmp_path, "a", "visual_evaluation", settings=origin("x"))
    assert main(call) == 0
    write(tmp_path, "a", "categorization_evaluation")
    fails(capsys, *call, mentions="categorization_evaluation of 'a' is of a baseline")
    (tmp_path / "categorization_evaluation_a.json").unlink()
    for other in (origin("y"), origin("x", step=4)):
        write(tmp_path, "a", "visual_evaluation", settings=other)
        fails(capsys, *call, mentions="and visual_evaluation of 'a' are of different trainings")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--utility=text_evaluation --model_name a b", "takes one"),
        ("--utility=text_evaluation --model_name=a*", "no name for files"),
        ("--utility=compare_models --model_name=../a", "no name for files"),
        ("--utility=compare_models --model_name=a*", "no stored results match 'a*'"),
    ],
)
def test_names_without_a_model_are_refused(tmp_path, capsys, words, message):
    fails(capsys, *words.split(), f"--results_dir={tmp_path}", mentions=message)
