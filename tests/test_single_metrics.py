"""Utilities of single metrics: word metrics by model type, and random boxes and points."""

import csv
import hashlib
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


@pytest.mark.parametrize("name", ["lstm", "generative"])
def test_single_metrics_are_those_of_text_evaluation(places, tmp_path, name):
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
    for scores in found:
        known = scores["categorization"]["known_words"]
        chance = scores["categorization_chance"]["known_words"]
        assert known["word_count"] > 30
        assert abs(known["v_measure"] - chance["v_measure"]) < 0.15
        assert abs(known["adjusted_mutual_info"]) < 0.2


def test_random_clusters_are_as_many_as_asked_for(places, tmp_path):
    arguments = ["--model_type=random", "--baseline_cluster_num=1", *places]
    for utility in CLUSTER_UTILITIES:
        assert main([f"--utility={utility}", *arguments]) == 0
    known = metrics_of(tmp_path, "categorization_evaluation_random")["categorization"][
        "known_words"
    ]
    assert known["collocation"] == 1
    pairs = metrics_of(tmp_path, "association_evaluation_random")["word_association"]
    word_count = known["word_count"]
    assert pairs["pairs_found"] + pairs["pairs_not_found"] == word_count * (word_count - 1) // 2


def test_a_trained_text_only_baseline_is_evaluated_as_when_trained(places, tmp_path):
    (tmp_path / "models").mkdir()
    own = [*places, f"--models_dir={tmp_path / 'models'}"]
    assert main(["--utility=train_text_only_baseline", "--seed=3", *own]) == 0
    whole = metrics_of(tmp_path, "train_text_only_baseline_text_only")
    found = {}
    for utility in CLUSTER_UTILITIES:
        assert main([f"--utility={utility}", "--model_type=text_only", "--seed=3", *own]) == 0
        found |= metrics_of(tmp_path, f"{utility}_text_only")
    assert main(["--utility=concreteness_evaluation", "--model_type=text_only", *own]) == 0
    assert found | metrics_of(tmp_path, "concreteness_evaluation_text_only") == whole


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
        (["categorization_evaluation", "--model_type=supervised_concreteness"], "choose from"),
        (["categorization_evaluation", "--model_type=nonsense"], "invalid choice"),
        (["categorization_evaluation", "--model_type=w2v"], "--w2v_file"),
        (["categorization_evaluation", "--model_type=text_only"], "train_text_only_baseline"),
        (
            ["concreteness_evaluation", "--model_type=supervised_concreteness"],
            "train_concreteness_supervised_model",
        ),
        (["categorization_evaluation", "--model_name=absent"], "no text model 'absent'"),
    ],
)
def test_mistakes_are_told_in_one_line(places, capsys, arguments, mentions):
    utility, *rest = arguments
    fails(capsys, f"--utility={utility}", *rest, *places, mentions=mentions)


@pytest.mark.parametrize("utility", [*CLUSTER_UTILITIES, "concreteness_evaluation"])
def test_a_metric_without_its_norms_is_refused(demo_data, tmp_path, capsys, utility):
    bare = tmp_path / "data"
    bare.mkdir()
    (bare / "COCO").symlink_to(demo_data / "COCO")
    kind = "multimodal_clustering" if utility.startswith("conc") else "random"
    fails(
        capsys,
        f"--utility={utility}",
        f"--model_type={kind}",
        f"--datasets_dir={bare}",
        f"--results_dir={tmp_path}",
        mentions="no file",
    )


@pytest.mark.parametrize(
    ("utility", "metric"),
    [
        ("random_bbox_prediction_evaluation", "bounding_box"),
        ("random_heatmap_evaluation", "heatmap"),
    ],
)
def test_random_guesses_score_as_the_chance_level_of_visual_evaluation(
    places, demo_data, tmp_path, utility, metric
):
    own = [f"--datasets_dir={demo_data}", f"--results_dir={tmp_path}", "--seed=4"]
    assert main([f"--utility={utility}", *own]) == 0
    found = json.loads((tmp_path / f"{utility}_random.json").read_text())
    evaluate = ["--utility=visual_evaluation", "--model_name=lstm", "--seed=4", "--workers=0"]
    assert main([*evaluate, *places]) == 0
    chance = metrics_of(tmp_path, "visual_evaluation_lstm")[f"{metric}_chance"]
    assert found["metrics"] == {metric: chance}
    assert chance["true_positives"] + chance["false_negatives"] > 0
    assert found["data"]["test_images"] > 0


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


def test_random_guesses_need_boxes(demo_data, tmp_path, capsys):
    data = tmp_path / "data"
    (data / "COCO" / "annotations").mkdir(parents=True)
    for split in ("train2014", "val2014"):
        (data / "COCO" / split).symlink_to(demo_data / "COCO" / split)
        name = f"captions_{split}.json"
        (data / "COCO" / "annotations" / name).symlink_to(demo_data / "COCO" / "annotations" / name)
    fails(
        capsys,
        "--utility=random_heatmap_evaluation",
        f"--datasets_dir={data}",
        f"--results_dir={tmp_path}",
        mentions="no boxes",
    )


def test_a_word_list_stands_in_the_settings(places, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("dog\ncat\n")
    arguments = ["--utility=text_evaluation", "--model_name=generative", *places]
    assert main([*arguments, f"--word_list={words}"]) == 0
    settings = json.loads((tmp_path / "text_evaluation_generative.json").read_text())["settings"]
    assert settings["word_list"] == str(words)
    assert settings["word_list_sha256"] == hashlib.sha256(b"dog\ncat\n").hexdigest()
    assert main(arguments) == 0
    settings = json.loads((tmp_path / "text_evaluation_generative.json").read_text())["settings"]
    assert "word_list" not in settings


@pytest.mark.parametrize("utility", ["text_evaluation", "concreteness_evaluation", "word_clusters"])
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


def test_a_baseline_asked_about_other_captions_says_so(places, tmp_path, capsys):
    models = [*places, f"--models_dir={tmp_path / 'models'}"]
    assert main(["--utility=train_text_only_baseline", *models]) == 0
    call = ["--utility=categorization_evaluation", "--model_type=text_only", *models]
    assert main(call) == 0
    assert "other captions" not in capsys.readouterr().out
    assert main([*call, "--use_all_images"]) == 0
    assert "was trained on other captions" in capsys.readouterr().out


def test_a_baseline_does_not_take_a_joint_models_name(places, tmp_path, capsys):
    call = ["--model_type=random", "--model_name=lstm", *places]
    for utility in ("categorization_evaluation", "word_clusters"):
        fails(capsys, f"--utility={utility}", *call, mentions="'lstm' is a joint model in")
    assert not list(tmp_path.glob("*.csv"))


def test_a_baseline_taken_for_a_joint_model_is_named(places, tmp_path, capsys):
    models = [*places, f"--models_dir={tmp_path / 'models'}"]
    assert main(["--utility=train_text_only_baseline", *models]) == 0
    capsys.readouterr()
    for utility in ("text_evaluation", "word_clusters", "categorization_evaluation"):
        call = [f"--utility={utility}", "--model_name=text_only", *models]
        fails(capsys, *call, mentions="a baseline of that name; give --model_type text_only")
    shutil.copytree(tmp_path / "models" / "text_only", tmp_path / "models" / "backup")
    shutil.rmtree(tmp_path / "models" / "text_only")
    fails(capsys, *call, mentions="no text model 'text_only' in")  # any other folder is none
