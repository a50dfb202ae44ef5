"""Does a long training stay as it began? Memory, open files and time of a step over many steps.

    python -m tests.benchmarks.long_run [--steps 10000] [--out results/long_run.json]

A small model (the first block of a ResNet, an LSTM) learns invented pairs for many short epochs,
each with new worker processes, a checkpoint before and after it is measured, the table of metrics
and the curves: all that could leave something behind. Compared are the first and the last thousand
steps (of fewer steps, tenths), without the first fifty, in which caches fill. Runs on Linux.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from datasets_src.norms import load_norms
from datasets_src.pairs import load_training_pairs
from evaluation.reports import draw_learning_curves, flatten, write_history
from evaluation.word_evaluation import predict_words, word_metrics
from models_src import training, visual_encoders
from models_src.settings import TrainingSettings
from models_src.training import RunOptions
from tests.benchmarks.invented_data import (
    SplitSize,
    invented_pictures,
    invented_words,
    write_norms,
    write_split,
)
from tests.conftest import thin_network

STEPS_PER_EPOCH, BATCH = 250, 8
WARM_UP = 50  # steps


def measure(steps: int) -> dict[str, Any]:
    """Train for about so many steps, and return what the first and the last of them took."""
    rng = np.random.default_rng(0)
    words = invented_words(600)
    seen: list[tuple[float, float, int]] = []  # per step: its start, MB in memory, open files
    page = os.sysconf("SC_PAGE_SIZE") / 1e6
    plain_step, plain_network = training.joint_step, visual_encoders._torchvision_network

    def watched(*arguments: Any, **options: Any) -> Any:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * page
        seen.append((time.monotonic(), resident, len(os.listdir("/proc/self/fd"))))  # noqa: PTH208
        return plain_step(*arguments, **options)

    training.joint_step, visual_encoders._torchvision_network = watched, thin_network
    try:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            pictures = invented_pictures(50, 40, 32, rng)
            size = SplitSize(STEPS_PER_EPOCH * BATCH // 5, STEPS_PER_EPOCH * BATCH, 10)
            write_split(folder / "data", "train2014", size, words, pictures, rng)
            write_norms(folder / "data", words, 1000, rng)
            _train(folder, epochs=-(-steps // STEPS_PER_EPOCH))
    finally:
        training.joint_step, visual_encoders._torchvision_network = plain_step, plain_network
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


def _train(folder: Path, epochs: int) -> None:
    """Train as ``train_joint_model`` does."""
    pairs = load_training_pairs(folder / "data", use_all_images=True)
    norms = load_norms(folder / "data", log_absent=False)
    settings = TrainingSettings(
        visual_encoder="resnet18", image_size=32, cluster_num=20, batch_size=BATCH, epochs=epochs,
        embedding_dim=16, hidden_dim=16,
    )  # fmt: skip

    def evaluate(text: Any) -> dict[str, float | None]:
        predictions = predict_words(text, pairs.vocabulary)
        return flatten(word_metrics(predictions, norms, settings.text_threshold, 0))

    def report(history: Any) -> None:
        write_history(folder / "evaluation_by_epoch.csv", history)
        draw_learning_curves(folder / "learning_curves.png", history, "long run")

    options = RunOptions("long", folder / "models", workers=1)
    training.train(settings, pairs, options, evaluate, report)


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
