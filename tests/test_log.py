"""The log file stays small, and a disk without space for it ends nothing."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from main import main
from utils import log
from utils.log import start_logging, stop_logging

ROOT = Path(__file__).parent.parent

logger = logging.getLogger(__name__)


@pytest.fixture(autouse=True)
def no_handlers_left():
    yield
    stop_logging()


def test_a_log_is_continued_and_its_old_part_replaced_when_it_is_large(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "LARGEST_LOG", 1000)
    path = tmp_path / "x.log"
    for start in (0, 50):
        start_logging(path)
        for number in range(start, start + 50):
            logger.info("message %d", number)
        stop_logging()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.log", "x.log.1"]
    texts = [(tmp_path / name).read_text() for name in ("x.log.1", "x.log")]
    assert all(len(text) <= 1000 for text in texts)
    numbers = [int(line.split()[-1]) for line in "".join(texts).splitlines()]
    assert numbers == list(range(100 - len(numbers), 100))  # the latest ones, none lost between
    assert len(numbers) > 15


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
    places = [f"--datasets_dir={tmp_path / 'absent'}", f"--models_dir={tmp_path}"]
    call = [*places, f"--results_dir={tmp_path}"]
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


def test_names_that_are_no_utf8_are_logged(tmp_path):
    script = (
        "import logging, os, pathlib; from utils.log import start_logging\n"
        f"start_logging(pathlib.Path({str(tmp_path / 'x.log')!r}))\n"
        "logging.warning('left out: %s', os.fsdecode(b'caf\\xe9.jpg'))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for text in (done.stdout, (tmp_path / "x.log").read_text("utf-8")):
        assert "left out: caf\\udce9.jpg" in text
