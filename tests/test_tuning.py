"""Tuning: the held-out images, the grid and its ranking, and searches that survive interruption."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets_src.captions import build_vocabulary
from datasets_src.datasets import load_split
from datasets_src.pairs import divide_training_data, held_out_images
from evaluation import tuning
from evaluation.reports import flatten
from evaluation.tuning import TunedRun, grid_combinations, ranked, ranking_table, read_grid
from main import main
from models_src import training
from models_src.settings import TrainingSettings, settings_from_sources
from models_src.training import train
from tests.conftest import TINY, dirs, results_of
from tests.test_cli import fails
from tests.test_coco import refusal_of
from tests.test_training import watch_steps

SMALL = [
    "--utility=tune_joint_model_parameters",
    *(option for option in TINY if not option.startswith("--batch_size")),
    "--text_encoder=generative",
    "--epochs=1",
]
pytestmark = pytest.mark.usefixtures("thin")

GRID = "batch_size: [47, 70]\ntext_threshold: 5e-2\n"  # 3 and 2 joint steps


@pytest.mark.parametrize(("images", "held_out"), [(2, 1), (7, 1), (8, 2), (1000, 200)])
def test_a_fifth_of_the_images_is_held_out(images, held_out):
    drawn = held_out_images(images, seed=4)
    assert drawn.sum() == held_out
    assert (drawn == held_out_images(images, seed=4)).all()
    assert images < 100 or (drawn != held_out_images(images, seed=5)).any()


def test_an_image_goes_to_one_side_with_all_its_captions_and_objects(demo_data):
    split = load_split(demo_data, "train2014", with_instances=True)
    pairs, held_out = divide_training_data(split, 1)
    sides = [set(part.image_ids) for part in (pairs.split, held_out)]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == set(split.image_ids)

    def captions(part):
        return list(zip(part.image_ids[part.caption_image], part.captions, strict=True))

    assert sorted(captions(pairs.split) + captions(held_out)) == sorted(captions(split))
    assert {image for image, _ in captions(held_out)} == sides[1]
    assert set(pairs.vocabulary.words) == set(build_vocabulary(pairs.split.captions)[0].words)
    assert set(held_out.image_ids[held_out.instances.image]) == sides[1]

    two = split.keep(np.arange(len(split.image_ids)) < 2)
    two = replace(two, captions=("a", "b"), caption_image=np.arange(2))
    assert "1 training captions of train2014" in refusal_of(divide_training_data, two, 0)


def test_a_grid_is_read_with_numbers_that_yaml_takes_for_text_and_checked_as_a_whole(tmp_path):
    text = "visual_learning_rate: [1e-3, 0.01]\nepochs: 3\nrandom_start_steps: [null, 0]\n"
    (tmp_path / "grid.yaml").write_text(text)
    assert read_grid(tmp_path / "grid.yaml") == {
        "visual_learning_rate": [0.001, 0.01],
        "epochs": [3],
        "random_start_steps": [None, 0],
    }
    grid = {"epochs": [2], "visual_encoder": ["resnet18", "simclr"]}
    message = refusal_of(grid_combinations, grid, {}, Path("g.yaml"))
    assert "(in g.yaml: epochs 2, visual_encoder simclr)" in message  # simclr needs weights


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("", "no setting"),
        ("epochs: [1", "grid.yaml"),
        ("epoch: [1, 2]", "unknown settings"),
        ("epochs: []", "epochs"),
        ("epochs: [1, 0]", "--epochs is 0"),
        ("text_threshold: [0.1, 1e-1]", "text_threshold in"),
        ("text_encoder: [lstm, rnn]", "'rnn'"),
    ],
)
def test_a_wrong_grid_is_refused_with_file_and_setting(tmp_path, text, mentions):
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    message = refusal_of(read_grid, path)
    assert mentions in message
    assert str(path) in message


def test_ranking():
    f1, matching = "class_name_classification.f1", "sentence_image_matching.accuracy"

    def run_of(name, score, accuracy=None):
        scores = {"class_name_classification": {"f1": score}}
        scores |= {"sentence_image_matching": {"accuracy": accuracy}}
        return TunedRun({"text_encoder": name}, TrainingSettings(text_encoder=name), scores)

    failed = TunedRun({}, TrainingSettings())
    runs = [run_of("lstm", None), run_of("gru", 0.25), failed, run_of("lstm", 0.25, 1 / 3)]
    order = ranked([*runs, run_of("generative", 0.5)], f1)
    assert order == [run_of("generative", 0.5), runs[1], runs[3], runs[0], failed]
    table = ranking_table(order, f1)
    assert list(table) == ["rank", "text_encoder", f1, matching]  # of what there is
    assert table.to_numpy().tolist()[2:4] == [[3, "lstm", 0.25, 1 / 3], [4, "lstm", None, None]]


def test_the_metric_that_ranks():
    absent = {"class_name_classification": "no instances", "categorization": "no file"}
    matching = "sentence_image_matching.accuracy"
    assert tuning.ranking_metric(None, absent) == matching
    assert tuning.ranking_metric("activation.clusters_per_image", absent)
    wanted = "class_name_classification.f1"
    assert "no instances" in refusal_of(tuning.ranking_metric, wanted, absent)


def command(data, folder, *extra, grid=GRID) -> list[str]:
    """Return a search over a grid that is written to a file of the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "grid.yaml").write_text(grid)
    return [*SMALL, f"--grid={folder / 'grid.yaml'}", *dirs(data, folder), *extra]


def search(*arguments, **options) -> int:
    return main(command(*arguments, **options))


def stored_of(folder) -> dict:
    return results_of(folder, "tune_joint_model_parameters", "model1")


def table_of(folder) -> str:
    return (folder / "model1" / "tuning.csv").read_text()


@pytest.fixture
def steps(monkeypatch) -> list:
    """A list that grows with each joint step."""
    return watch_steps(monkeypatch)


def test_one_training_is_scored_and_stored(demo_data, tmp_path, steps, capsys):
    arguments = [*SMALL, "--seed=3", "--batch_size=47", *dirs(demo_data, tmp_path)]
    assert main(arguments) == 0
    assert "class name classification" in capsys.readouterr().out
    results = stored_of(tmp_path)
    assert results["data"]["held_out_images"] == 7
    assert results["data"]["train_images"] == 28
    assert results["settings"]["held_out_seed"] == results["settings"]["seed"] == 3
    assert {"categorization", "heatmap", "activation"} <= set(results["metrics"])
    (stored,) = (tmp_path / "model1" / "tuning").iterdir()  # no model stays
    assert stored.suffix == ".json"
    taken = len(steps)
    assert main(arguments) == 0  # the same again comes from the store
    assert "(stored)" in capsys.readouterr().out
    assert len(steps) == taken
    assert stored_of(tmp_path)["metrics"] == results["metrics"]


def test_a_search_is_ranked_and_goes_on_where_it_was_interrupted(
    demo_data, tmp_path, monkeypatch, capsys
):  # fmt: skip
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert search(demo_data, whole) == 0
    table, results = table_of(whole), stored_of(whole)
    runs = results["metrics"]["runs"]
    best = whole / "model1" / "best.yaml"
    assert settings_from_sources(best, {}) == TrainingSettings(**runs[0]["settings"])
    command = f"python main.py --config={best} --model_name=model1 --datasets_dir={demo_data} "
    assert command in capsys.readouterr().out
    assert results["metrics"]["rank_by"] == "class_name_classification.f1"
    scores = [run["metrics"]["class_name_classification"]["f1"] for run in runs]
    assert scores == sorted(scores, reverse=True)
    assert results["settings"]["grid"] == {"batch_size": [47, 70], "text_threshold": [0.05]}
    assert "batch_size" not in results["settings"]
    for row, run in zip(csv.DictReader(table.splitlines()), runs, strict=True):
        flat = flatten(run["metrics"])
        assert row["batch_size"] == str(run["settings"]["batch_size"])
        for name in list(row)[3:]:
            assert row[name] == ("" if flat[name] is None else str(flat[name]))

    watch_steps(monkeypatch, 4)  # in the second training
    assert search(demo_data, stopped) == 130
    assert "1 of 2 results are stored" in capsys.readouterr().out
    assert search(demo_data, stopped) == 0
    assert "batch_size 47, text_threshold 0.05 (stored)" in capsys.readouterr().out
    assert table_of(stopped) == table
    assert {path.suffix for path in (stopped / "model1" / "tuning").iterdir()} == {".json"}


def test_overwrite_starts_anew_and_a_wrong_metric_costs_no_training(
    demo_data, tmp_path, steps, capsys
):  # fmt: skip
    misspelt = command(demo_data, tmp_path, "--rank_by=cluster_counts.activ_clusters")
    fails(capsys, *misspelt, mentions="did you mean cluster_counts.active_clusters")
    assert len(steps) == 3
    assert search(demo_data, tmp_path) == 0
    assert len(steps) == 5
    notes = tmp_path / "model1" / "tuning" / "notes.txt"
    notes.write_text("mine")
    assert search(demo_data, tmp_path, "--overwrite", grid="batch_size: 70") == 0
    assert len(steps) == 7
    stored, _ = sorted(notes.parent.iterdir())
    stored.write_text("{}")
    fails(capsys, *command(demo_data, tmp_path, grid="batch_size: 70"), mentions=f"{stored}: ")


def test_failures_rank_last_and_only_a_lack_of_memory_is_tried_again(
    demo_data, tmp_path, monkeypatch, steps
):  # fmt: skip
    def train_or_fail(settings, *arguments):
        if settings.batch_size == 70:
            raise torch.OutOfMemoryError("no memory for 70 images\nand a page of advice")
        if settings.batch_size == 47:
            raise training.LossNotFiniteError(3)
        return train(settings, *arguments)

    grid = "batch_size: [47, 70, 90]\n"
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "train", train_or_fail)
        assert search(demo_data, tmp_path, grid=grid) == 0
    failures = [str(training.LossNotFiniteError(3)), "no memory for 70 images"]
    table = table_of(tmp_path)
    assert table.splitlines()[2].startswith("2,47,,") and table.endswith(failures[1] + "\n")
    assert [run["failure"] for run in stored_of(tmp_path)["metrics"]["runs"]] == [None, *failures]
    taken = len(steps)
    assert search(demo_data, tmp_path, grid=grid) == 0
    runs = stored_of(tmp_path)["metrics"]["runs"]
    assert sorted(run["failure"] or "" for run in runs) == ["", "", failures[0]]
    assert len(steps) == taken + 2


@pytest.mark.parametrize(
    ("grid", "extra", "mentions"),
    [
        ("cluster_num: [3]", [], "--cluster_num is given here and in"),
        ("pretrained_visual: [absent.pt]", [], "absent.pt"),
        ("visual_threshold: [0.5]", ["--rank_by=f1"], "--rank_by f1"),
        ("visual_threshold: [0.5]", ["--rank_by=heatmap.false_positives"], "is lower for better"),
        ("visual_threshold: [0.5]", ["--config=absent.yaml"], "absent.yaml"),
        ("visual_threshold: [0.5]", ["--word_list=absent.txt"], "absent.txt"),
    ],
)
def test_mistakes_are_found_before_any_training(
    demo_data, tmp_path, steps, capsys, grid, extra, mentions
):
    fails(capsys, *command(demo_data, tmp_path, *extra, grid=grid), mentions=mentions)
    assert not steps
