"""Progress bars: on a terminal only, and only for what takes a while."""

import contextlib
import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import utils.progress
from datasets_src.filtering import FILTER_FILE
from utils.progress import with_bar

ROOT = Path(__file__).parent.parent


def test_items_come_as_they_are_without_a_word(capsys):
    assert list(with_bar(iter("abc"), "reading", "letter", 3)) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


class Terminal(io.StringIO):
    """Says that it is one."""

    def isatty(self) -> bool:
        return True


def test_bar_shows_what_takes_long_and_goes(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(with_bar([1, 2], "quick", "item")) == [1, 2]
    assert terminal.getvalue() == ""
    for _ in with_bar(["file"], "reading", "file", at_once=True):
        assert "reading:   0%" in terminal.getvalue()
    monkeypatch.setattr(utils.progress, "QUIET_SECONDS", 0.05)
    for _ in with_bar(range(5), "slow work", "item"):
        time.sleep(0.15)
    shown = terminal.getvalue()
    assert "slow work" in shown
    assert "/5 [" in shown
    assert shown.endswith("\r")  # the line is free again


def start_setup(folder: Path, error: int) -> subprocess.Popen:
    """Start setup's filter with its standard error on a file descriptor."""
    without_delay = (
        "import sys, utils.progress; utils.progress.QUIET_SECONDS = 0; "
        "from main import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["--utility=filter_unwanted_coco_images", f"--datasets_dir={folder}"]
    return subprocess.Popen(
        [sys.executable, "-c", without_delay, *words],
        stdout=subprocess.DEVNULL,
        stderr=error,
        cwd=ROOT,
    )


def test_a_utility_is_quiet_unless_its_errors_go_to_a_terminal(demo_data, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in demo_data.iterdir():
        if path.name != FILTER_FILE:
            (copy / path.name).symlink_to(path)
    with (tmp_path / "errors").open("wb") as file:
        assert start_setup(copy, file.fileno()).wait() == 0
    assert (tmp_path / "errors").read_bytes() == b""
    (copy / FILTER_FILE).unlink()  # so that it is not found done already
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))  # rows, columns
    process = start_setup(copy, theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal that nobody writes to any more
        while part := os.read(ours, 10_000):
            shown += part
    os.close(ours)
    assert process.wait() == 0
    assert b"train2014" in shown
