"""Trainings that are killed at random moments and continued end as if nothing had happened."""

import multiprocessing
import random
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from datasets_src.pairs import TrainingPairs, load_training_pairs
from evaluation.development import write_development
from evaluation.reports import write_history
from models_src import visual_encoders
from models_src.development import Plan
from models_src.settings import TrainingSettings
from models_src.training import BEST_METRIC, train
from models_src.training_run import RunOptions
from tests.test_training import assert_same, weights

KILLS = 20
MODEL = {
    "image_size": 32,
    "cluster_num": 10,
    "batch_size": 20,
    "epochs": 2,
    "embedding_dim": 8,
    "hidden_dim": 8,
    "visual_encoder": "resnet18",
    "visual_learning_rate": 0.001,
    "random_start_steps": 6,
    "text_threshold": 0.05,
    "flip_images": True,
}


def thin_network(_name: str, cluster_num: int, _pretrained: bool) -> nn.Module:
    """The first block of a ResNet: small files, so that there is a checkpoint after each step."""
    network = models.resnet18(weights=None)
    network.layer2 = network.layer3 = network.layer4 = nn.Identity()
    network.fc = nn.Linear(64, cluster_num)
    return network


def train_here(folder: Path, pairs: TrainingPairs, encoder: str, workers: int) -> None:
    """Train, or continue, in a process of its own."""
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # for the workers that read images
    visual_encoders._torchvision_network = thin_network

    def evaluate(text):
        posteriors = text.word_posteriors()
        return {BEST_METRIC: float(posteriors.max()), "mean": float(posteriors.mean())}

    settings = TrainingSettings(**MODEL, text_encoder=encoder)
    options = RunOptions("m", folder, workers=workers, resume=True, checkpoint_minutes=0)
    plan = Plan(
        7,
        ("dog",),
        lambda text: {"model": {"": evaluate(text)}},
        lambda moments: write_development(folder / "development.csv", moments),
    )
    train(settings, pairs, options, evaluate,
          lambda history: write_history(folder / "rows.csv", history), plan)  # fmt: skip


@pytest.fixture(scope="module")
def processes():
    """Processes that begin with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("encoder", ["lstm", "generative"])
def test_killed_and_continued_training_ends_as_an_uninterrupted_one(
    demo_data, tmp_path, processes, encoder, workers
):
    pairs = load_training_pairs(demo_data, use_all_images=False)

    def start(folder):
        process = processes.Process(target=train_here, args=(folder, pairs, encoder, workers))
        process.start()
        return process

    def files(folder):
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))

    straight = tmp_path / "straight"
    for folder in (tmp_path / "first", straight):  # the second is warm, and tells the duration
        began = time.monotonic()
        process = start(folder)
        process.join()
        duration = time.monotonic() - began
        assert process.exitcode == 0

    moments = random.Random(0)
    kills = finished = 0
    steps = set()  # after which a run was killed
    while kills < KILLS or not finished:
        folder = tmp_path / f"killed_{finished}"
        process = start(folder)
        process.join(None if kills >= KILLS else moments.uniform(0, duration))
        process.kill()
        process.join()
        if process.exitcode == 0:
            finished += 1
            assert files(folder) == files(straight)
            assert_same(weights(straight), weights(folder))
            assert_same(weights(straight, "m_best"), weights(folder, "m_best"))
            for table in ("rows.csv", "development.csv"):
                assert (folder / table).read_bytes() == (straight / table).read_bytes()
        else:
            assert process.exitcode == -9
            kills += 1
            if (folder / "m.checkpoint").exists():
                checkpoint = torch.load(folder / "m.checkpoint", weights_only=True)
                steps.add(checkpoint["run"]["step"])
    assert len(steps) >= 3
