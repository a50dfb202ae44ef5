"""What every floor shares: files, identities, the log, progress bars."""

import io
import json
import logging
import os
import pickle
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from main import main
from tests.conftest import dirs
from utils import progress
from utils.errors import UserError
from utils.files import (
    digest,
    only_process,
    read_each_line,
    read_lines,
    reading,
    require_writable_folder,
    write_atomically,
    write_json,
    write_text,
)
from utils.log import start_logging, stop_logging
from utils.progress import with_bar
from utils.provenance import ROOT

logger = logging.getLogger(__name__)


# ---- files


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_file_is_replaced_whole_or_stays_when_the_writer_fails(tmp_path, old):
    path = tmp_path / "folder" / "file"
    if old is not None:
        write_atomically(path, lambda file: file.write(old))

    def fail(file):
        file.write(b"half")
        assert path.exists() == (old is not None)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert [file.read_bytes() for file in path.parent.iterdir()] == ([] if old is None else [old])
    write_atomically(path, lambda file: file.write(b"new"))
    assert [file.read_bytes() for file in path.parent.iterdir()] == [b"new"]


def test_left_overs_of_killed_runs_are_removed_and_those_of_others_stay(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    path = tmp_path / "a[1].txt"
    left = tmp_path / f"{path.name}.{platform.node()}-{dead.pid}.tmp"
    running = tmp_path / f"{path.name}.{platform.node()}-{os.getppid()}.tmp"
    elsewhere = tmp_path / f"{path.name}.another-{dead.pid}.tmp"
    for file in (left, running, elsewhere):
        file.touch()
    write_text(path, "x")
    assert sorted(tmp_path.iterdir()) == sorted([path, running, elsewhere])


def test_folders_and_full_disks_are_the_users_mistakes(tmp_path):
    (tmp_path / "file").touch()
    for act in (
        lambda: write_text(tmp_path / "file" / "x", "x"),
        lambda: require_writable_folder(tmp_path / "file" / "x"),
    ):
        with pytest.raises(UserError, match=r"cannot write .*; check"):
            act()

    def fill(_file):
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"cannot write .*No space left on device; check"):
        write_atomically(tmp_path / "y", fill)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file"]


def test_json_and_text_are_read_back(tmp_path):
    write_json(tmp_path / "a.json", {"ü": [1, None]})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"ü": [1, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    (tmp_path / "b").write_bytes("\ufeffa\u2028b\r\nc".encode())
    assert read_lines(tmp_path / "b") == ["a\u2028b", "c"]
    (tmp_path / "c").write_text("1\n\n 2\nx\n")
    with pytest.raises(UserError, match=r"c line 4: 'x' should be a number; correct the line"):
        read_each_line(tmp_path / "c", int, "a number")


BAD = {
    "missing": lambda path: (path / "absent").read_text(),
    "folder": lambda path: path.read_text(),
    "utf8": lambda _: b"\xff".decode(),
    "json": lambda _: json.loads("{"),
    "deep json": lambda _: json.loads("[" * 100_000),
    "key": lambda _: {}["images"],
    "type": lambda _: int("3")["images"],
    "yaml": lambda _: yaml.safe_load("a: [\n"),
    "pickle": lambda _: pickle.loads(b"junk"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_a_parser_raises_is_one_line_with_file_and_advice(tmp_path, kind):
    with pytest.raises(UserError) as error, reading(tmp_path / "a.json", "get it again"):
        BAD[kind](tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'a.json'}: ")
    assert str(error.value).endswith("; get it again")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"^mine$"), reading(tmp_path):
        raise UserError("mine")


def test_only_one_process_holds_a_lock(tmp_path):
    path = tmp_path / "folder" / "x.lock"
    ask = (
        "import sys; from pathlib import Path; from utils.files import only_process\n"
        "with only_process(Path(sys.argv[1]), 'the work'): print('held')"
    )

    def other() -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", ask, str(path)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    with only_process(path, "the work"):
        assert "the work is under way in another process" in other().stderr
    assert other().stdout == "held\n"
    assert not path.exists()


def test_a_digest_tells_contents_apart():
    assert digest(np.arange(3), ["a"]) == digest(np.arange(6)[:3], ["a"])
    assert len({digest(*x) for x in ([np.arange(3)], [np.arange(4)], [["a"]], [["b"]])}) == 4


# ---- log


@pytest.fixture(autouse=True)
def no_handlers_left():
    yield
    stop_logging()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_told_once_and_the_messages_go_on_to_the_console(capsys):
    start_logging(Path("/dev/full"))
    logger.info("first")
    logger.info("second")
    stop_logging()
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.count("first") == captured.out.count("second") == 1
    assert captured.out.count("no more messages go to /dev/full: No space left on device") == 1


def test_the_log_tells_why_a_training_ended(tmp_path, monkeypatch, capsys):
    call = dirs(tmp_path / "absent", tmp_path)
    path = tmp_path / "train_joint_model_model1.log"
    assert main(call) == 2
    told = capsys.readouterr().err.removeprefix("error: ")
    (line,) = path.read_text().splitlines(keepends=True)
    assert line.endswith(f" ERROR {told}")

    def fail(_options):
        raise ZeroDivisionError("as a mistake in the program does")

    monkeypatch.setattr("evaluation.joint_training.train_joint_model", fail)
    assert main(call) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Traceback")
    assert captured.err in path.read_text()
    assert line in path.read_text()  # the log is continued


def test_names_that_are_no_utf8_are_logged(tmp_path):
    # in a process of its own: pytest-xdist cannot send such a name
    script = (
        "import logging, os, pathlib; from utils.log import start_logging\n"
        f"start_logging(pathlib.Path({str(tmp_path / 'x.log')!r}))\n"
        "logging.warning('left out: %s', os.fsdecode(b'caf\\xe9.jpg'))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for text in (done.stdout, (tmp_path / "x.log").read_text("utf-8")):
        assert "left out: caf\\udce9.jpg" in text


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_shown_on_a_terminal_only(monkeypatch, is_terminal):
    errors = io.StringIO()
    monkeypatch.setattr(errors, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stderr", errors)
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0)
    assert list(with_bar(range(3), "reading captions", "batch")) == [0, 1, 2]
    assert ("reading captions" in errors.getvalue()) == is_terminal
