"""The command line as users meet it: main([...]) on a small demo world, wrong input included."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from PIL import Image

from datasets_src.norms import ASSOCIATION_FILE, CATEGORY_FILE, CONCRETENESS_FILE, load_norms
from main import COMMON, OPTIONS, SETTINGS, UTILITIES, main
from tests.conftest import TINY, dirs, results_of

ROOT = Path(__file__).parent.parent


def fails(capsys, *arguments: str, mentions: str) -> None:
    """Assert that a call is the user's mistake, told in one line."""
    assert main(list(arguments)) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: "), errors
    assert errors.count("\n") == 1, errors
    assert mentions in errors, errors


@pytest.mark.parametrize("name", ["lstm", "lstm_best"])
def test_evaluations_print_and_write_results(places, tmp_path, capsys, name):
    for utility, section, printed in (
        ("text_evaluation", "categorization_chance", "v measure"),
        ("visual_evaluation", "heatmap_equal_guess_chance", "maps are 1 x 1 for images of 32"),
    ):
        call = [f"--utility={utility}", f"--model_name={name}", *places]
        assert main([*call, "--batch_size=3", "--workers=0"]) == 0
        assert printed in capsys.readouterr().out
        results = results_of(tmp_path, utility, name)
        assert (results["utility"], results["model_name"]) == (utility, name)
        assert section in results["metrics"]
        assert results["settings"]["cluster_num"] == 20
        assert {"settings", "data", "not_measured", "provenance"} <= set(results)
    scores = results["metrics"]["class_name_classification"]
    cells = ("true_positives", "false_positives", "false_negatives", "true_negatives")
    assert sum(scores[cell] for cell in cells) == 15 * results["data"]["test_images"]
    assert main([*call, "--batch_size=50", "--workers=1"]) == 0  # nothing depends on them
    assert results_of(tmp_path, utility, name)["metrics"] == results["metrics"]


def test_thresholds_can_be_given_anew(places, tmp_path):
    everything = ["--visual_threshold=-1000", "--text_threshold=0"]
    main(["--utility=visual_evaluation", "--model_name=lstm", "--workers=0", *everything, *places])
    results = results_of(tmp_path, "visual_evaluation", "lstm")
    assert set(results["metrics"]["activation"].values()) == {20}  # clusters an image, a caption
    assert results["settings"]["visual_threshold"] == -1000


def test_a_word_list_is_applied_and_recorded_and_a_log_is_written(places, tmp_path):
    words, log = tmp_path / "words.txt", tmp_path / "text_evaluation_generative.log"
    words.write_text("Dog\n\ncar\nunheard\n")
    call = ["--utility=text_evaluation", "--model_name=generative", f"--word_list={words}"]
    assert main([*call, *places]) == 0
    assert not log.exists()
    assert main([*call, *places, "--write_to_log"]) == 0
    assert "v measure" in log.read_text()
    results = results_of(tmp_path, "text_evaluation", "generative")
    metrics = results["metrics"]
    assert metrics["categorization"]["known_words"]["word_count"] <= 2
    assert metrics["categorization"]["all_words"]["word_count"] == 57
    assert results["settings"]["word_list"] == str(words)
    assert results["settings"]["word_list_sha256"] == sha256(words.read_bytes()).hexdigest()


def test_training_writes_model_best_log_curves(trained):
    for half in ("text", "visual"):
        names = {path.name for path in (trained / "models" / half).iterdir()}
        assert {"lstm.cfg", "lstm.mdl", "lstm_best.cfg", "lstm_best.mdl"} <= names
    assert "metrics by epoch" in (trained / "results" / "train_joint_model_lstm.log").read_text()
    with Image.open(trained / "results" / "lstm" / "learning_curves.png") as image:
        assert image.size[0] > 500


def test_captions_alone_train_and_evaluate(demo_data, tmp_path, capsys):
    """No instances, no norms: what cannot be measured is null with its reason."""
    data = shutil.copytree(demo_data, tmp_path / "data")
    for name in ("filtered_images.json", CATEGORY_FILE, CONCRETENESS_FILE, ASSOCIATION_FILE):
        (data / name).unlink()
    for path in (data / "COCO" / "annotations").glob("instances_*"):
        path.unlink()
    places = dirs(data, tmp_path)
    # an even share of 20 clusters: one epoch hardly lifts a word above it
    assert main([*TINY, "--epochs=1", "--text_threshold=0.05", "--best_by=f_score", *places]) == 0
    told = capsys.readouterr().out
    assert "no model1_best is kept" in told
    assert "nothing to filter by" in told
    assert "epoch 1: active clusters" in told
    assert main(["--utility=text_evaluation", *places]) == 0
    results = results_of(tmp_path, "text_evaluation", "model1")
    assert results["metrics"]["categorization"] is results["metrics"]["concreteness"] is None
    assert results["metrics"]["cluster_counts"]["active_tokens"] > 0
    assert set(results["not_measured"]) == {"categorization", "concreteness", "word_association"}
    assert results["data"] == {
        "train_fingerprint": results["settings"]["origin"]["data_fingerprint"],
        "norms_fingerprint": load_norms(data).fingerprint(),
    }
    capsys.readouterr()
    assert main(["--utility=visual_evaluation", "--workers=0", *places]) == 0
    assert "maps are 1 x 1" not in capsys.readouterr().out  # nothing is measured by them
    results = results_of(tmp_path, "visual_evaluation", "model1")
    assert results["metrics"]["heatmap"] is None
    assert results["metrics"]["sentence_image_matching"]["trial_count"] == 10
    assert main(["--utility=bbox_demonstration", "--num_items=1", "--workers=0", *places]) == 0
    assert "maps are 1 x 1 for images of 32 pixels" in capsys.readouterr().out


def test_config_file_is_used_and_an_option_wins(demo_data, tmp_path, thin):
    config = tmp_path / "tiny.yaml"
    config.write_text("cluster_num: 7\nepochs: 2\nbatch_size: 60\ntext_encoder: generative\n")
    call = [*TINY[:2], f"--config={config}", "--epochs=1", "--workers=0"]
    assert main([*call, *dirs(demo_data, tmp_path)]) == 0
    header = (tmp_path / "text" / "model1.cfg").read_text()
    for line in ("cluster_num: 7", "epochs: 1", "text_encoder: generative", "batch_size: 60"):
        assert line in header


def test_help_names_every_utility_and_option(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in [*UTILITIES, *(f"--{option}" for option in [*OPTIONS, *SETTINGS])]:
        assert name in text


def test_help_does_not_import_torch():
    script = (
        "import main, sys\ntry: main.main(['--help'])\nfinally: sys.exit(' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    imported = set(done.stderr.split())
    assert "models_src.settings" in imported
    assert not imported & {"torch", "torchvision", "spacy", "sklearn", "matplotlib", "transformers"}


def test_the_table_of_utilities_names_functions_and_options_that_are_there():
    for name, utility in UTILITIES.items():
        assert callable(getattr(importlib.import_module(utility.module), name))
    read = COMMON.union(*(utility.reads.split() for utility in UTILITIES.values()))
    assert read == set(OPTIONS) | set(SETTINGS)


def test_common_options_are_taken_by_any_utility_without_a_word(places, capsys):
    common = ["--use_all_images", "--seed=0", "--device=cpu", "--workers=0", "--batch_size=9"]
    main(["--utility=word_clusters", "--model_name=absent", *common, "--dataset=coco", *places])
    captured = capsys.readouterr()
    assert "no effect" not in captured.out + captured.err
    assert "--" not in captured.err.partition("absent")[0]  # it is the model that lacks


def test_other_options_without_effect_cost_one_line(places, tmp_path, capsys):
    call = ["--utility=text_evaluation", "--model_name=generative", "--epochs=3", "--show"]
    assert main([*call, *places]) == 0
    assert "no effect on text_evaluation: --epochs, --show\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["--utility=text_evalation"], "'text_evalation' (did you mean text_evaluation"),
        (["--utility=filter_coco"], "(did you mean filter_unwanted_coco_images?)"),
        (["--epoch=3"], "--epoch=3 (did you mean --epochs?)"),
        (["--utility=dance"], "there is no utility 'dance'; see python main.py --help"),
        (["--modle_name=x"], "--modle_name=x (did you mean --model_name"),
        (["--dance"], "--dance; see"),
    ],
)
def test_a_mistyped_name_is_asked_for(capsys, typed, told):
    fails(capsys, *typed, mentions=told)


def test_a_notebooks_backend_is_ignored(places, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    main(["--utility=predict", "--model_name=absent", *places])
    assert "MPLBACKEND" not in os.environ


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        (["--epochs=0"], "--epochs"),
        (["--text_encoder=bert2"], "--text_encoder"),
        (["--visual_threshold=nan"], "--visual_threshold"),
        (["--checkpoint_minutes=0"], "--checkpoint_minutes"),
        (["--utility=text_evaluation", "--model_name=absent"], "absent"),
        (["--utility=text_evaluation", "--model_name", "lstm", "generative"], "one --model_name"),
        (["--device=abacus"], "--device"),
        (["--config=absent.yaml"], "absent.yaml"),
        (["--model_name=lstm"], "--overwrite"),
        (["--resume", "--overwrite"], "give one"),
        (["--utility=visual_evaluation", "--model_name=lstm", "--batch_size=-1"], "--batch_size"),
        (["--utility=text_evaluation", "--model_name=lstm", "--text_threshold=5"], "at most 1"),
        (["--model_name=new", "--datasets_dir=nowhere"], "nowhere"),
        (["--utility=text_evaluation", "--model_name=lstm", "--datasets_dir=nowhere"], "nowhere"),
        (["--utility=visual_evaluation", "--model_name=lstm", "--datasets_dir=nowhere"], "nowhere"),
        (["--utility=filter_unwanted_coco_images", "--datasets_dir=nowhere"], "nowhere"),
        *(
            ([f"--utility={utility}", f"--{option}={name}"], f"--{option}")
            for name in ("../../x", "a\\b", "")
            for utility, option in (
                ("train_joint_model", "model_name"),
                ("compare_models", "model_name"),
                ("convert_published_model", "new_name"),
                ("text_evaluation", "dataset"),
            )
        ),
    ],
)
def test_mistakes_are_one_line_and_status_2(places, trained, tmp_path, capsys, arguments, mentions):
    fails(capsys, *places, *arguments, mentions=mentions)
    assert not list(trained.rglob("new.cfg"))
    assert not list(tmp_path.rglob("*.json"))
    assert not list(tmp_path.parent.glob("*lstm*.log"))


@pytest.mark.parametrize("unwritable", ["models", "results"])
def test_folders_that_cannot_be_written_are_found_before_the_work(
    demo_data, tmp_path, capsys, unwritable
):
    (tmp_path / unwritable).write_text("not a folder")
    places = dirs(demo_data, tmp_path / "models", tmp_path / "results")
    fails(capsys, *TINY, *places, mentions=str(tmp_path / unwritable))
    assert (tmp_path / unwritable).read_text() == "not a folder"
    assert not list(tmp_path.rglob("*.mdl"))


def test_model_files_that_do_not_fit_are_one_line(trained, demo_data, tmp_path, capsys):
    models = tmp_path / "models"
    places = ["--model_name=lstm", *dirs(demo_data, models, tmp_path)]
    shutil.copytree(trained / "models", models, ignore=shutil.ignore_patterns("*.checkpoint"))
    for suffix in ("cfg", "mdl"):
        visual = models / "visual"
        shutil.copy(visual / f"generative.{suffix}", visual / f"lstm.{suffix}")
    fails(capsys, "--utility=visual_evaluation", *places, mentions="different trainings")
    for half in ("text", "visual"):
        path = models / half / "lstm.mdl"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
        fails(capsys, "--utility=visual_evaluation", *places, mentions=path.name)
        shutil.copy(trained / "models" / half / "lstm.mdl", path)
    path = models / "text" / "lstm.cfg"
    header = path.read_text()
    for line in ("seed: 2020-13-45", "cluster_num: -3", "text_encoder: abacus", "run: 5"):
        path.write_text(re.sub(rf"^  {line.split()[0]}.*$", f"  {line}", header, flags=re.M))
        assert line in path.read_text()
        fails(capsys, "--utility=text_evaluation", *places, mentions="lstm.cfg")


def test_make_demo_dataset_through_the_command_line(tmp_path, capsys):
    call = ["--utility=make_demo_dataset", "--images=24", "--seed=3"]
    assert main([*call, f"--datasets_dir={tmp_path}"]) == 0
    assert "24 training images" in capsys.readouterr().out
    assert len(list((tmp_path / "COCO" / "train2014").iterdir())) == 24


def test_seeds_are_trained_one_after_another_and_compared(demo_data, tmp_path, capsys, thin):
    places = dirs(demo_data, tmp_path / "models", tmp_path)
    call = [*TINY, "--epochs=1", "--model_name=lstm", *places]
    assert main([*call, "--seeds", "3", "1"]) == 0
    assert main([*call, "--model_name=alone", "--seed=1"]) == 0
    text = tmp_path / "models" / "text"
    weights = {
        name: torch.load(text / f"{name}.mdl", weights_only=True)["state"]["word_table"]
        for name in ("lstm_3", "lstm_1", "alone")
    }
    assert torch.equal(weights["lstm_1"], weights["alone"])
    assert not torch.equal(weights["lstm_1"], weights["lstm_3"])
    assert (tmp_path / "lstm_3" / "evaluation_by_epoch.csv").is_file()
    assert not (text / "lstm.mdl").exists()
    # what is finished is not trained again
    assert main([*call, "--seeds", "3", "1", "--resume"]) == 0
    capsys.readouterr()
    fails(capsys, *call, "--seeds", "1", "1", mentions="--seeds")
    fails(capsys, *call, "--seeds", "1", "--seed=1", mentions="--seeds")
