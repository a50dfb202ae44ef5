"""Utilities of single metrics: word metrics by model type, and random boxes and points."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from main import main
from tests.conftest import TINY
from tests.test_cli import fails

CLUSTER_UTILITIES = ("categorization_evaluation", "association_evaluation")


def metrics_of(folder: Path, name: str) -> dict:
    return json.loads((folder / f"{name}.json").read_text())["metrics"]


def test_single_metrics_are_those_of_text_evaluation(places, tmp_path):
    name = "lstm"
    utilities = ("text_evaluation", *CLUSTER_UTILITIES, "concreteness_evaluation")
    for utility in utilities:
        assert main([f"--utility={utility}", f"--model_name={name}", *places]) == 0
    whole, *single = (metrics_of(tmp_path, f"{utility}_{name}") for utility in utilities)
    joined = {key: value for metrics in single for key, value in metrics.items()}
    assert joined == {key: value for key, value in whole.items() if key != "cluster_counts"}


def test_random_clusters_score_at_chance_and_follow_the_seed(places, tmp_path):
    found = []
    for seed in (1, 2, 1):
        arguments = ["--utility=categorization_evaluation", "--model_type=random", f"--seed={seed}"]
        assert main([*arguments, *places]) == 0
        found.append(metrics_of(tmp_path, "categorization_evaluation_random"))
    assert found[0] == found[2] != found[1]
    known = found[0]["categorization"]["known_words"]
    chance = found[0]["categorization_chance"]["known_words"]
    assert known["word_count"] > 30
    assert abs(known["v_measure"] - chance["v_measure"]) < 0.15


def test_a_trained_text_only_baseline_is_evaluated_as_when_trained(places, tmp_path, capsys):
    (tmp_path / "models").mkdir()
    own = [*places, f"--models_dir={tmp_path / 'models'}"]
    assert main(["--utility=train_text_only_baseline", "--seed=3", *own]) == 0
    whole = metrics_of(tmp_path, "train_text_only_baseline_text_only")
    found = {}
    for utility in (*CLUSTER_UTILITIES, "concreteness_evaluation"):
        assert main([f"--utility={utility}", "--model_type=text_only", "--seed=3", *own]) == 0
        found |= metrics_of(tmp_path, f"{utility}_text_only")
    assert found == whole
    assert "other captions" not in capsys.readouterr().out
    call = ["--utility=categorization_evaluation", "--model_type=text_only", "--use_all_images"]
    assert main([*call, *own]) == 0
    assert "was trained on other captions" in capsys.readouterr().out
    # the names of joint models and baselines are not mistaken for each other
    for utility in ("text_evaluation", "word_clusters", "categorization_evaluation"):
        call = [f"--utility={utility}", "--model_name=text_only", *own]
        fails(capsys, *call, mentions="a baseline of that name; give --model_type text_only")
    call = ["--utility=word_clusters", "--model_type=random", "--model_name=lstm", *places]
    fails(capsys, *call, mentions="'lstm' is a joint model in")


def test_supervised_concreteness_is_evaluated_as_when_trained(places, tmp_path):
    own = [*places, f"--models_dir={tmp_path / 'models'}"]
    train = ["--utility=train_concreteness_supervised_model", "--conc_use_suffix"]
    assert main([*train, *own]) == 0
    evaluate = ["--utility=concreteness_evaluation", "--model_type=supervised_concreteness"]
    assert main([*evaluate, *own]) == 0
    assert metrics_of(tmp_path, "concreteness_evaluation_supervised_concreteness") == metrics_of(
        tmp_path, "train_concreteness_supervised_model_supervised_concreteness"
    )


def test_w2v_clusters_the_words_it_has(places, tmp_path):
    rng = np.random.default_rng(0)
    words = ["dog", "cat", "apple", "table", "nowhere"]
    lines = [f"{word} " + " ".join(f"{x:.3f}" for x in rng.normal(size=8)) for word in words]
    vectors = tmp_path / "vectors.txt"
    vectors.write_text(f"{len(words)} 8\n" + "\n".join(lines) + "\n")
    arguments = ["--model_type=w2v", f"--w2v_file={vectors}", *places]
    assert main(["--utility=categorization_evaluation", *arguments]) == 0
    scores = metrics_of(tmp_path, "categorization_evaluation_w2v")["categorization"]
    categories = (places[0].removeprefix("--datasets_dir="), "mcrae_typicality.yaml")
    listed = Path(*categories).read_text()
    assert scores["known_words"]["word_count"] == sum(f" {word}:" in listed for word in words) > 0
    assert scores["known_words"]["purity"] == 1  # fewer words than clusters: each has its own


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        (["concreteness_evaluation", "--model_type=w2v"], "choose from multimodal_clustering"),
        (["categorization_evaluation", "--model_type=w2v"], "--w2v_file"),
        (["categorization_evaluation", "--model_type=text_only"], "train_text_only_baseline"),
        (
            ["concreteness_evaluation", "--model_type=supervised_concreteness"],
            "train_concreteness_supervised_model",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(places, capsys, arguments, mentions):
    utility, *rest = arguments
    fails(capsys, f"--utility={utility}", *rest, *places, mentions=mentions)


@pytest.mark.parametrize(
    ("utility", "mentions"),
    [
        *((utility, "no file") for utility in (*CLUSTER_UTILITIES, "concreteness_evaluation")),
        ("random_heatmap_evaluation", "no boxes"),
    ],
)
def test_a_metric_without_its_norms_or_boxes_is_refused(
    demo_data, tmp_path, capsys, utility, mentions
):
    bare = tmp_path / "data"
    ignored = shutil.ignore_patterns("*.yaml", "*.txt", "*.csv", "*.json")
    shutil.copytree(demo_data, bare, ignore=ignored)
    for path in (demo_data / "COCO" / "annotations").glob("captions_*.json"):
        shutil.copy(path, bare / "COCO" / "annotations")
    kind = ["--model_type=random"] if utility in CLUSTER_UTILITIES else []
    place = [f"--datasets_dir={bare}", f"--results_dir={tmp_path}"]
    fails(capsys, f"--utility={utility}", *kind, *place, mentions=mentions)


def test_random_guesses_score_as_the_chance_level_of_visual_evaluation(places, tmp_path):
    evaluate = ["--utility=visual_evaluation", "--model_name=lstm", "--seed=4", "--workers=0"]
    assert main([*evaluate, *places]) == 0
    stored = metrics_of(tmp_path, "visual_evaluation_lstm")
    for utility, metric in (
        ("random_bbox_prediction_evaluation", "bounding_box"),
        ("random_heatmap_evaluation", "heatmap"),
    ):
        assert main([f"--utility={utility}", *places, "--seed=4"]) == 0
        chance = stored[f"{metric}_chance"]
        assert metrics_of(tmp_path, f"{utility}_random") == {metric: chance}
        assert chance["true_positives"] + chance["false_negatives"] > 0


def test_chance_levels_of_a_model_are_the_same_in_all_tables(demo_data, tmp_path):
    own = [f"--datasets_dir={demo_data}", f"--results_dir={tmp_path}"]
    own += [f"--models_dir={tmp_path}", "--model_name=g"]
    training = [*TINY, "--text_encoder=generative", "--seed=3", "--epochs=1"]
    assert main([*training, *own]) == 0
    with (tmp_path / "g" / "evaluation_by_epoch.csv").open() as table:
        in_training = {row["metric"]: row["1"] for row in csv.DictReader(table)}
    found = []
    for seed in ([], ["--seed=3"], ["--seed=4"]):
        assert main(["--utility=text_evaluation", *own, *seed]) == 0
        found.append(metrics_of(tmp_path, "text_evaluation_g")["categorization_chance"])
    assert found[0] == found[1] != found[2]
    for name, value in found[0]["known_words"].items():
        assert float(in_training[f"categorization_chance.known_words.{name}"]) == value


@pytest.mark.parametrize("utility", ["text_evaluation", "word_clusters"])
def test_a_model_answers_for_its_own_captions_without_them(
    demo_data, places, tmp_path, capsys, utility
):
    """The norms are enough; figures are those beside the captions."""
    norms_only = tmp_path / "norms"
    norms_only.mkdir()
    for path in demo_data.iterdir():
        if path.is_file() and not path.name.startswith("tokens"):
            shutil.copy(path, norms_only)
    found = []
    for extra in ([], ["--use_all_images"], [f"--datasets_dir={norms_only}"]):
        assert main([f"--utility={utility}", "--model_name=lstm", *places, *extra]) == 0
        ending = "csv" if utility == "word_clusters" else "json"
        text = (tmp_path / f"{utility}_lstm.{ending}").read_text()
        found.append(text if ending == "csv" else json.loads(text)["metrics"])
    assert found[0] == found[1] == found[2]
    assert "other captions" not in capsys.readouterr().out
