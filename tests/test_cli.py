"""The command line as users meet it: main([...]) on a small demo world, wrong input included."""

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from datasets_src.norms import ASSOCIATION_FILE, CATEGORY_FILE, CONCRETENESS_FILE, load_norms
from main import COMMON, OPTIONS, SETTINGS, UTILITIES, main
from tests.conftest import TINY

ROOT = Path(__file__).parent.parent

WORD_KEYS = {
    "v_measure",
    "purity",
    "collocation",
    "purity_collocation_f1",
    "f_score",
    "adjusted_mutual_info",
    "word_count",
}
DETECTION_KEYS = {
    "true_positives",
    "false_positives",
    "false_negatives",
    "precision",
    "recall",
    "f1",
}


def fails(capsys, *arguments: str, mentions: str) -> None:
    """Assert that a call is the user's mistake, told in one line."""
    assert main(list(arguments)) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: "), errors
    assert errors.count("\n") == 1, errors
    assert mentions in errors, errors


@pytest.mark.parametrize("name", ["lstm", "generative", "lstm_best"])
def test_text_evaluation_writes_every_metric(places, tmp_path, capsys, name):
    assert main(["--utility=text_evaluation", f"--model_name={name}", *places]) == 0
    results = json.loads((tmp_path / f"text_evaluation_{name}.json").read_text())
    assert results["utility"] == "text_evaluation"
    assert results["model_name"] == name
    metrics = results["metrics"]
    for section in ("categorization", "categorization_chance"):
        for words in ("known_words", "all_words"):
            assert set(metrics[section][words]) == WORD_KEYS
    assert metrics["categorization"]["all_words"]["word_count"] == 57
    by_count = metrics["concreteness"]["pearson_by_min_count"]
    assert list(by_count)[:4] == ["0", "1", "5", "10"]
    assert set(by_count["0"]) == {"r", "word_count"}
    assert by_count["0"]["word_count"] > by_count["100"]["word_count"]
    assert set(metrics["word_association"]) == {
        "mean_association_strength",
        "pairs_found",
        "pairs_not_found",
    }
    assert set(metrics["cluster_counts"]) == {"active_clusters", "active_tokens"}
    fingerprint = results["settings"]["origin"]["data_fingerprint"]
    assert results["data"]["train_fingerprint"] == fingerprint
    printed = capsys.readouterr().out
    assert "v measure" in printed
    assert "pearson" in printed


@pytest.mark.parametrize("name", ["lstm", "generative"])
def test_visual_evaluation_writes_every_metric(places, tmp_path, capsys, name):
    assert (
        main(["--utility=visual_evaluation", f"--model_name={name}", "--workers=0", *places]) == 0
    )
    assert "maps are 1 x 1 for images of 32 pixels" in capsys.readouterr().out
    results = json.loads((tmp_path / f"visual_evaluation_{name}.json").read_text())
    metrics = results["metrics"]
    for kind in ("class_name_classification", "cluster_classification_co_occurrence",
                 "cluster_classification_iou"):  # fmt: skip
        assert set(metrics[kind]) == DETECTION_KEYS | {"true_negatives"}
        cells = [metrics[kind][cell] for cell in ("true_positives", "false_positives",
                                                  "false_negatives", "true_negatives")]  # fmt: skip
        assert sum(cells) == 15 * results["data"]["test_images"]
    located = [
        f"{metric}{chance}"
        for metric in ("bounding_box", "heatmap")
        for chance in ("", "_chance", "_equal_guess_chance")
    ]
    for kind in located:
        assert set(metrics[kind]) == DETECTION_KEYS
    golds = {metrics[kind]["true_positives"] + metrics[kind]["false_negatives"] for kind in located}
    assert len(golds) == 1
    assert set(metrics["sentence_image_matching"]) == {
        "accuracy",
        "accuracy_with_ties",
        "accuracy_half_ties",
        "trial_count",
    }


def test_batch_size_and_workers_do_not_change_an_evaluation(places, tmp_path):
    found = []
    for extra in (["--batch_size=3", "--workers=0"], ["--batch_size=50", "--workers=1"]):
        main(["--utility=visual_evaluation", "--model_name=lstm", *extra, *places])
        found.append(json.loads((tmp_path / "visual_evaluation_lstm.json").read_text())["metrics"])
    assert found[0] == found[1]


def test_thresholds_can_be_given_anew(places, tmp_path):
    everything = ["--visual_threshold=-1000", "--text_threshold=0"]
    main(["--utility=visual_evaluation", "--model_name=lstm", "--workers=0", *everything, *places])
    results = json.loads((tmp_path / "visual_evaluation_lstm.json").read_text())
    assert results["metrics"]["activation"] == {
        "clusters_per_image": 20,
        "clusters_per_caption": 20,
    }
    assert results["settings"]["visual_threshold"] == -1000


def test_word_list_restricts_the_evaluated_words_and_is_recorded(places, tmp_path):
    (tmp_path / "words.txt").write_text("Dog\n\ncar\nunheard\n")
    arguments = ["--utility=text_evaluation", "--model_name=generative", *places]
    assert main([*arguments, f"--word_list={tmp_path / 'words.txt'}"]) == 0
    results = json.loads((tmp_path / "text_evaluation_generative.json").read_text())
    metrics = results["metrics"]
    assert metrics["categorization"]["known_words"]["word_count"] <= 2
    assert metrics["categorization"]["all_words"]["word_count"] == 57
    assert results["settings"]["word_list"] == str(tmp_path / "words.txt")
    expected = hashlib.sha256((tmp_path / "words.txt").read_bytes()).hexdigest()
    assert results["settings"]["word_list_sha256"] == expected


def test_log_is_written_on_request(places, tmp_path):
    arguments = ["--utility=text_evaluation", "--model_name=generative", *places]
    main(arguments)
    assert not (tmp_path / "text_evaluation_generative.log").exists()
    main([*arguments, "--write_to_log"])
    assert "v measure" in (tmp_path / "text_evaluation_generative.log").read_text()


def test_training_writes_model_best_log_curves(trained):
    for half in ("text", "visual"):
        names = {path.name for path in (trained / "models" / half).iterdir()}
        assert {"lstm.cfg", "lstm.mdl", "lstm_best.cfg", "lstm_best.mdl"} <= names
    assert "metrics by epoch" in (trained / "results" / "train_joint_model_lstm.log").read_text()
    with Image.open(trained / "results" / "lstm" / "learning_curves.png") as image:
        assert image.size[0] > 500


def test_captions_alone_train_and_evaluate(demo_data, tmp_path, capsys):
    """No instances, no norms: what cannot be measured is null with its reason."""
    data = tmp_path / "data"
    shutil.copytree(demo_data, data)
    for name in ("filtered_images.json", CATEGORY_FILE, CONCRETENESS_FILE, ASSOCIATION_FILE):
        (data / name).unlink()
    for path in (data / "COCO" / "annotations").glob("instances_*"):
        path.unlink()
    places = [f"--datasets_dir={data}", f"--models_dir={tmp_path}", f"--results_dir={tmp_path}"]
    # an even share of 20 clusters: one epoch hardly lifts a word above it
    assert main([*TINY, "--epochs=1", "--text_threshold=0.05", "--best_by=f_score", *places]) == 0
    told = capsys.readouterr().out
    assert "no model1_best is kept" in told
    assert "nothing to filter by" in told
    assert "epoch 1: active clusters" in told
    assert main(["--utility=text_evaluation", *places]) == 0
    results = json.loads((tmp_path / "text_evaluation_model1.json").read_text())
    assert results["metrics"]["categorization"] is None
    assert results["metrics"]["concreteness"] is None
    assert results["metrics"]["cluster_counts"]["active_tokens"] > 0
    assert set(results["not_measured"]) == {"categorization", "concreteness", "word_association"}
    assert results["data"] == {
        "train_fingerprint": results["settings"]["origin"]["data_fingerprint"],
        "norms_fingerprint": load_norms(data).fingerprint(),
    }
    capsys.readouterr()
    assert main(["--utility=visual_evaluation", "--workers=0", *places]) == 0
    assert "maps are 1 x 1" not in capsys.readouterr().out  # nothing is measured by them
    results = json.loads((tmp_path / "visual_evaluation_model1.json").read_text())
    assert results["metrics"]["heatmap"] is None
    assert results["metrics"]["sentence_image_matching"]["trial_count"] == 10
    assert main(["--utility=bbox_demonstration", "--num_items=1", "--workers=0", *places]) == 0
    assert "maps are 1 x 1 for images of 32 pixels" in capsys.readouterr().out


def test_config_file_is_used_and_an_option_wins(demo_data, tmp_path):
    (tmp_path / "tiny.yaml").write_text(
        "visual_encoder: resnet18\nimage_size: 32\ncluster_num: 7\nepochs: 2\nbatch_size: 60\n"
        "text_encoder: generative\n"
    )
    places = [
        f"--datasets_dir={demo_data}",
        f"--models_dir={tmp_path}",
        f"--results_dir={tmp_path}",
    ]
    assert main([f"--config={tmp_path / 'tiny.yaml'}", "--epochs=1", "--workers=0", *places]) == 0
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
        "import sys; sys.argv = ['main.py', '--help']\n"
        "import main\n"
        "try:\n    main.main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'torchvision', 'spacy', 'sklearn', 'matplotlib', 'transformers'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_table_of_utilities_names_functions_and_options_that_are_there():
    for name, utility in UTILITIES.items():
        assert callable(getattr(importlib.import_module(utility.module), name))
    read = COMMON.union(*(utility.reads.split() for utility in UTILITIES.values()))
    assert read == set(OPTIONS) | set(SETTINGS)


@pytest.mark.parametrize("utility", ["text_evaluation", "word_clusters", "compare_models"])
def test_common_options_are_taken_by_any_utility_without_a_word(places, capsys, utility):
    common = ["--use_all_images", "--seed=0", "--device=cpu", "--workers=0", "--batch_size=9"]
    call = [f"--utility={utility}", "--model_name=absent", *common, "--dataset=coco", *places]
    main(call)
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
        (["--utility=Report"], "did you mean report?"),
        (["--utility=dance"], "there is no utility 'dance'; see python main.py --help"),
        (["--modle_name=x"], "--modle_name=x (did you mean --model_name"),
        (["--epoch", "3"], "did you mean --epochs"),
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
        (["--epochs=many"], "--epochs"),
        (["--epochs=0"], "--epochs"),
        (["--text_encoder=bert2"], "--text_encoder"),
        (["--visual_threshold=nan"], "--visual_threshold"),
        (["--workers=-1"], "--workers"),
        (["--checkpoint_minutes=0"], "--checkpoint_minutes"),
        (["--utility=text_evaluation", "--model_name=absent"], "absent"),
        (["--utility=text_evaluation", "--model_name", "lstm", "generative"], "one --model_name"),
        (["--utility=visual_evaluation", "--model_name=absent"], "absent"),
        (["--device=abacus"], "--device"),
        (["--config=absent.yaml"], "absent.yaml"),
        (["--device=meta"], "--device"),
        (["--model_name=lstm"], "--overwrite"),
        (["--resume", "--overwrite"], "give one"),
        (["--utility=visual_evaluation", "--model_name=lstm", "--batch_size=-1"], "--batch_size"),
        (["--utility=text_evaluation", "--model_name=lstm", "--seed=-1"], "--seed"),
        (["--utility=text_evaluation", "--model_name=lstm", "--text_threshold=5"], "at most 1"),
        *(
            ([f"--utility={utility}", f"--{option}={name}"], f"--{option}")
            for name in ("../../x", "..", "a\\b", "x\0", "")
            for utility, option in (
                ("train_joint_model", "model_name"),
                ("compare_models", "model_name"),
                ("convert_published_model", "new_name"),
                ("text_evaluation", "dataset"),
            )
        ),
    ],
)
def test_mistakes_are_one_line_and_status_2(places, tmp_path, capsys, arguments, mentions):
    fails(capsys, *arguments, *places, mentions=mentions)
    assert not list(tmp_path.rglob("*.json"))
    assert not list(tmp_path.parent.glob("*lstm*.log"))


@pytest.mark.parametrize("option", ["--results_dir", "--models_dir"])
def test_folders_that_cannot_be_written_are_found_before_the_work(
    demo_data, tmp_path, capsys, option
):
    (tmp_path / "file").write_text("not a folder")
    places = {"--models_dir": tmp_path / "models", "--results_dir": tmp_path / "results"}
    places[option] = tmp_path / "file"
    arguments = [f"{name}={path}" for name, path in places.items()]
    fails(capsys, *TINY, f"--datasets_dir={demo_data}", *arguments, mentions=str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "not a folder"
    assert not list(tmp_path.rglob("*.mdl"))


def test_missing_data_is_one_line(trained, tmp_path, capsys):
    places = [f"--models_dir={trained / 'models'}", f"--results_dir={tmp_path}"]
    for arguments in (
        ["--model_name=new"],
        ["--utility=text_evaluation", "--model_name=lstm"],
        ["--utility=visual_evaluation", "--model_name=lstm"],
        ["--utility=filter_unwanted_coco_images"],
    ):
        shown = places if "filter" not in arguments[0] else places[1:]
        absent = f"--datasets_dir={tmp_path / 'nowhere'}"
        fails(capsys, *arguments, absent, *shown, mentions="nowhere")
    assert not (trained / "models" / "text" / "new.cfg").exists()


@pytest.mark.parametrize(
    ("damage", "mentions"),
    [
        ({CATEGORY_FILE: "animal: [dog"}, CATEGORY_FILE),
        ({CATEGORY_FILE: "animal:\n  dog: often\n"}, "dog"),
        ({CONCRETENESS_FILE: "Word\tBigram\tConc.M\ndog\t0\thigh\n"}, "line 2"),
        ({CONCRETENESS_FILE: "nothing\n"}, "line 1"),
        ({ASSOCIATION_FILE: "R1\tdog\tcat\n"}, "line 1"),
        ({"COCO/annotations/captions_train2014.json": '{"images": ['}, "captions_train2014.json"),
        ({"COCO/annotations/captions_train2014.json": "[]"}, "captions_train2014.json"),
        ({"filtered_images.json": "{}"}, "filtered_images.json"),
    ],
)
def test_malformed_files_are_one_line(demo_data, trained, tmp_path, capsys, damage, mentions):
    data = tmp_path / "data"
    shutil.copytree(demo_data, data)
    for name, text in damage.items():
        (data / name).write_text(text)
    results = tmp_path / "results"
    fails(
        capsys,
        *TINY,
        "--epochs=1",
        f"--datasets_dir={data}",
        f"--models_dir={tmp_path / 'models'}",
        f"--results_dir={results}",
        mentions=mentions,
    )
    assert not list(results.glob("*.json"))


def test_an_unreadable_image_ends_training_in_one_line(demo_data, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(demo_data, data)
    for path in (data / "COCO" / "train2014").iterdir():
        size = path.stat().st_size
        path.write_bytes(bytes(size))  # the same size, so that the filter result still fits
    fails(
        capsys,
        *TINY,
        "--workers=1",
        f"--datasets_dir={data}",
        f"--models_dir={tmp_path / 'models'}",
        f"--results_dir={tmp_path}",
        mentions="cannot read image",
    )
    assert not (tmp_path / "models" / "text").exists()


def test_halves_of_different_trainings_are_noticed(trained, demo_data, tmp_path, capsys):
    models = tmp_path / "models"
    shutil.copytree(trained / "models", models)
    for suffix in ("cfg", "mdl"):
        shutil.copy(
            models / "visual" / f"generative.{suffix}", models / "visual" / f"lstm.{suffix}"
        )
    fails(
        capsys,
        "--utility=visual_evaluation",
        "--model_name=lstm",
        f"--datasets_dir={demo_data}",
        f"--models_dir={models}",
        f"--results_dir={tmp_path}",
        mentions="different trainings",
    )


@pytest.mark.parametrize("suffix", ["cfg", "mdl"])
@pytest.mark.parametrize("half", ["text", "visual"])
def test_damaged_model_files_are_one_line(trained, demo_data, tmp_path, capsys, half, suffix):
    models = tmp_path / "models"
    shutil.copytree(trained / "models", models)
    path = models / half / f"lstm.{suffix}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    fails(
        capsys,
        "--utility=visual_evaluation",
        "--model_name=lstm",
        f"--datasets_dir={demo_data}",
        f"--models_dir={models}",
        f"--results_dir={tmp_path}",
        mentions=path.name,
    )


@pytest.mark.parametrize(
    ("line", "mentions"),
    [
        ("  seed: 2020-13-45", "lstm.cfg"),
        ("  cluster_num: -3", "lstm.cfg"),
        ("  text_encoder: abacus", "abacus"),
        ("  run: 5", "lstm.cfg"),
    ],
)
def test_a_model_description_edited_by_hand_is_one_line(
    trained, demo_data, tmp_path, capsys, line, mentions
):
    models = tmp_path / "models"
    shutil.copytree(trained / "models", models)
    path = models / "text" / "lstm.cfg"
    key = line.split(":")[0] + ":"
    lines = [line if old.startswith(key) else old for old in path.read_text().splitlines()]
    assert line in lines
    path.write_text("\n".join(lines))
    fails(
        capsys,
        "--utility=text_evaluation",
        "--model_name=lstm",
        f"--datasets_dir={demo_data}",
        f"--models_dir={models}",
        f"--results_dir={tmp_path}",
        mentions=mentions,
    )


def test_make_demo_dataset_and_filter_through_the_command_line(tmp_path, capsys):
    data = f"--datasets_dir={tmp_path / 'world'}"
    assert main(["--utility=make_demo_dataset", data, "--images=24", "--seed=3"]) == 0
    assert "train images 24" in capsys.readouterr().out
    assert main(["--utility=filter_unwanted_coco_images", data]) == 0
    printed = capsys.readouterr().out
    assert "train2014: " in printed
    assert "grayscale" in printed
    assert (tmp_path / "world" / "filtered_images.json").exists()


def test_seeds_are_trained_one_after_another_and_compared(demo_data, tmp_path, capsys):
    call = [
        *TINY,
        "--epochs=1",
        "--model_name=lstm",
        f"--datasets_dir={demo_data}",
        f"--models_dir={tmp_path / 'models'}",
        f"--results_dir={tmp_path}",
    ]
    assert main([*call, "--seeds", "3", "1"]) == 0
    single = [option for option in call if not option.startswith("--model_name")]
    assert main([*single, "--model_name=alone", "--seed=1"]) == 0
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
