"""Benchmarks of speed run and write what they promise; how fast anything is, is not asserted."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks import step_cost
from tests.benchmarks.speed import main

README = (Path(__file__).parent / "benchmarks" / "README.md").read_text(encoding="utf-8")
FIGURES = set(re.findall(r"^\| `(\w+)`", README, flags=re.MULTILINE))


def test_speed_benchmark_at_a_tiny_size(tmp_path, capsys):
    out = tmp_path / "benchmark.json"
    main(["--quick", f"--out={out}"])
    content = json.loads(out.read_text())
    assert set(content["figures"]) == set(content["runs"]) == FIGURES
    for name, value in content["figures"].items():
        assert math.isfinite(value) and value > 0
        assert content["runs"][name]["lowest"] <= value <= content["runs"][name]["highest"]
        assert content["runs"][name]["count"] > 1
    assert content["machine"]["threads"] >= 1
    table = capsys.readouterr().out
    assert all(f"| `{name}` |" in table for name in FIGURES)


@pytest.mark.parametrize("name", step_cost.VARIANTS)
def test_cost_of_a_joint_step_at_a_tiny_size(name):
    cost = step_cost.measure(replace(step_cost.VARIANTS[name], **step_cost.QUICK))
    assert cost["seconds"] > 0
    assert cost["peak_mb"] >= cost["start_mb"] > 0
