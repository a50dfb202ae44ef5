"""Two processes that train together end as one process does."""

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import traceback
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets_src.filtering import load_filtered_split
from datasets_src.pairs import TrainingPairs
from main import main
from models_src import training, visual_encoders
from models_src.distributed import joined_ranks, rank, world_size
from tests.conftest import TINY, dirs, thin_network
from tests.test_cli import fails
from tests.test_training import assert_same, damaged_copy, run, watch_steps, without_norm
from utils.provenance import ROOT

RANKS = 2
SECONDS = 300  # after which processes that wait for each other are ended
GROUPED = {"group_captions": True, "batch_size": 8, "flip_images": True, "precision": "bf16"}
TRAININGS = {  # name -> settings
    "lstm": {"text_encoder": "lstm", "epochs": 2},
    "generative": {"text_encoder": "generative", "visual_threshold": 0.0},
    # its last batch of an epoch has 3 images, too few for two processes
    "grouped": {"text_encoder": "lstm", **GROUPED},
    "parts": {"text_encoder": "gru", "accumulate": 2, "smallest_crop": 0.6},
    "damaged": {"text_encoder": "generative", "visual_threshold": 0.0},
}


def train_here(
    name: str, folder: Path, pairs, settings, network=without_norm, stop_at=None, **options
) -> dict:
    """Train in this process, alone or as one rank, and return all that it ends with."""
    runs, reports, interrupted = [], [], False
    plain_new = training.new_run

    def new_run(*arguments, **given):
        runs.append(plain_new(*arguments, **given))
        return runs[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "new_run", new_run)
        patch.setattr(visual_encoders, "_torchvision_network", network)
        # the signal is to one rank only, in the midst of a step
        steps = watch_steps(patch, stop_at if rank() == world_size() - 1 else None)
        try:
            run(
                pairs,
                folder,
                lambda _text: {"rank": rank()},
                lambda history: reports.append(len(history)),
                {"epochs": 1} | settings,
                name=name,
                **options,
            )
        except KeyboardInterrupt:
            interrupted = True
    state = runs[-1].state_dict()
    for own in ("random", "run_id", "seconds", "history"):  # of each process
        del state[own]
    return {
        "state": state,
        "history": runs[-1].history,
        "posteriors": runs[-1].text.word_posteriors(),
        "reports": reports,
        "steps": len(steps),
        "interrupted": interrupted,
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob(f"{name}*")),
    }


def as_rank(number: int, port: int, folder: Path, work, *arguments) -> None:
    """Be one of two ranks, do ``work``, and leave what it returns in a file."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(RANKS), **place}
    torch.set_num_threads(1)
    try:
        with joined_ranks("cpu"):
            torch.save(work(*arguments), folder / f"{number}.result")
    except BaseException:
        (folder / f"{number}.failed").write_text(traceback.format_exc())
        os._exit(1)  # without waiting for the other


def together(folder: Path, work, *arguments) -> list:
    """Do ``work`` in two processes that exchange what they compute; return what each returns."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    processes = [
        context.Process(target=as_rank, args=(number, port, folder, work, *arguments))
        for number in range(RANKS)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
    failures = [path.read_text() for path in folder.glob("*.failed")]
    assert not failures and not late, "\n".join(failures) or "they wait for each other"
    return [torch.load(folder / f"{number}.result", weights_only=False) for number in range(RANKS)]


def all_trainings(folder: Path, pairs: TrainingPairs, damaged: TrainingPairs) -> dict[str, dict]:
    """Train everything of ``TRAININGS``."""
    return {
        name: train_here(name, folder, damaged if name == "damaged" else pairs, settings)
        for name, settings in TRAININGS.items()
    }


@pytest.fixture(scope="module")
def damaged(demo_data, tmp_path_factory) -> TrainingPairs:
    folder = tmp_path_factory.mktemp("damaged") / "datasets"
    return damaged_copy(demo_data, folder, 2)[0]


@pytest.fixture(scope="module")
def outcomes(pairs, damaged, tmp_path_factory) -> tuple[dict, list[dict]]:
    """What one process ends with, and what each of two that train together does."""
    folder = tmp_path_factory.mktemp("trainings")
    alone = all_trainings(folder / "alone", pairs, damaged)
    return alone, together(folder / "both", all_trainings, folder / "both", pairs, damaged)


@pytest.mark.parametrize("name", TRAININGS)
def test_both_ranks_learn_what_one_process_learns_and_the_first_reports(outcomes, name):
    alone, (both, second) = outcomes[0][name], (of_rank[name] for of_rank in outcomes[1])
    assert_same(both["state"], second["state"])
    assert torch.equal(both["posteriors"], second["posteriors"])
    assert alone["steps"] == both["steps"] == second["steps"] > 2
    assert (both["reports"], second["reports"]) == (alone["reports"], [])
    reduced = TRAININGS[name].get("precision") == "bf16"
    for row, other in zip(alone["history"], both["history"], strict=True):
        assert row.keys() == other.keys()
        assert other["rank"] == 0
        for key, value in row.items():
            if "loss" in key:
                assert other[key] == pytest.approx(value, rel=1e-2 if reduced else 1e-5), key
            elif not reduced:  # means and counts of bits, exactly
                assert other[key] == value, key
    assert alone["files"] == both["files"]
    assert alone["state"]["bad_images"] == both["state"]["bad_images"]
    assert len(alone["state"]["bad_images"]) == (2 if name == "damaged" else 0)
    if TRAININGS[name]["text_encoder"] == "generative":
        counts, other = (end["state"]["text"]["word_cluster_counts"] for end in (alone, both))
        assert torch.equal(counts, other)
        assert counts.sum() > 1000
    if not reduced:
        for key, value in alone["state"]["visual"].items():
            torch.testing.assert_close(both["state"]["visual"][key], value, rtol=1e-3, atol=1e-5)


def stopped_and_resumed(folder: Path, pairs: TrainingPairs) -> list[dict]:
    """Train at one go, then with a stop and a continuation; the network has norms and dropout."""
    given = {"pairs": pairs, "network": thin_network, "settings": {"epochs": 2}}
    return [
        train_here("straight", folder, **given),
        train_here("stopped", folder, stop_at=3, **given),
        train_here("stopped", folder, resume=True, **given),
    ]


def test_a_signal_to_one_rank_stops_both_at_the_same_step_and_both_continue(pairs, tmp_path):
    first, second = together(tmp_path, stopped_and_resumed, tmp_path, pairs)
    for of_rank in (first, second):
        straight, stopped, resumed = of_rank
        assert [ended["interrupted"] for ended in of_rank] == [False, True, False]
        assert stopped["steps"] == 3
        assert "stopped.checkpoint" in stopped["files"]
        assert stopped["steps"] + resumed["steps"] == straight["steps"]
        assert_same(straight["state"], resumed["state"])
    for one, other in zip(first, second, strict=True):
        assert_same(one["state"], other["state"])  # running statistics, too
    statistics = first[0]["state"]["visual"]["network.norm.running_mean"]
    assert statistics.abs().sum() > 0


def continued(folder: Path, pairs: TrainingPairs) -> dict:
    """Continue the training that stands in ``folder``."""
    return train_here("m", folder, pairs, TRAININGS["generative"], resume=True)


def test_what_one_process_began_two_continue_and_the_other_way_round(pairs, outcomes, tmp_path):
    straight, one, two = outcomes[0]["generative"], tmp_path / "one", tmp_path / "two"
    begin = partial(train_here, "m", pairs=pairs, settings=TRAININGS["generative"], stop_at=2)
    assert begin(one)["interrupted"]
    assert together(two, begin, two)[0]["interrupted"]
    for ended in (together(one, continued, one, pairs)[0], continued(two, pairs)):
        states = straight["state"], ended["state"]
        assert torch.equal(*(state["text"]["word_cluster_counts"] for state in states))
        assert ended["state"]["step"] == straight["state"]["step"]
        for key in ("clusters_per_image", "clusters_per_caption", "agreement"):
            assert ended["history"][0][key] == straight["history"][0][key]


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Start the program in two processes, as users do."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*command, f"--nproc_per_node={RANKS}", "main.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=SECONDS,
        capture_output=True,
        text=True,
        check=False,
    )


def test_torchrun_trains_one_model_and_one_process_writes(demo_data, tmp_path):
    models, results = tmp_path / "models", tmp_path / "results"
    rows = ["--evaluate_every=3", "--evaluate_images=8"]
    ended = torchrun(*TINY, "--epochs=1", *rows, *dirs(demo_data, models, results))
    assert ended.returncode == 0, ended.stderr
    log = (results / "train_joint_model_model1.log").read_text()
    assert log.count("epoch 1: v_measure") == ended.stdout.count("epoch 1: v_measure") == 1
    assert (models / "visual" / "model1.mdl").exists()
    assert not list(models.glob("*.lock"))
    table = (results / "model1" / "development.csv").read_text()
    assert table.count("model,,visual_loss") == 4


def test_other_utilities_are_refused_under_torchrun(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    options = ["--utility=text_evaluation", f"--results_dir={tmp_path}"]
    fails(capsys, *options, mentions="start it without torchrun")


def test_processes_share_the_images_of_an_evaluation(demo_data, trained, tmp_path):
    data = tmp_path / "datasets"
    shutil.copytree(demo_data, data)
    split = load_filtered_split(data, "val2014", use_all_images=True)
    last = len(split.image_ids) - 1
    lost = [split.path(0), split.path(last)]
    for path in lost:
        path.write_bytes(b"no image")
    arguments = [
        "--utility=visual_evaluation", "--model_name=lstm", "--batch_size=2", "--workers=0",
        "--visual_threshold=-1.5", "--use_all_images", *dirs(data, trained / "models"),
    ]  # fmt: skip
    assert main([*arguments, f"--results_dir={tmp_path / 'alone'}"]) == 0
    ended = torchrun(*arguments, f"--results_dir={tmp_path / 'both'}")
    assert ended.returncode == 0, ended.stderr
    assert all(str(path) in ended.stdout for path in lost)
    files = [tmp_path / name / "visual_evaluation_lstm.json" for name in ("alone", "both")]
    alone, both = (json.loads(path.read_text()) for path in files)
    assert (both["metrics"], both["data"]) == (alone["metrics"], alone["data"])
    assert both["data"]["unreadable_images"] == [path.name for path in lost]
    assert both["metrics"]["activation"]["clusters_per_image"] > 0
    one, other = (np.load(path.with_suffix(".npz")) for path in files)
    for key in one:
        np.testing.assert_array_equal(one[key], other[key])

    for image in (1, last - 1):  # now they are too many, though no process has so many
        split.path(image).write_bytes(b"no image")
    ended = torchrun(*arguments, f"--results_dir={tmp_path / 'bad'}")
    assert ended.returncode != 0
    assert "error: 4 of" in ended.stderr
    assert not (tmp_path / "bad" / "visual_evaluation_lstm.json").exists()
