"""Shared data of the tests: a small demo world, models trained on it, and a CNN that is fast."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from datasets_src.datasets import load_split
from datasets_src.demo_world import make_demo_world
from datasets_src.filtering import filter_images
from datasets_src.pairs import TrainingPairs, load_training_pairs
from datasets_src.splits import Split
from main import main
from models_src import visual_encoders

TINY = [  # options of a short training
    "--visual_encoder=resnet18",
    "--image_size=32",
    "--cluster_num=20",
    "--batch_size=30",
    "--epochs=2",
    "--visual_learning_rate=0.001",
    "--embedding_dim=8",
    "--hidden_dim=16",
    "--workers=0",
    "--device=cpu",
]
SMALL = {  # settings of a shorter one
    "visual_encoder": "resnet18",
    "image_size": 32,
    "cluster_num": 10,
    "batch_size": 40,
    "epochs": 2,
    "embedding_dim": 8,
    "hidden_dim": 8,
    "random_start_steps": 4,
}


class SmallNetwork(nn.Module):
    """A CNN with what makes parts of a batch differ from a whole, or repetitions from the first."""

    def __init__(self, cluster_num: int, norm: bool = True, dropout: float = 0.2):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(16) if norm else nn.Identity()
        self.second = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(16, cluster_num)

    def forward(self, images):
        features = torch.relu(self.second(torch.relu(self.norm(self.conv(images)))))
        return self.fc(self.dropout(self.avgpool(features).flatten(1)))


def thin_network(_name: str, cluster_num: int, _pretrained: bool) -> nn.Module:
    return SmallNetwork(cluster_num)


def dirs(data: Path, models: Path, results: Path | None = None) -> list[str]:
    """Return the options that name the three folders; results go to the models unless named."""
    named = {"datasets": data, "models": models, "results": results or models}
    return [f"--{name}_dir={path}" for name, path in named.items()]


def results_of(folder: Path, utility: str, name: str) -> dict:
    """Return the results that a utility wrote of a model."""
    return json.loads((folder / f"{utility}_{name}.json").read_text())


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filtered demo world of 40 training images; tests must not change it."""
    folder = tmp_path_factory.mktemp("demo") / "datasets"
    make_demo_world(folder, images=40, seed=0)
    filter_images(folder)
    return folder


@pytest.fixture(scope="session")
def pairs(demo_data: Path) -> TrainingPairs:
    return load_training_pairs(demo_data, use_all_images=False)


@pytest.fixture(scope="session")
def test_split(demo_data: Path) -> Split:
    return load_split(demo_data, "val2014", with_instances=True)


@pytest.fixture(scope="session")
def trained(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models/ and results/ of two tiny trainings, named lstm and generative."""
    folder = tmp_path_factory.mktemp("trained")
    for name in ("lstm", "generative"):
        places = dirs(demo_data, folder / "models", folder / "results")
        assert main([*TINY, f"--text_encoder={name}", f"--model_name={name}", *places]) == 0
    return folder


@pytest.fixture
def places(demo_data: Path, trained: Path, tmp_path: Path) -> list[str]:
    """Options for the demo data and its trained models, with results of the test's own."""
    return dirs(demo_data, trained / "models", tmp_path)


@pytest.fixture
def thin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train a thin network in place of torchvision's."""
    monkeypatch.setattr(visual_encoders, "_torchvision_network", thin_network)
