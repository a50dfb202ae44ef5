"""Files that would run a command if they were unpickled carelessly, wherever a file is read.

Published models have more of them in ``test_published_models.py``.
"""

import io
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from main import main
from tests.conftest import TINY
from tests.test_cli import fails
from tests.test_published_models import Calls

LSTM, NEW = "--model_name=lstm", "--model_name=new"
READERS = {  # file -> the call that reads it
    "models/text/lstm.mdl": ["--utility=text_evaluation", LSTM],
    "models/text/lstm.cfg": ["--utility=text_evaluation", LSTM],
    "models/visual/lstm.mdl": ["--utility=visual_evaluation", LSTM],
    "models/visual/lstm.cfg": ["--utility=visual_evaluation", LSTM],
    "models/text_only/b.mdl": [
        "--utility=concreteness_evaluation", "--model_type=text_only", "--model_name=b",
    ],
    "models/supervised_concreteness/b.cfg": [
        "--utility=concreteness_evaluation", "--model_type=supervised_concreteness",
        "--model_name=b",
    ],
    "models/new.checkpoint": [*TINY, NEW, "--resume"],
    "weights.pth": [*TINY, NEW, "--pretrained_visual=weights.pth"],
    "datasets/filtered_images.json": ["--utility=visual_evaluation", LSTM],
    "results/visual_evaluation_lstm.json": ["--utility=compare_models", LSTM],
    "settings.yaml": [*TINY, NEW, "--config=settings.yaml"],
    "grid.yaml": ["--utility=tune_joint_model_parameters", NEW, "--grid=grid.yaml"],
}  # fmt: skip


def pickled(call: Calls) -> bytes:
    return pickle.dumps(call)


def zipped(call: Calls) -> bytes:
    """Return the same as torch.save writes it."""
    buffer = io.BytesIO()
    torch.save({"state": call}, buffer)
    return buffer.getvalue()


def yaml_tag(call: Calls) -> bytes:
    return f"!!python/object/apply:os.system {list(call.reduced[1])}\n".encode()


@pytest.fixture
def marker(tmp_path) -> Path:
    """What must not be there after the test."""
    return tmp_path / "marker"


def touch(marker: Path) -> Calls:
    return Calls(os.system, f"touch {marker}")


def test_the_files_are_what_they_are_said_to_be(marker):
    pickle.loads(pickled(touch(marker)))
    assert marker.exists()
    marker.unlink()
    torch.load(io.BytesIO(zipped(touch(marker))), weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("file", READERS)
@pytest.mark.parametrize("form", [pickled, zipped, yaml_tag])
def test_no_file_runs_a_command(
    demo_data, trained, tmp_path, monkeypatch, capsys, marker, form, file
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(demo_data, "datasets")
    shutil.copytree(trained / "models", "models")
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name == "b.mdl":
        path.with_suffix(".cfg").write_text("settings: {}\n")
    path.write_bytes(form(touch(marker)))
    before = set(Path("models").rglob("*"))
    fails(capsys, *READERS[file], mentions=file)
    assert not marker.exists()
    assert {found for found in Path("models").rglob("*") if found.is_file()} <= before


@pytest.mark.parametrize("form", [pickled, zipped])
def test_cached_images(places, tmp_path, marker, form):
    cache = tmp_path / "cache"
    arguments = ["--utility=visual_evaluation", LSTM, *places, f"--image_cache={cache}"]
    assert main(arguments) == 0
    whole = (tmp_path / "visual_evaluation_lstm.json").read_text()
    files = list(cache.iterdir())
    assert len(files) == 2
    for file in files:
        file.write_bytes(form(touch(marker)))
    assert main(arguments) == 0
    assert (tmp_path / "visual_evaluation_lstm.json").read_text() == whole
    assert not marker.exists()
