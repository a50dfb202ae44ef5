"""Files that would run a command if they were unpickled carelessly, wherever a file is read.

Published models have more of them in ``test_published_models.py``. Names that would leave their
folder are here for what the command line and grids take; ``test_coco.py`` and ``test_flickr30k.py``
have those of images.
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

MODEL_FILES = ("text/lstm.mdl", "text/lstm.cfg", "visual/lstm.mdl", "visual/lstm.cfg")


def pickled(marker: Path) -> bytes:
    """Return a bare pickle that creates ``marker`` when it is loaded."""
    return pickle.dumps(Calls(os.system, f"touch {marker}"))


def zipped(marker: Path) -> bytes:
    """Return the same as torch.save writes it."""
    buffer = io.BytesIO()
    torch.save({"state": Calls(os.system, f"touch {marker}")}, buffer)
    return buffer.getvalue()


FORMS = (pickled, zipped)


@pytest.fixture
def marker(tmp_path) -> Path:
    """What must not be there after the test."""
    return tmp_path / "marker"


@pytest.fixture
def own_models(trained, tmp_path) -> Path:
    """A copy of the trained models, to be spoilt."""
    return Path(shutil.copytree(trained / "models", tmp_path / "models"))


def test_the_files_are_what_they_are_said_to_be(marker):
    pickle.loads(pickled(marker))
    assert marker.exists()
    marker.unlink()
    torch.load(io.BytesIO(zipped(marker)), weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("file", MODEL_FILES)
def test_models(places, own_models, capsys, marker, form, file):
    (own_models / file).write_bytes(form(marker))
    utility = "text_evaluation" if file.startswith("text") else "visual_evaluation"
    arguments = [f"--utility={utility}", "--model_name=lstm", *places]
    fails(capsys, *arguments, f"--models_dir={own_models}", mentions=str(own_models / file))
    assert not marker.exists()


@pytest.mark.parametrize("form", FORMS)
def test_checkpoints(places, tmp_path, capsys, marker, form):
    models = tmp_path / "models"
    models.mkdir()
    (models / "new.checkpoint").write_bytes(form(marker))
    own = [*places, f"--models_dir={models}", "--model_name=new"]
    fails(capsys, *TINY, *own, "--resume", mentions="new.checkpoint")
    assert not marker.exists()
    assert sorted(path.name for path in models.glob("*/*")) == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["text_only", "supervised_concreteness"])
@pytest.mark.parametrize("suffix", ["cfg", "mdl"])
def test_baselines(places, tmp_path, capsys, marker, form, kind, suffix):
    utility = {
        "text_only": ["--utility=train_text_only_baseline"],
        "supervised_concreteness": [
            "--utility=train_concreteness_supervised_model",
            "--conc_use_suffix",
        ],
    }[kind]
    own = [*places, f"--models_dir={tmp_path / 'models'}"]
    assert main([*utility, *own]) == 0
    capsys.readouterr()
    path = tmp_path / "models" / kind / f"{kind}.{suffix}"
    path.write_bytes(form(marker))
    question = ["--utility=concreteness_evaluation", f"--model_type={kind}"]
    fails(capsys, *question, *own, mentions=str(path))
    assert not marker.exists()


@pytest.mark.parametrize("form", FORMS)
def test_weights_to_start_from(places, tmp_path, capsys, marker, form):
    weights = tmp_path / "weights.pth"
    weights.write_bytes(form(marker))
    own = [*places, f"--models_dir={tmp_path / 'models'}", "--model_name=new"]
    fails(capsys, *TINY, *own, f"--pretrained_visual={weights}", mentions=str(weights))
    assert not marker.exists()


@pytest.mark.parametrize("form", FORMS)
def test_a_stored_filter(demo_data, places, tmp_path, capsys, marker, form):
    data = tmp_path / "datasets"
    shutil.copytree(demo_data, data)
    (data / "filtered_images.json").write_bytes(form(marker))
    own = [*places, f"--datasets_dir={data}", "--model_name=lstm"]
    fails(capsys, "--utility=visual_evaluation", *own, mentions="filtered_images.json")
    assert not marker.exists()


@pytest.mark.parametrize("form", FORMS)
def test_cached_images(places, tmp_path, marker, form):
    cache = tmp_path / "cache"
    arguments = ["--utility=visual_evaluation", "--model_name=lstm", *places]
    arguments.append(f"--image_cache={cache}")
    assert main(arguments) == 0
    whole = (tmp_path / "visual_evaluation_lstm.json").read_text()
    files = list(cache.iterdir())
    assert len(files) == 2
    for file in files:
        file.write_bytes(form(marker))
    assert main(arguments) == 0
    assert (tmp_path / "visual_evaluation_lstm.json").read_text() == whole
    assert not marker.exists()


@pytest.mark.parametrize("form", FORMS)
def test_results(places, tmp_path, capsys, marker, form):
    assert main(["--utility=visual_evaluation", "--model_name=lstm", *places]) == 0
    capsys.readouterr()
    path = tmp_path / "visual_evaluation_lstm.json"
    path.write_bytes(form(marker))
    fails(capsys, "--utility=compare_models", "--model_name=lstm", *places, mentions=str(path))
    assert not marker.exists()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("option", ["--config", "--grid"])
def test_settings_and_grids(places, tmp_path, capsys, marker, form, option):
    path = tmp_path / "settings.yaml"
    path.write_bytes(form(marker))
    utility = "train_joint_model" if option == "--config" else "tune_joint_model_parameters"
    own = [*places, f"--models_dir={tmp_path / 'models'}", "--model_name=new"]
    fails(capsys, f"--utility={utility}", *own, f"{option}={path}", mentions=str(path))
    path.write_text(f'!!python/object/apply:os.system ["touch {marker}"]\n')
    fails(capsys, f"--utility={utility}", *own, f"{option}={path}", mentions=str(path))
    assert not marker.exists()
