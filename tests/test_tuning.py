"""Tuning: the held-out images, the grid and its ranking, and searches that survive interruption."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datasets_src.filtering import load_filtered_split
from datasets_src.holdout import DividedData, divide_training_data, held_out_images
from datasets_src.norms import CATEGORY_FILE, load_norms
from datasets_src.splits import Instances, Split
from evaluation import tuning
from evaluation.reports import flatten
from evaluation.tuning import Combination, TunedRun, grid_combinations, ranked, read_grid
from evaluation.utilities import common, evaluations
from evaluation.utilities import tuning as utility
from evaluation.word_evaluation import predict_words, word_metrics
from main import main, parse_options
from models_src import training
from models_src.settings import TrainingSettings
from models_src.training import RunOptions, train
from tests.conftest import TINY
from tests.test_coco import refusal_of
from tests.test_training import StopAt, no_report
from utils.errors import UserError

SMALL = [
    "--utility=tune_joint_model_parameters",
    *TINY,
    "--text_encoder=generative",
    "--epochs=1",
]
GRID = "batch_size: [47, 70]\ntext_threshold: 5e-2\n"  # 3 and 2 joint steps


# ---- the held-out images


@pytest.mark.parametrize(
    ("images", "held_out"), [(2, 1), (3, 1), (5, 1), (7, 1), (8, 2), (10, 2), (13, 3), (1000, 200)]
)
def test_a_fifth_of_the_images_is_held_out(images, held_out):
    drawn = held_out_images(images, seed=4)
    assert drawn.shape == (images,)
    assert drawn.sum() == held_out
    assert (drawn == held_out_images(images, seed=4)).all()


def test_another_seed_holds_out_other_images():
    assert (held_out_images(100, 0) != held_out_images(100, 1)).any()
    chosen = np.mean([held_out_images(10, seed) for seed in range(1000)], axis=0)
    assert np.abs(chosen - 0.2).max() < 0.06  # every image is as likely


def some_split(caption_image, instances=True) -> Split:
    """Ten images of which image i has an object of class i % 2, and captions of its own words."""
    count = 10
    return Split(
        name="train2014",
        folder=Path("images"),
        image_ids=np.arange(count) * 3 + 5,
        file_names=np.array([f"{i}.png" for i in range(count)]),
        widths=np.full(count, 20),
        heights=np.full(count, 10),
        captions=tuple(f"word{image} picture" for image in caption_image),
        caption_image=np.array(caption_image, dtype=np.int64),
        instances=Instances(
            np.arange(count), np.arange(count) % 2, np.ones((count, 4)), ("dog", "cat")
        )
        if instances
        else None,
    )


def test_an_image_goes_to_one_side_with_all_its_captions_and_objects():
    caption_image = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 3, 3, 0]
    split = some_split(caption_image)
    for seed in range(10):
        data = divide_training_data(split, True, seed)
        training_ids = set(data.pairs.split.image_ids.tolist())
        held_out_ids = set(data.held_out.image_ids.tolist())
        assert not training_ids & held_out_ids
        assert training_ids | held_out_ids == set(split.image_ids.tolist())
        assert len(held_out_ids) == 2
        assert len(data.pairs) + len(data.held_out.captions) == len(caption_image)
        for part in (data.pairs.split, data.held_out):
            for text, image in zip(part.captions, part.caption_image, strict=True):
                assert text == f"word{part.file_names[image][0]} picture"
        known = {f"word{(image_id - 5) // 3}" for image_id in training_ids} | {"picture"}
        assert set(data.pairs.vocabulary.words) == known
        shown = data.held_out.instances
        of_class = (data.held_out.image_ids[shown.image] - 5) // 3 % 2
        assert (of_class == shown.class_index).all()
        assert len(shown.image) == 2
        assert data.pairs.filtered


def test_fingerprints_notice_every_change():
    split = some_split([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    divided = divide_training_data(split, True, 0)
    held_out, found = divided.held_out, divided.fingerprint()
    assert divide_training_data(split, True, 0).fingerprint() == found
    instances = held_out.instances
    changed = [
        replace(held_out, captions=("word picture", *held_out.captions[1:])),
        replace(held_out, image_ids=held_out.image_ids + 1),
        replace(held_out, caption_image=held_out.caption_image[::-1]),
        replace(held_out, widths=held_out.widths + 1),
        replace(held_out, instances=None),
        replace(held_out, instances=replace(instances, boxes=instances.boxes * 2)),
        replace(held_out, instances=replace(instances, class_index=1 - instances.class_index)),
        replace(held_out, instances=replace(instances, class_names=("dog", "cow"))),
    ]
    hashes = {DividedData(divided.pairs, part).fingerprint()["held_out"] for part in changed}
    assert len(hashes | {found["held_out"]}) == len(changed) + 1
    other = divide_training_data(split, True, 1).fingerprint()
    assert other["training"] != found["training"]


def test_too_little_data_to_divide_is_refused():
    split = some_split([0, 1])
    one = split.keep(np.arange(10) == 0)
    assert "1 training images" in refusal_of(divide_training_data, one, False, 0)
    # one of the two captions is certainly held out with its image
    two = split.keep(np.arange(10) < 2)
    assert "1 training captions are left" in refusal_of(divide_training_data, two, False, 0)


# ---- the grid


@pytest.fixture
def grid_file(tmp_path):
    """A function that writes a grid and returns its path."""

    def write(text):
        path = tmp_path / "grid.yaml"
        path.write_text(text)
        return path

    return write


def test_a_grid_is_read_with_numbers_that_yaml_takes_for_text(grid_file):
    path = grid_file(
        "visual_learning_rate: [1e-3, 0.01]\nepochs: 3\nrandom_start_steps: [null, 0]\n"
        "freeze_visual: [true, false]\npretrained_visual: ../../x\n"
    )
    grid = read_grid(path)
    assert grid == {
        "visual_learning_rate": [0.001, 0.01],
        "epochs": [3],
        "random_start_steps": [None, 0],
        "freeze_visual": [True, False],
        "pretrained_visual": ["../../x"],
    }
    assert isinstance(grid["visual_learning_rate"][0], float)


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("", "no setting"),
        ("{}", "no setting"),
        ("- epochs", "setting: value"),
        ("epochs: [1", "not valid YAML"),
        ("epoch: [1, 2]", "unknown settings"),
        ("../../x: [1, 2]", "unknown settings"),
        ("model_name: [a, ../b]", "unknown settings"),
        ("epochs: []", "epochs"),
        ("epochs: [1, 0]", "--epochs is 0"),
        ("epochs: [1, many]", "--epochs"),
        ("epochs: [[1, 2]]", "--epochs"),
        ("epochs: {from: 1}", "--epochs"),
        ("epochs: [1, null]", "--epochs"),
        ("epochs: [1, 2, 1]", "epochs in"),
        ("text_threshold: [0.1, 1e-1]", "text_threshold in"),
        ("visual_threshold: [1, 1.0]", "visual_threshold in"),
        ("random_start_steps: [null, null]", "the value null twice"),
        ("freeze_visual: [1]", "--freeze_visual"),
        ("text_encoder: [lstm, rnn]", "'rnn'"),
        ("epochs: [1]\nepochs: [2]", "gives epochs more than once"),
    ],
)
def test_a_wrong_grid_is_refused_with_file_and_setting(grid_file, text, mentions):
    path = grid_file(text)
    message = refusal_of(read_grid, path)
    assert mentions in message
    assert str(path) in message


def test_combinations_are_all_in_order_on_top_of_the_base():
    grid = {"epochs": [3, 1], "seed": [5, 6, 7]}
    found = grid_combinations(grid, {"batch_size": 9, "epochs": 8})
    assert [(c.settings.epochs, c.settings.seed) for c in found] == [
        (3, 5), (3, 6), (3, 7), (1, 5), (1, 6), (1, 7)
    ]  # fmt: skip
    assert all(c.settings.batch_size == 9 for c in found)
    assert found[1].chosen == {"epochs": 3, "seed": 6}
    (only,) = grid_combinations({}, {"epochs": 4})
    assert only == Combination({}, TrainingSettings(epochs=4))


def test_combinations_are_checked_as_wholes():
    grid = {"epochs": [2], "visual_encoder": ["resnet18", "simclr"]}
    message = refusal_of(grid_combinations, grid, {}, Path("g.yaml"))
    assert "(in g.yaml: epochs 2, visual_encoder simclr)" in message
    assert grid_combinations(grid, {"pretrained_visual": "x"})  # the base alone need not be whole
    many = {name: list(range(2, 50)) for name in ("epochs", "batch_size", "seed")}
    assert "110592 combinations" in refusal_of(grid_combinations, many, {}, Path("g.yaml"))


# ---- ranking


def run_of(name, metrics) -> TunedRun:
    settings = TrainingSettings(text_encoder=name)
    return TunedRun(Combination({"text_encoder": name}, settings), metrics, None)


def test_ranking_and_its_tables():
    def metrics(f1, matching):
        return {"class_name_classification": {"f1": f1}, "sentence_image_matching": matching}

    runs = [
        run_of("lstm", metrics(None, {"accuracy": 0.75})),
        run_of("gru", metrics(0.25, {"accuracy": 0.5})),
        run_of("generative", None),
        run_of("discriminative", metrics(0.5, {"accuracy": None})),
        run_of("lstm", metrics(0.25, {"accuracy": 1 / 3})),
    ]
    order = ranked(runs, "class_name_classification.f1")
    assert order == [runs[3], runs[1], runs[4], runs[0], runs[2]]
    assert tuning.ranking_csv(order, "class_name_classification.f1") == (
        "rank,text_encoder,class_name_classification.f1,sentence_image_matching.accuracy\n"
        "1,discriminative,0.5,\n"
        "2,gru,0.25,0.5\n"
        "3,lstm,0.25,0.3333333333333333\n"
        "4,lstm,,0.75\n"
        "5,generative,,\n"
    )
    table = tuning.ranking_table(order, "class_name_classification.f1").splitlines()
    assert table[0].split() == ["rank", "text_encoder", "class_name_classification.f1", "matching"]
    assert [line.split() for line in table[1:4:2]] == [
        ["1", "discriminative", "0.5000", "-"],
        ["3", "lstm", "0.2500", "0.3333"],
    ]
    assert len({len(line) for line in table}) == 1


@given(
    st.lists(st.one_of(st.none(), st.floats(-5, 5), st.integers(-3, 3)), max_size=12)
)  # the reference repeatedly takes the first of the greatest
def test_ranking_is_as_picking_the_greatest_again_and_again(values):
    runs = [run_of("lstm", {"number": number, "m": value}) for number, value in enumerate(values)]
    left, expected = list(enumerate(values)), []
    while left:
        defined = [value for _, value in left if value is not None]
        pick = next(item for item in left if item[1] == (max(defined) if defined else None))
        left.remove(pick)
        expected.append(pick[0])
    assert [run.metrics["number"] for run in ranked(runs, "m")] == expected


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"visual_threshold": -1e-05, "freeze_visual": True, "visual_learning_rate": 1e-07},
        {"pretrained_visual": "my weights.pt", "random_start_steps": 0, "seed": 9},
    ],
)
def test_the_best_settings_as_a_command_line_are_those_settings(settings):
    expected = TrainingSettings(**settings)
    words = shlex.split(shlex.join(tuning.command_line(expected)))
    options = vars(parse_options(words))
    assert {name: options[name] for name in expected.as_dict()} == expected.as_dict()


def test_the_metric_that_ranks():
    measured = ["sentence_image_matching.accuracy", "cluster_counts.active_clusters"]
    absent = {"class_name_classification": "no instances", "categorization": "no file"}
    assert tuning.ranking_metric(None, measured, absent) == measured[0]
    assert tuning.ranking_metric(measured[1], measured, absent) == measured[1]
    for wanted, mentions in (
        ("class_name_classification.f1", "no instances"),
        ("accuracy", "sentence_image_matching.accuracy"),
        ("sentence_image_matching", "sentence_image_matching.accuracy"),
        ("sentence_image_matching.f1", "its names are sentence_image_matching.accuracy"),
        ("", "no metric"),
    ):
        assert mentions in refusal_of(tuning.ranking_metric, wanted, measured, absent)
    falling = "concreteness.mean_absolute_error"
    assert "lower for better" in refusal_of(tuning.ranking_metric, falling, [falling], {})


# ---- the utility


def places(data, folder) -> list[str]:
    return [
        f"--datasets_dir={data}",
        f"--models_dir={folder / 'models'}",
        f"--results_dir={folder / 'results'}",
    ]


def search(data, folder, *extra, grid=GRID) -> int:
    """Run a search whose grid stands in a file of the folder, and return its status."""
    folder.mkdir(exist_ok=True)
    (folder / "grid.yaml").write_text(grid)
    # the grid has the batch size
    small = [option for option in SMALL if not option.startswith("--batch_size")]
    return main([*small, f"--grid={folder / 'grid.yaml'}", *places(data, folder), *extra])


def results_of(folder, name="model1") -> dict:
    path = folder / "results" / f"tune_joint_model_parameters_{name}.json"
    return json.loads(path.read_text())


def outputs_of(folder) -> tuple[str, dict]:
    return (folder / "results" / "model1" / "tuning.csv").read_text(), results_of(folder)


class Steps:
    """Counts joint steps."""

    def __init__(self, monkeypatch):
        self.taken = 0
        plain = training.joint_step

        def counted(*arguments, **options):
            self.taken += 1
            return plain(*arguments, **options)

        monkeypatch.setattr(training, "joint_step", counted)


@pytest.fixture(scope="module")
def searched(demo_data, tmp_path_factory) -> Path:
    """The folder of an uninterrupted search over GRID."""
    folder = tmp_path_factory.mktemp("searched")
    assert search(demo_data, folder) == 0
    return folder


def test_one_training_is_scored_as_the_evaluations_score_it(demo_data, tmp_path, capsys):
    arguments = [*SMALL, "--seed=3", *places(demo_data, tmp_path)]
    assert main(arguments) == 0
    assert "class name classification" in capsys.readouterr().out
    results = results_of(tmp_path)
    split, filtered = load_filtered_split(
        demo_data, "train2014", use_all_images=False, with_instances=True
    )
    data = divide_training_data(split, filtered, seed=3)
    assert results["data"] == {
        "train_images": len(data.pairs.split.image_ids),
        "train_captions": len(data.pairs),
        "train_fingerprint": data.pairs.fingerprint(),
        "held_out_images": len(data.held_out.image_ids),
        "held_out_captions": len(data.held_out.captions),
        "held_out_fingerprint": data.held_out.fingerprint(),
        "filtered": True,
        "norms_fingerprint": load_norms(demo_data).fingerprint(),
    }
    settings = TrainingSettings(
        **{name: results["settings"][name] for name in TrainingSettings().as_dict()}
    )
    assert (settings.seed, settings.epochs, settings.cluster_num) == (3, 1, 20)
    train(settings, data.pairs, RunOptions("m", tmp_path), None, no_report)
    options = Namespace(models_dir=tmp_path, model_name="m", device="cpu", workers=0, given={})
    model = common.load_both_halves(options)
    expected = evaluations.evaluate_images(model, data.held_out, 3).metrics | word_metrics(
        predict_words(model.text, data.pairs.vocabulary),
        load_norms(demo_data),
        settings.text_threshold,
        3,
    )
    assert results["metrics"] == expected
    names = [name for name, value in flatten(expected).items() if value is not None]
    assert set(names) <= set(tuning.measured_metrics(load_norms(demo_data), data.held_out))
    assert set(flatten(expected)) == set(
        tuning.measured_metrics(load_norms(demo_data), data.held_out)
    )
    assert not list((tmp_path / "models").rglob("*"))  # neither models nor empty folders stay

    # the same again comes from the store
    assert main(arguments) == 0
    assert "(stored)" in capsys.readouterr().out
    assert results_of(tmp_path) == results


def test_a_search_writes_a_ranked_table_and_all_results(searched):
    table, results = outputs_of(searched)
    runs = results["metrics"]["runs"]
    assert results["metrics"]["rank_by"] == "class_name_classification.f1"
    assert [run["rank"] for run in runs] == [1, 2]
    assert {run["settings"]["batch_size"] for run in runs} == {47, 70}
    assert all(run["settings"]["text_threshold"] == 0.05 for run in runs)
    assert all(run["settings"]["cluster_num"] == 20 for run in runs)
    scores = [run["metrics"]["class_name_classification"]["f1"] for run in runs]
    assert scores == sorted(scores, reverse=True)
    assert results["settings"]["grid"] == {"batch_size": [47, 70], "text_threshold": [0.05]}
    assert results["settings"]["cluster_num"] == 20
    assert results["settings"]["held_out_seed"] == 0
    assert "batch_size" not in results["settings"]
    rows = list(csv.DictReader(table.splitlines()))
    assert list(rows[0])[:4] == [
        "rank",
        "batch_size",
        "text_threshold",
        "class_name_classification.f1",
    ]
    for row, run in zip(rows, runs, strict=True):
        flat = flatten(run["metrics"])
        assert row["batch_size"] == str(run["settings"]["batch_size"])
        for name in list(row)[3:]:
            assert row[name] == ("" if flat[name] is None else str(flat[name]))
    assert not list((searched / "models").rglob("*"))


def test_an_interrupted_evaluation_is_continued_without_training_again(
    demo_data, searched, tmp_path, monkeypatch, capsys
):
    plain, calls = utility.evaluate_images, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(utility, "evaluate_images", interrupted)
    assert search(demo_data, tmp_path) == 130
    printed = capsys.readouterr().out
    assert "1 of 2 results are stored" in printed
    assert not (tmp_path / "results" / "model1" / "tuning.csv").exists()
    steps = Steps(monkeypatch)
    assert search(demo_data, tmp_path) == 0
    assert steps.taken == 0
    assert len(calls) == 3
    printed = capsys.readouterr().out
    assert "combination 1 of 2: batch_size 47, text_threshold 0.05 (stored)" in printed
    assert "combination 2 of 2: batch_size 70, text_threshold 0.05\n" in printed
    assert outputs_of(tmp_path) == outputs_of(searched)
    assert not list((tmp_path / "models").rglob("*"))


def test_a_training_that_a_signal_ends_is_continued_from_its_checkpoint(
    demo_data, searched, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        StopAt(patch, 4)  # the first of the second combination's two steps
        assert search(demo_data, tmp_path) == 130
    printed = capsys.readouterr().out
    assert "--resume" not in printed
    assert "continue with the same command" in printed
    (checkpoint,) = (tmp_path / "models" / "tuning" / "model1").glob("*.checkpoint")
    (stored,) = (tmp_path / "results" / "model1" / "tuning").iterdir()
    assert checkpoint.stem != stored.stem
    steps = Steps(monkeypatch)
    assert search(demo_data, tmp_path) == 0
    assert steps.taken == 1
    assert outputs_of(tmp_path) == outputs_of(searched)
    assert not list((tmp_path / "models").rglob("*"))


def test_a_signal_after_the_last_step_ends_the_search(demo_data, tmp_path, monkeypatch):
    steps = Steps(monkeypatch)
    plain = utility.evaluate_images
    summarise = training._caption_batches

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return summarise(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_caption_batches", interrupted)
        patch.setattr(utility, "evaluate_images", lambda *_: pytest.fail("it went on"))
        assert search(demo_data, tmp_path, grid="batch_size: 70") == 130
    assert steps.taken == 2
    assert utility.evaluate_images is plain
    assert search(demo_data, tmp_path, grid="batch_size: 70") == 0
    assert steps.taken == 2


@pytest.fixture
def trained_settings(monkeypatch) -> list[TrainingSettings]:
    """Replaces training and evaluation, and lists the settings that would have been trained."""
    seen = []

    def invented(_options, _task, settings, _name):
        seen.append(settings)
        f1 = settings.batch_size / 100 - settings.text_threshold
        return {"metrics": {"class_name_classification": {"f1": f1}}, "failure": None}

    monkeypatch.setattr(utility, "_train_and_evaluate", invented)
    return seen


def test_stored_results_serve_longer_grids_and_the_same_data_only(
    demo_data, tmp_path, trained_settings
):
    assert search(demo_data, tmp_path) == 0
    assert [s.batch_size for s in trained_settings] == [47, 70]
    first = outputs_of(tmp_path)
    longer = "text_threshold: [0.05, 0.06]\nbatch_size: [70]\n"
    assert search(demo_data, tmp_path, grid=longer) == 0
    assert [s.text_threshold for s in trained_settings[2:]] == [0.06]
    rows = results_of(tmp_path)["metrics"]["runs"]
    assert [row["settings"]["text_threshold"] for row in rows] == [0.05, 0.06]
    trained_settings.clear()
    assert search(demo_data, tmp_path) == 0
    assert not trained_settings
    assert outputs_of(tmp_path) == first

    (tmp_path / "words.txt").write_text("dog\ncar\n")
    norms = tmp_path / "data"
    norms.mkdir()
    for path in demo_data.iterdir():
        if path.name != CATEGORY_FILE:
            (norms / path.name).symlink_to(path)
    lines = (demo_data / CATEGORY_FILE).read_text().splitlines()
    (norms / CATEGORY_FILE).write_text("\n".join(lines[:-1]) + "\n")
    for data, *extra in (
        (norms,),
        (demo_data, "--seed=1"),
        (demo_data, "--use_all_images"),
        (demo_data, f"--word_list={tmp_path / 'words.txt'}"),
    ):
        for expected in (2, 0):
            trained_settings.clear()
            assert search(data, tmp_path, *extra) == 0
            assert len(trained_settings) == expected


def test_a_whole_number_is_the_same_setting_in_a_file_and_as_an_option(
    demo_data, tmp_path, trained_settings
):
    assert search(demo_data, tmp_path, grid="visual_threshold: 0\nbatch_size: 70") == 0
    extra = ["--visual_threshold=0"]
    assert search(demo_data, tmp_path, *extra, grid="batch_size: 70") == 0
    assert len(trained_settings) == 1


def test_other_weights_of_the_same_name_are_trained_again(demo_data, tmp_path, trained_settings):
    weights = tmp_path / "weights.pt"
    for content in (b"old", b"old", b"new"):
        weights.write_bytes(content)
        assert search(demo_data, tmp_path, grid=f"pretrained_visual: {weights}") == 0
    assert len(trained_settings) == 2


def test_the_images_held_out_are_those_of_the_option_whatever_seeds_are_searched(
    demo_data, searched, tmp_path, monkeypatch
):
    seen = []

    def recorded(settings, pairs, *_rest):
        seen.append((settings.seed, pairs.fingerprint()))
        raise UserError("stopped here")

    monkeypatch.setattr(training, "train", recorded)
    for grid in ("seed: [4, 5]", "seed: [5]", "epochs: 1"):
        extra = [] if "epochs" in grid else ["--seed=0"]
        small = [o for o in SMALL if "epochs" not in o]
        (tmp_path / "g.yaml").write_text(grid)
        folder = tmp_path / grid[:4]
        arguments = [*small, f"--grid={tmp_path / 'g.yaml'}", *extra, *places(demo_data, folder)]
        assert main(arguments) == 2
    assert [seed for seed, _ in seen] == [4, 5, 0]
    assert len({fingerprint for _, fingerprint in seen}) == 1


def test_overwrite_starts_anew_and_leaves_other_files(demo_data, tmp_path, trained_settings):
    assert search(demo_data, tmp_path) == 0
    stored = tmp_path / "results" / "model1" / "tuning"
    (stored / "notes.txt").write_text("mine")
    checkpoint = tmp_path / "models" / "tuning" / "model1" / ("0" * 16 + ".checkpoint")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("")
    trained_settings.clear()
    assert search(demo_data, tmp_path, "--overwrite", grid="batch_size: 70") == 0
    assert len(trained_settings) == 1
    assert sorted(path.suffix for path in stored.iterdir()) == [".json", ".txt"]
    assert not checkpoint.exists()


def test_a_mistake_beside_overwrite_removes_nothing(demo_data, tmp_path, trained_settings):
    assert search(demo_data, tmp_path) == 0
    before = sorted((tmp_path / "results").rglob("*"))
    assert search(demo_data, tmp_path, "--overwrite", "--rank_by=f1") == 2
    assert sorted((tmp_path / "results").rglob("*")) == before


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"identity": {}, "metrics": null}'])
def test_a_damaged_result_is_trained_again(demo_data, tmp_path, trained_settings, capsys, damage):
    assert search(demo_data, tmp_path) == 0
    before = outputs_of(tmp_path)
    stored = sorted((tmp_path / "results" / "model1" / "tuning").iterdir())
    stored[0].write_text(damage)
    assert search(demo_data, tmp_path) == 0
    assert len(trained_settings) == 3
    assert f"{stored[0]} is damaged" in capsys.readouterr().out
    assert outputs_of(tmp_path) == before


def test_running_out_of_memory_ends_no_search_and_is_tried_again(demo_data, tmp_path, monkeypatch):
    def no_memory(settings, *arguments):
        if settings.batch_size == 70:
            raise torch.OutOfMemoryError("no memory for 70 images\nand a page of advice")
        return train(settings, *arguments)

    monkeypatch.setattr(training, "train", no_memory)
    assert search(demo_data, tmp_path) == 0
    good, bad = results_of(tmp_path)["metrics"]["runs"]
    assert (good["settings"]["batch_size"], bad["settings"]["batch_size"]) == (47, 70)
    assert (good["failure"], bad["failure"]) == (None, "no memory for 70 images")
    assert len(list((tmp_path / "results" / "model1" / "tuning").iterdir())) == 1
    # with memory enough, the same command trains what failed
    monkeypatch.setattr(training, "train", train)
    assert search(demo_data, tmp_path) == 0
    assert [run["failure"] for run in results_of(tmp_path)["metrics"]["runs"]] == [None, None]


def test_settings_that_cannot_be_trained_rank_last(demo_data, tmp_path, capsys):
    grid = "visual_learning_rate: [1e30, 1e-3]\nbatch_size: 70\n"
    rest = [o for o in SMALL if "batch_size" not in o and "learning_rate" not in o]
    (tmp_path / "g.yaml").write_text(grid)
    arguments = [*rest, f"--grid={tmp_path / 'g.yaml'}", *places(demo_data, tmp_path)]
    assert main([*arguments, "--rank_by=cluster_counts.active_tokens"]) == 0
    good, bad = results_of(tmp_path)["metrics"]["runs"]
    assert good["settings"]["visual_learning_rate"] == 0.001
    assert good["failure"] is None
    assert bad["metrics"] is None
    assert "not finite" in bad["failure"]
    table = (tmp_path / "results" / "model1" / "tuning.csv").read_text().splitlines()
    assert table[0].startswith("rank,visual_learning_rate,batch_size,cluster_counts.active_tokens")
    assert table[0].endswith(",failure")
    assert re.fullmatch(r"2,1e\+30,70,+the loss is not finite after 2 steps; .*", table[2])
    assert "--visual_learning_rate=0.001" in capsys.readouterr().out
    # alone it is an error like that of training
    capsys.readouterr()
    fast = [o for o in SMALL if "learning_rate" not in o]
    assert main([*fast, "--visual_learning_rate=1e30", *places(demo_data, tmp_path)]) == 2
    assert "not finite" in capsys.readouterr().err
    assert not list((tmp_path / "models").rglob("*.*"))


def test_captions_alone_are_ranked_by_matching(demo_data, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(demo_data / "COCO", data / "COCO")
    for path in (data / "COCO" / "annotations").glob("instances_*"):
        path.unlink()
    assert search(data, tmp_path, grid="batch_size: 90") == 0
    results = results_of(tmp_path)
    assert results["metrics"]["rank_by"] == "sentence_image_matching.accuracy"
    assert results["metrics"]["runs"][0]["metrics"]["heatmap"] is None
    assert {"heatmap", "categorization"} <= set(results["not_measured"])
    capsys.readouterr()
    wanted = "--rank_by=class_name_classification.f1"
    assert search(data, tmp_path, wanted, grid="batch_size: 90") == 2
    assert "no instances of train2014" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("grid", "extra", "mentions"),
    [
        ("epoch: [1]", [], "epoch"),
        ("batch_size: [70, 70]", [], "batch_size"),
        ("batch_size: []", [], "batch_size"),
        ("cluster_num: [3]", [], "--cluster_num is given on the command line and in"),
        ("pretrained_visual: [absent.pt]", [], "absent.pt"),
        ("visual_threshold: [0.5]", ["--rank_by=f1"], "--rank_by f1"),
        ("visual_threshold: [0.5]", ["--config=absent.yaml"], "absent.yaml"),
        ("visual_threshold: [0.5]", ["--dataset=absent"], "absent"),
        ("visual_threshold: [0.5]", ["--device=abacus"], "--device"),
        ("visual_threshold: [0.5]", ["--word_list=absent.txt"], "absent.txt"),
        (None, ["--rank_by=bounding_box.f1"], "--rank_by has no effect without --grid"),
        (None, ["--grid=absent.yaml"], "absent.yaml"),
    ],
)
def test_mistakes_are_found_before_any_training(
    demo_data, tmp_path, monkeypatch, capsys, grid, extra, mentions
):
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("it was trained"))
    arguments = [*SMALL, *places(demo_data, tmp_path)]
    arguments = [
        o for o in arguments if not (o.startswith("--device") and "--device=abacus" in extra)
    ]
    if grid is not None:
        (tmp_path / "g.yaml").write_text(grid)
        if grid.startswith("batch_size"):
            arguments.remove("--batch_size=30")
        arguments.append(f"--grid={tmp_path / 'g.yaml'}")
    assert main([*arguments, *extra]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert mentions in errors
    assert not list(tmp_path.rglob("*.json"))


def test_folders_that_cannot_be_written_are_found_before_any_training(
    demo_data, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("it was trained"))
    (tmp_path / "models").write_text("no folder")
    assert main([*SMALL, *places(demo_data, tmp_path)]) == 2
    assert f"{tmp_path / 'models'}" in capsys.readouterr().err
