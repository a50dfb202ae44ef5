"""What results say of the program that wrote them."""

import subprocess
import sys
import tomllib

import numpy as np
import pytest
import torch

from main import main
from models_src.model_files import load_text_model
from tests.conftest import results_of
from utils import provenance
from utils.provenance import ROOT, VERSION, git_commit


def git(folder, *words):
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_version_is_that_of_the_project_file():
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["project"]["version"] == VERSION


def test_commit_of_a_checkout_and_whether_it_was_changed(tmp_path):
    assert git_commit(tmp_path) is None
    git(tmp_path, "init")
    assert git_commit(tmp_path) is None  # nothing is committed
    (tmp_path / "a.py").write_text("x")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-m", "first")
    git(tmp_path, "tag", "v1")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "untracked").write_text("x")
    assert git_commit(tmp_path) == commit
    (tmp_path / "a.py").write_text("y")
    assert git_commit(tmp_path) == f"{commit}-dirty"
    (tmp_path / "inner").mkdir()
    assert git_commit(tmp_path / "inner") is None


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    git(tmp_path, "init")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit(tmp_path) is None


@pytest.mark.parametrize(("commit", "expected"), [
    (None, (None, None)), ("1" * 40, ("1" * 40, False)), ("1" * 40 + "-dirty", ("1" * 40, True)),
])  # fmt: skip
def test_commit_and_dirt_are_told_apart(monkeypatch, commit, expected):
    monkeypatch.setattr(provenance, "git_commit", lambda _folder: commit)
    found = provenance.provenance()
    assert (found["git_commit"], found["git_dirty"]) == expected


@pytest.mark.parametrize("utility", ["text_evaluation", "visual_evaluation"])
def test_results_tell_where_they_come_from(places, trained, tmp_path, utility):
    assert main([f"--utility={utility}", "--model_name=lstm", *places]) == 0
    found = results_of(tmp_path, utility, "lstm")["provenance"]
    _, settings, origin = load_text_model(trained / "models", "lstm")
    assert found["version"] == VERSION
    assert found["libraries"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["libraries"]["numpy"] == np.__version__
    assert found["libraries"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert all(found["libraries"].values())
    assert found["model"]["seed"] == settings.seed
    assert found["model"]["data_fingerprint"] == origin.data_fingerprint
    assert found["model"]["run"] == origin.run


def test_results_without_a_model_say_so(places, tmp_path):
    assert main(["--utility=random_heatmap_evaluation", *places]) == 0
    found = results_of(tmp_path, "random_heatmap_evaluation", "random")
    assert found["provenance"]["model"] is None
