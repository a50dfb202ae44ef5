"""Does a long training stay as it began? Memory, open files and time of a step over many steps.

    python -m tests.benchmarks.long_run [--steps 10000] [--out results/long_run.json]

A small model (two convolutions, an LSTM) learns invented pairs for many short epochs,
each with new worker processes, a checkpoint before and after it is measured, the table of metrics
and the curves: all that could leave something behind. Compared are the first and the last thousand
steps (of fewer steps, tenths), without the first fifty, in which caches fill. Runs on Linux.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from main import main as run_program
from models_src import training, visual_encoders
from tests.benchmarks.invented_data import (
    SplitSize,
    invented_pictures,
    invented_words,
    write_norms,
    write_split,
)
from tests.conftest import TINY, dirs, thin_network

STEPS_PER_EPOCH, BATCH = 250, 8
WARM_UP = 50  # steps


def measure(steps: int) -> dict[str, Any]:
    """Train for about so many steps, and return what the first and the last of them took."""
    rng = np.random.default_rng(0)
    words = invented_words(600)
    seen: list[tuple[float, float, int]] = []  # per step: its start, MB in memory, open files
    page = os.sysconf("SC_PAGE_SIZE") / 1e6
    plain_step = training.joint_step

    def watched(*arguments: Any, **options: Any) -> Any:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * page
        seen.append((time.monotonic(), resident, len(os.listdir("/proc/self/fd"))))  # noqa: PTH208
        return plain_step(*arguments, **options)

    with (
        tempfile.TemporaryDirectory() as place,
        mock.patch.object(training, "joint_step", watched),
        mock.patch.object(visual_encoders, "_torchvision_network", thin_network),
        redirect_stdout(sys.stderr),
    ):
        folder = Path(place)
        pictures = invented_pictures(50, 40, 32, rng)
        size = SplitSize(STEPS_PER_EPOCH * BATCH // 5, STEPS_PER_EPOCH * BATCH, 10)
        write_split(folder / "data", "train2014", size, words, pictures, rng)
        write_norms(folder / "data", words, 1000, rng)
        options = [*TINY, f"--batch_size={BATCH}", "--workers=1", "--use_all_images"]
        options.append(f"--epochs={-(-steps // STEPS_PER_EPOCH)}")
        if run_program([*options, *dirs(folder / "data", folder)]):
            raise RuntimeError("the training failed")
    part = min(1000, len(seen) // 10)
    warm = min(WARM_UP, part // 2)
    figures: dict[str, Any] = {"steps": len(seen), "compared": part}
    for name, steps_seen in (("first", seen[warm : warm + part]), ("last", seen[-part:])):
        starts, memory, files = zip(*steps_seen, strict=True)
        figures[name] = {
            "step_ms": 1000 * statistics.median(np.diff(starts)),
            "memory_mb": statistics.median(memory),
            "most_memory_mb": max(memory),
            "most_open_files": max(files),
        }
    return figures


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the figures and, where asked for, write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    text = json.dumps(measure(options.steps), indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
