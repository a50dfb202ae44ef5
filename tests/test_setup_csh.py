import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest

from datasets_src.filtering import FILTER_FILE
from datasets_src.norms import ASSOCIATION_FILE, CONCRETENESS_FILE
from utils.provenance import ROOT

# without start-up files; and what prints the status of the last command
SHELLS = {"bash": ("bash --norc -c", "echo alive $?"), "tcsh": ("tcsh -f -c", "echo alive $status")}


@pytest.fixture(params=SHELLS)
def shell(request):
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return request.param


def source(shell, *arguments, script="setup.csh", cwd=ROOT):
    """Source setup.csh and go on in the same shell; return its status, output and complaints."""
    words = " ".join(shlex.quote(str(word)) for word in (script, *arguments))
    start, alive = SHELLS[shell]
    done = subprocess.run(
        [*start.split(), f"source {words}; {alive}"],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )
    *lines, last = done.stdout.splitlines() or [""]
    word, _, status = last.partition(" ")
    assert word == "alive", f"the shell ended: {done}"
    return int(status), lines, done.stderr


def copy_of(demo_data, target, without=()):
    """A copy of the demo world as it is before setup."""
    ignored = shutil.ignore_patterns(FILTER_FILE, *without)
    return shutil.copytree(demo_data, target, ignore=ignored)


def test_prepares_the_data_and_prints_counts_by_cause(demo_data, tmp_path, shell):
    data = copy_of(demo_data, tmp_path / "data with a space")
    status, lines, complaints = source(shell, sys.executable, data)
    assert status == 0
    assert "error" not in complaints
    expected = json.loads((demo_data / FILTER_FILE).read_text(encoding="utf-8"))
    assert json.loads((data / FILTER_FILE).read_text(encoding="utf-8")) == expected
    for name, result in expected["splits"].items():
        (line,) = [line for line in lines if line.startswith(name)]
        assert f"{result['kept']} of {result['images']} images kept" in line
        for cause in ("no_instances", "grayscale", "multi_word_category"):
            assert f"{cause.replace('_', ' ')} {len(result['dropped'][cause])}" in line
    assert not any("not measured" in line for line in lines)


def test_says_what_is_missing_and_still_succeeds(demo_data, tmp_path, shell):
    data = copy_of(demo_data, tmp_path / "data", without=(ASSOCIATION_FILE, CONCRETENESS_FILE))
    python = tmp_path / "a folder" / "python"  # its path may hold a space too
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    status, lines, _ = source(shell, python, data)
    assert status == 0
    missing = [line for line in lines if "not measured" in line]
    assert len(missing) == 2
    for words in (("concreteness", CONCRETENESS_FILE), ("word_association", ASSOCIATION_FILE)):
        assert any(all(word in line for word in words) for line in missing)


def test_mistakes_are_one_line_and_the_shell_lives_on(tmp_path, shell):
    absent, usage = tmp_path / "not there", "setup.csh <python> <datasets dir>"
    elsewhere = {"script": ROOT / "setup.csh", "cwd": tmp_path}
    for arguments, options, told in (
        ((sys.executable, absent), {}, str(absent)),
        ((), {}, usage),
        (("python",), {}, usage),
        ((sys.executable, tmp_path), elsewhere, "main.py"),
    ):
        status, lines, complaints = source(shell, *arguments, **options)
        assert (status, lines) == (2, [])
        assert complaints.startswith("error: ")
        assert complaints.count("\n") == 1
        assert told in complaints
    assert not absent.exists()
    status, _, complaints = source(shell, tmp_path / "no-python", tmp_path)
    assert status != 0
    assert "no-python" in complaints
