"""Real processes that train and are told to stop, or find the disk full."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from main import main
from tests.conftest import TINY
from tests.test_training import assert_same, weights

ROOT = Path(__file__).parent.parent
DEADLINE = 300  # seconds, for a process on a busy machine
# lets files grow to a size only, from the first epoch on: what a full disk does to larger ones
LIMITED = """
import resource, sys
import main
from evaluation import reports
plain = reports.draw_learning_curves
def limited(*arguments, **options):
    plain(*arguments, **options)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
reports.draw_learning_curves = limited
sys.exit(main.main(sys.argv[1:]))
"""


def options(data: Path, folder: Path, *more: str) -> list[str]:
    return [
        *TINY,
        "--epochs=4",
        "--random_start_steps=3",
        f"--datasets_dir={data}",
        f"--models_dir={folder / 'models'}",
        f"--results_dir={folder / 'results'}",
        *more,
    ]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}


@pytest.fixture(scope="module")
def straight(demo_data, tmp_path_factory) -> Path:
    """A training that nothing disturbs."""
    folder = tmp_path_factory.mktemp("straight")
    assert main(options(demo_data, folder)) == 0
    return folder


def assert_continued(demo_data: Path, folder: Path, straight: Path) -> None:
    """Continue a training, and see that it ends as if it had never stopped."""
    assert main(options(demo_data, folder, "--resume")) == 0
    assert_same(weights(straight / "models", "model1"), weights(folder / "models", "model1"))
    tables = [place / "results" / "model1" / "evaluation_by_epoch.csv" for place in
              (straight, folder)]  # fmt: skip
    assert tables[0].read_bytes() == tables[1].read_bytes()
    assert not list((folder / "models").rglob("*.tmp"))
    assert not (folder / "models" / "model1.checkpoint").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_to_the_whole_process_group_saves_and_stops(demo_data, tmp_path, straight, number):
    checkpoint = tmp_path / "models" / "model1.checkpoint"
    process = subprocess.Popen(
        [sys.executable, "main.py", *options(demo_data, tmp_path, "--workers=2")],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a group of its own, with the workers in it
    )
    began = time.monotonic()
    while not checkpoint.exists() and process.poll() is None:
        assert time.monotonic() - began < DEADLINE
        time.sleep(0.05)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130, output
    assert "stopped; continue with --resume" in output
    assert output.splitlines()[-1] == "interrupted"
    assert "Traceback" not in output
    assert not (tmp_path / "models" / "visual" / "model1.mdl").exists()
    assert_continued(demo_data, tmp_path, straight)


def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(demo_data, tmp_path, straight):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *options(demo_data, tmp_path)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 2, done.stderr
    checkpoint = tmp_path / "models" / "model1.checkpoint"
    assert done.stderr.startswith(f"error: cannot write {checkpoint}: File too large; ")
    assert done.stderr.count("\n") == 1
    assert not list((tmp_path / "models").rglob("*.tmp"))
    assert torch.load(checkpoint, weights_only=True)["run"]["epoch"] == 1
    assert_continued(demo_data, tmp_path, straight)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_disk_that_is_really_full_leaves_the_last_checkpoint(demo_data, tmp_path, straight):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine lets even root mount nothing")
    try:
        # a checkpoint has some 130 MB: one fits, a second beside it does not
        (disk / "filling").write_bytes(bytes(200_000_000))
        done = subprocess.run(
            [sys.executable, "main.py", *options(demo_data, disk)],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        assert done.returncode == 2, done.stderr
        assert "No space left on device; check the folder's permissions and the free" in done.stderr
        assert done.stderr.count("\n") == 1
        assert not list(disk.rglob("*.tmp"))
        assert torch.load(disk / "models" / "model1.checkpoint", weights_only=True)
        (disk / "filling").unlink()
        assert_continued(demo_data, disk, straight)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
