"""The worked examples of CONTRIBUTING.md, added to a copy of the program and used."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from datasets_src.datasets import load_split
from datasets_src.splits import SPLITS
from tests.conftest import TINY

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(python|diff) (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """Return a copy of the program with the examples added."""
    copy = tmp_path_factory.mktemp("extended")
    shutil.copy(ROOT / "main.py", copy)
    for folder in ("evaluation", "models_src", "datasets_src", "utils"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    blocks = BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(blocks) == 7
    for kind, name, content in blocks:
        path = copy / name
        if kind == "python":
            assert not path.exists()
            path.write_text(content, encoding="utf-8")
            continue
        old = "".join(line[1:] for line in content.splitlines(True) if line[0] == " ")
        new = "".join(line[1:] for line in content.splitlines(True))
        before = path.read_text(encoding="utf-8")
        assert before.count(old) == 1, f"{name}: {old}"
        path.write_text(before.replace(old, new), encoding="utf-8")
    return copy


def test_examples_train_and_evaluate(extended, demo_data, tmp_path):
    datasets = tmp_path / "datasets"
    images = datasets / "mine" / "images"
    images.mkdir(parents=True)
    for name, short in zip(SPLITS, ("train", "val"), strict=True):
        split = load_split(demo_data, name)
        lines = []
        for caption, image in zip(split.captions, split.caption_image, strict=True):
            lines.append(f"{split.file_names[image]}\t{caption}\n")
            if not (images / str(split.file_names[image])).exists():
                shutil.copy(split.path(image), images)
        (datasets / "mine" / f"{short}.tsv").write_text("".join(lines), encoding="utf-8")

    def run(*options: str) -> None:
        places = [f"--{name}_dir={tmp_path / name}" for name in ("datasets", "models", "results")]
        subprocess.run(
            [sys.executable, "main.py", "--dataset=mine", "--model_name=m", *places, *options],
            cwd=extended,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
        )

    run(*TINY, "--text_encoder=smoothed", "--epochs=1")
    run("--utility=visual_evaluation", "--workers=0", "--device=cpu")
    rows = (tmp_path / "results" / "m" / "evaluation_by_epoch.csv").read_text().splitlines()
    perplexity = dict(row.split(",") for row in rows)["cluster_use.perplexity"]
    assert 1 <= float(perplexity) <= 20
    matching = json.loads((tmp_path / "results" / "visual_evaluation_m.json").read_text())
    trials = matching["metrics"]["sentence_image_matching"]["trial_count"]
    assert trials == len(load_split(demo_data, SPLITS[1]).image_ids)


def test_examples_keep_the_style(extended):
    ruff = [sys.executable, "-m", "ruff"]
    config = f"--config={ROOT / 'pyproject.toml'}"
    for command in (["check"], ["format", "--check"]):
        subprocess.run([*ruff, *command, config, str(extended)], check=True)
