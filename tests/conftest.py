"""Shared data of the tests: a small demo world and models trained on it for a few steps."""

from pathlib import Path

import pytest

from datasets_src.demo_world import make_demo_world
from datasets_src.filtering import filter_images
from main import main

TINY = [
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


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filtered demo world of 40 training images; tests must not change it."""
    folder = tmp_path_factory.mktemp("demo") / "datasets"
    make_demo_world(folder, images=40, seed=0)
    filter_images(folder)
    return folder


@pytest.fixture(scope="session")
def trained(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models/ and results/ of two tiny trainings, named lstm and generative."""
    folder = tmp_path_factory.mktemp("trained")
    for name in ("lstm", "generative"):
        status = main(
            [
                *TINY,
                f"--text_encoder={name}",
                f"--model_name={name}",
                f"--datasets_dir={demo_data}",
                f"--models_dir={folder / 'models'}",
                f"--results_dir={folder / 'results'}",
            ]
        )
        assert status == 0
    return folder


@pytest.fixture
def places(demo_data: Path, trained: Path, tmp_path: Path) -> list[str]:
    """Options for the demo data and its trained models, with results of the test's own."""
    return [
        f"--datasets_dir={demo_data}",
        f"--models_dir={trained / 'models'}",
        f"--results_dir={tmp_path}",
    ]
