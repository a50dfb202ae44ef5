"""Utilities of single metrics: word metrics by model type, and random boxes and points."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from datasets_src.norms import CATEGORY_FILE
from main import main
from tests.conftest import TINY, dirs, results_of
from tests.test_cli import fails

CLUSTER_UTILITIES = ("categorization_evaluation", "association_evaluation")
WORD_UTILITIES = (*CLUSTER_UTILITIES, "concreteness_evaluation")


def scores_of(folder: Path, utility: str, name: str, *arguments: str) -> dict:
    """Run a utility; return the metrics that it wrote into a folder under a model's name."""
    assert main([f"--utility={utility}", *arguments]) == 0
    return results_of(folder, utility, name)["metrics"]


def test_single_metrics_are_those_of_text_evaluation(places, tmp_path):
    whole, *single = (
        scores_of(tmp_path, utility, "lstm", "--model_name=lstm", *places)
        for utility in ("text_evaluation", *WORD_UTILITIES)
    )
    joined = {key: value for metrics in single for key, value in metrics.items()}
    assert joined == {key: value for key, value in whole.items() if key != "cluster_counts"}


def test_random_clusters_score_at_chance_and_follow_the_seed(places, tmp_path):
    call = tmp_path, "categorization_evaluation", "random", "--model_type=random", *places
    found = [scores_of(*call, f"--seed={seed}") for seed in (1, 2, 1)]
    assert found[0] == found[2] != found[1]
    known = found[0]["categorization"]["known_words"]
    chance = found[0]["categorization_chance"]["known_words"]
    assert known["word_count"] > 30
    assert abs(known["v_measure"] - chance["v_measure"]) < 0.15


def test_trained_baselines_are_evaluated_as_when_trained(places, tmp_path, capsys):
    own = [*places, f"--models_dir={tmp_path / 'models'}", "--seed=3"]
    for kind, train, utilities in (
        ("text_only", ["train_text_only_baseline"], WORD_UTILITIES),
        (
            "supervised_concreteness",
            ["train_concreteness_supervised_model", "--conc_use_suffix"],
            WORD_UTILITIES[-1:],
        ),
    ):
        when_trained = scores_of(tmp_path, train[0], kind, *train[1:], *own)
        found = {}
        for utility in utilities:
            found |= scores_of(tmp_path, utility, kind, f"--model_type={kind}", *own)
        assert found == when_trained
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


def test_w2v_clusters_the_words_it_has(demo_data, places, tmp_path):
    rng = np.random.default_rng(0)
    words = ["dog", "cat", "apple", "table", "nowhere"]
    lines = [f"{word} " + " ".join(f"{x:.3f}" for x in rng.normal(size=8)) for word in words]
    vectors = tmp_path / "vectors.txt"
    vectors.write_text(f"{len(words)} 8\n" + "\n".join(lines) + "\n")
    arguments = ["--model_type=w2v", f"--w2v_file={vectors}", *places]
    scores = scores_of(tmp_path, "categorization_evaluation", "w2v", *arguments)
    known = scores["categorization"]["known_words"]
    listed = (demo_data / CATEGORY_FILE).read_text()
    assert known["word_count"] == sum(f" {word}:" in listed for word in words) > 0
    assert known["purity"] == 1  # fewer words than clusters: each has its own


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
    fails(capsys, "--utility", *arguments, *places, mentions=mentions)


def test_a_metric_without_its_norms_or_boxes_is_refused(demo_data, tmp_path, capsys):
    bare = tmp_path / "data"
    ignored = shutil.ignore_patterns("*.yaml", "*.txt", "*.csv", "*.json")
    shutil.copytree(demo_data, bare, ignore=ignored)
    for path in (demo_data / "COCO" / "annotations").glob("captions_*.json"):
        shutil.copy(path, bare / "COCO" / "annotations")
    for utility in (*WORD_UTILITIES, "random_heatmap_evaluation"):
        kind = ["--model_type=random"] * (utility in CLUSTER_UTILITIES)
        mentions = "no file" if utility in WORD_UTILITIES else "no boxes"
        fails(capsys, f"--utility={utility}", *kind, *dirs(bare, tmp_path), mentions=mentions)


def test_random_guesses_score_as_the_chance_level_of_visual_evaluation(places, tmp_path):
    seeded = ["--seed=4", "--workers=0", *places]
    stored = scores_of(tmp_path, "visual_evaluation", "lstm", "--model_name=lstm", *seeded)
    for utility, metric in (
        ("random_bbox_prediction_evaluation", "bounding_box"),
        ("random_heatmap_evaluation", "heatmap"),
    ):
        chance = stored[f"{metric}_chance"]
        assert scores_of(tmp_path, utility, "random", *seeded) == {metric: chance}
        assert chance["true_positives"] + chance["false_negatives"] > 0


def test_chance_levels_of_a_model_are_the_same_in_all_tables(demo_data, tmp_path):
    own = [*dirs(demo_data, tmp_path), "--model_name=g"]
    training = [*TINY, "--text_encoder=generative", "--seed=3", "--epochs=1"]
    assert main([*training, *own]) == 0
    with (tmp_path / "g" / "evaluation_by_epoch.csv").open() as table:
        in_training = {row["metric"]: row["1"] for row in csv.DictReader(table)}
    found = [
        scores_of(tmp_path, "text_evaluation", "g", *own, *seed)["categorization_chance"]
        for seed in ([], ["--seed=3"], ["--seed=4"])
    ]
    assert found[0] == found[1] != found[2]
    for name, value in found[0]["known_words"].items():
        assert float(in_training[f"categorization_chance.known_words.{name}"]) == value


def test_a_model_answers_for_its_own_captions_without_them(demo_data, places, tmp_path, capsys):
    """The norms are enough; figures are those beside the captions."""
    norms = tmp_path / "norms"
    shutil.copytree(demo_data, norms, ignore=shutil.ignore_patterns("COCO", "tokens*"))
    found = []
    for extra in ([], ["--use_all_images"], [f"--datasets_dir={norms}"]):
        own = ["--model_name=lstm", *places, *extra]
        assert main(["--utility=word_clusters", *own]) == 0
        table = (tmp_path / "word_clusters_lstm.csv").read_text()
        found.append((table, scores_of(tmp_path, "text_evaluation", "lstm", *own)))
    assert found[0] == found[1] == found[2]
    assert "other captions" not in capsys.readouterr().out
