"""Progress bars: on a terminal only, and only for what takes a while."""

import io
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import utils.progress
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
    monkeypatch.setattr(utils.progress, "QUIET_SECONDS", 0.05)
    for _ in with_bar(range(5), "slow work", "item"):
        time.sleep(0.15)
    shown = terminal.getvalue()
    assert "slow work" in shown
    assert "/5 [" in shown
    assert shown.endswith("\r")  # the line is free again


def run_setup(folder: Path, error: int) -> int:
    """Run setup's filter with its standard error on a file descriptor."""
    slow = (
        "import sys, utils.progress; utils.progress.QUIET_SECONDS = 0; "
        "from main import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["--utility=filter_unwanted_coco_images", f"--datasets_dir={folder}"]
    done = subprocess.run([sys.executable, "-c", slow, *words], stdout=subprocess.DEVNULL,
                          stderr=error, cwd=ROOT, timeout=120)  # fmt: skip
    return done.returncode


def test_a_utility_is_quiet_unless_its_errors_go_to_a_terminal(demo_data, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in demo_data.iterdir():
        (copy / path.name).symlink_to(path)
    (copy / "filtered_images.json").unlink()  # the link
    with (tmp_path / "errors").open("wb") as file:
        assert run_setup(copy, file.fileno()) == 0
    assert (tmp_path / "errors").read_bytes() == b""
    ours, theirs = pty.openpty()
    try:
        assert run_setup(copy, theirs) == 0
        assert b"train2014" in os.read(ours, 100_000)
    finally:
        os.close(ours)
        os.close(theirs)
