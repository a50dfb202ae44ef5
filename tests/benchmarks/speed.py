"""What everything around the CNN costs: prints a table and writes it as JSON.

    python -m tests.benchmarks.speed [--out results/benchmark.json] [--quick]

Each figure is the median of several runs. A ratio compares two things that took turns in the same
run, so that a machine that slows down meanwhile slows down both. ``--quick`` runs everything at a
tiny size, which says whether the benchmark works and nothing of speed.

Axes: B pairs, A activated clusters, C clusters, V words.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from datasets_src.coco import load
from datasets_src.datasets import COCO
from datasets_src.filtering import filter_file
from datasets_src.image_cache import ImageCache
from datasets_src.images import normalise
from datasets_src.loading import load_batches, load_images
from datasets_src.pairs import load_training_pairs, pair_batches
from datasets_src.splits import Split
from evaluation.image_evaluation import MAP_SIZE, VisualModel
from evaluation.inputs import Model
from evaluation.joint_evaluation import evaluate_images
from evaluation.localization import boxes_and_peaks, class_activation_maps
from main import main as run_program
from models_src.diagnosis import empty_sums, step_sums
from models_src.joint import joint_step
from models_src.model_files import Origin, save_halves
from models_src.settings import TrainingSettings
from models_src.text_encoders.interface import build_text_encoder
from models_src.visual_encoders import build_visual_encoder
from tests.benchmarks.invented_data import (
    CAPTION_WORDS,
    SplitSize,
    invented_pictures,
    invented_words,
    write_norms,
    write_split,
    zipf_captions,
)
from utils.files import write_json
from utils.processes import spare_workers

ROOT = Path(__file__).parent.parent.parent
# of 150 clusters, more than images of a trained lstm activate: a slow case
ACTIVATED_SHARE = 0.185
# Linux counts the memory of the process that starts another as the other's own, so that a small
# one has to start what is measured
PEAK_OF_CHILD = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[2:]).returncode
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(status)
"""


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    network: str = "resnet50"
    image_size: int = 224
    joint_batch: int = 16
    clusters: int = 150
    words: int = 30_000
    step_captions: int = 50
    test_images: int = 384
    evaluation_batch: int = 32
    picture: tuple[int, int] = (640, 480)  # COCO's most frequent size
    train_captions: int = 30_000
    associations: int = 500_000
    # COCO 2014
    setup: tuple[SplitSize, SplitSize] = (
        SplitSize(82_783, 414_113, 604_907),
        SplitSize(40_504, 202_654, 291_875),
    )
    joint_runs: int = 9
    evaluation_runs: int = 4
    loaded_images: int = 3000
    loading_runs: int = 5
    short_runs: int = 50  # of what takes milliseconds
    process_runs: int = 9
    setup_runs: int = 3

    def settings(self, text_encoder: str) -> TrainingSettings:
        """Return training settings of these sizes."""
        return TrainingSettings(
            visual_encoder=self.network, image_size=self.image_size, text_encoder=text_encoder,
            cluster_num=self.clusters,
        )  # fmt: skip


QUICK = Sizes(
    network="resnet18", image_size=32, joint_batch=4, clusters=20, words=700, step_captions=5,
    test_images=6, evaluation_batch=4, picture=(64, 48), train_captions=100, associations=100,
    setup=(SplitSize(9, 45, 30), SplitSize(5, 25, 20)), loaded_images=12, joint_runs=2,
    evaluation_runs=2, loading_runs=2, short_runs=2, process_runs=2, setup_runs=2,
)  # fmt: skip


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratios(work: Callable[[], object], reference: Callable[[], object], runs: int) -> list[float]:
    """Return time ratios of two calls that take turns, after one run of each that is not timed."""
    work()
    reference()
    return [seconds(work) / seconds(reference) for _ in range(runs)]


def random_bits(sizes: Sizes, count: int, rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(rng.random((count, sizes.clusters)) < ACTIVATED_SHARE)


def joint_step_ratio(sizes: Sizes, text_encoder: str) -> list[float]:
    """Compare a whole step of training with a bare one of the same CNN and the same Adam.

    The whole step begins with pixels and token ids in memory, as the loop of ``training.py`` does.
    """
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    settings = sizes.settings(text_encoder)
    thresholds = settings.visual_threshold, settings.text_threshold
    visual = build_visual_encoder(settings)
    text = build_text_encoder(settings, tuple(invented_words(sizes.words)))
    optimizer = torch.optim.Adam(visual.parameters(), lr=settings.visual_learning_rate)
    batch, side = sizes.joint_batch, sizes.image_size
    pixels = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    captions = zipf_captions(sizes.words, 1000, rng)
    totals = empty_sums(sizes.clusters)

    def whole() -> None:
        tokens = torch.from_numpy(captions.padded(rng.integers(len(captions), size=batch)))
        batch_parts = normalise(pixels), torch.arange(batch), tokens
        totals.add_(step_sums(joint_step(visual, optimizer, text, *batch_parts, *thresholds)))

    images = normalise(pixels)
    targets = random_bits(sizes, batch, rng).float()

    def bare() -> None:
        loss = functional.binary_cross_entropy_with_logits(visual.network(images), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return ratios(whole, bare, sizes.joint_runs)


def text_step_ms(sizes: Sizes) -> list[float]:
    """Time the count model's reading of captions and its learning from bits."""
    rng = np.random.default_rng(0)
    words = tuple(invented_words(sizes.words))
    text = build_text_encoder(sizes.settings("generative"), words)
    captions = zipf_captions(sizes.words, 5000, rng)

    def step() -> float:
        chosen = rng.integers(len(captions), size=sizes.step_captions)
        tokens = torch.from_numpy(captions.padded(chosen))
        bits = random_bits(sizes, len(tokens), rng)
        return 1000 * seconds(lambda: text.update(tokens, text.score(tokens), bits))

    # the counts of 300 steps come first: an empty model has less to do
    return [step() for _ in range(300 + sizes.short_runs)][300:]


def split_and_model(sizes: Sizes, folder: Path) -> tuple[Split, Model]:
    """Return a test split, and an untrained model.

    Its threshold lets ``ACTIVATED_SHARE`` of the clusters fire.
    """
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    words = invented_words(sizes.words)
    size = SplitSize(sizes.test_images, 5 * sizes.test_images, 7 * sizes.test_images)
    pictures = invented_pictures(sizes.test_images, *sizes.picture, rng)
    write_split(folder, "val2014", size, words, pictures, rng)
    split = load(folder / "COCO", "val2014", with_instances=True)
    settings = sizes.settings("generative")
    encoder = build_visual_encoder(settings).eval()
    text = build_text_encoder(settings, tuple(words))
    batches = [np.arange(min(8, sizes.test_images))]
    with torch.inference_mode():
        (pixels,) = load_images(split.images(sizes.image_size), batches, workers=0)
        threshold = encoder(normalise(pixels)).quantile(1 - ACTIVATED_SHARE).item()
    loading = sizes.image_size, sizes.evaluation_batch, spare_workers(2)  # as the program has them
    visual = VisualModel(encoder, threshold, *loading, device="cpu")
    return split, Model(visual, text, settings.text_threshold, settings.as_dict())


def loading_figures(sizes: Sizes, split: Split, folder: Path) -> dict[str, list[float]]:
    """Load images by two workers, as training does: from their files, and from the cache."""
    cached = replace(split, cache=ImageCache(folder, "test"))
    indices = np.resize(np.arange(sizes.test_images), sizes.loaded_images)
    batches = np.array_split(indices, max(1, len(indices) // sizes.evaluation_batch))

    def images_per_s(source: Split) -> float:
        loaded = load_images(source.images(sizes.image_size), batches, workers=2)
        return len(indices) / seconds(lambda: [len(pixels) for pixels in loaded])

    images_per_s(cached)  # which fills the cache
    return {
        "images_per_s_from_files": [images_per_s(split) for _ in range(sizes.loading_runs)],
        "images_per_s_from_cache": [images_per_s(cached) for _ in range(sizes.loading_runs)],
    }


def box_ms(sizes: Sizes, model: Model, split: Split) -> list[float]:
    """Time one of an image's bounding boxes, with its peak, from the CNN's last activation on."""
    (pixels,) = load_images(split.images(sizes.image_size), [np.arange(1)], workers=0)
    encoder = model.visual.encoder
    with torch.inference_mode():
        logits, features = encoder.logits_and_features(normalise(pixels))
        image, cluster = torch.nonzero(logits >= model.visual.threshold, as_tuple=True)

        def work() -> None:
            maps = class_activation_maps(features, encoder.head.weight, image, cluster)
            boxes_and_peaks(maps, MAP_SIZE)

        work()
        return [1000 * seconds(work) / len(cluster) for _ in range(sizes.short_runs)]


def visual_evaluation_ratio(sizes: Sizes, model: Model, split: Split) -> list[float]:
    """Compare a whole evaluation, image files to metrics, with the CNN's bare forward passes."""
    count, batch = sizes.test_images, sizes.evaluation_batch
    batches = np.split(np.arange(count), range(batch, count, batch))
    source = split.images(sizes.image_size)
    images = [normalise(pixels) for pixels in load_images(source, batches, workers=0)]

    def bare() -> None:
        with torch.inference_mode():
            for of_batch in images:
                model.visual.encoder(of_batch)

    return ratios(lambda: evaluate_images(model, split, seed=0), bare, sizes.evaluation_runs)


def text_evaluation_s(sizes: Sizes, folder: Path) -> list[float]:
    """Time the utility, from files to files, in a process that has imported all it needs."""
    rng = np.random.default_rng(0)
    words = invented_words(sizes.words)
    size = SplitSize(max(1, sizes.train_captions // 5), sizes.train_captions, 1)
    write_split(folder, "train2014", size, words, invented_pictures(1, 16, 16, rng), rng)
    write_norms(folder, words, sizes.associations, rng)
    settings = sizes.settings("generative")
    text = build_text_encoder(settings, tuple(words))
    captions = zipf_captions(sizes.words, 10 * sizes.words // CAPTION_WORDS, rng)
    tokens = torch.from_numpy(captions.padded(np.arange(len(captions))))
    text.update(tokens, text.score(tokens), random_bits(sizes, len(tokens), rng))
    origin = Origin(run="benchmark", step=1, seed=0, data_fingerprint="none")
    save_halves(folder / "models", "model", origin, {"text": (settings, text)})
    arguments = ["--utility=text_evaluation", "--model_name=model", f"--datasets_dir={folder}"]
    arguments += [f"--{name}_dir={folder / name}" for name in ("models", "results")]

    def evaluate() -> None:
        with (folder / "log.txt").open("a") as log, redirect_stdout(log):
            status = run_program(arguments)
        if status:
            raise RuntimeError(f"text_evaluation ended with status {status}")

    evaluate()
    return [seconds(evaluate) for _ in range(sizes.process_runs)]


def help_s(sizes: Sizes) -> list[float]:
    """Time the whole process of ``main.py --help``."""
    command = [sys.executable, "main.py", "--help"]
    return [
        seconds(lambda: subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL))
        for _ in range(sizes.process_runs)
    ]


def setup_figures(sizes: Sizes, folder: Path) -> dict[str, list[float]]:
    """Run setup's filter over both splits in processes of their own, anew and when it has run."""
    rng = np.random.default_rng(0)
    words = invented_words(sizes.words)
    for split, size in zip(("train2014", "val2014"), sizes.setup, strict=True):
        write_split(folder, split, size, words, invented_pictures(1, 16, 16, rng), rng)
    peak_file = folder / "peak.txt"
    command = [
        sys.executable, "-c", PEAK_OF_CHILD, str(peak_file), sys.executable, "main.py",
        "--utility=filter_unwanted_coco_images", f"--datasets_dir={folder}",
    ]  # fmt: skip

    def run() -> float:
        return seconds(lambda: subprocess.run(command, cwd=ROOT, capture_output=True, check=True))

    speeds, peaks, again = [], [], []
    for _ in range(sizes.setup_runs):
        filter_file(folder, COCO).unlink(missing_ok=True)
        speeds.append(sum(size.images for size in sizes.setup) / run())
        peaks.append(int(peak_file.read_text()) / 1000)  # Linux counts in kB
        again.append(run())
    return {"setup_images_per_s": speeds, "setup_peak_mb": peaks, "setup_again_s": again}


def memory_mb() -> float:
    """Return the memory of this process and those it started, what they share counted once.

    Files that are mapped (libraries) do not count: what they take depends on who else maps them.
    """
    total = 0
    for process in ("self", *(child.pid for child in multiprocessing.active_children())):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                total += int(line.split()[1])  # kB
    return total / 1000


def epoch_figures(sizes: Sizes, folder: Path) -> dict[str, list[float]]:
    """Read training's data of what setup has read, and load an epoch's images by two workers.

    They come through the cache, which the first run fills. Growth is the highest memory of all
    three processes over that after a twentieth of the epoch.
    """
    starts, highest, growth = [], [], []
    for _ in range(sizes.setup_runs):
        start = time.perf_counter()
        pairs = load_training_pairs(folder, use_all_images=True)
        starts.append(time.perf_counter() - start)
    split = replace(pairs.split, cache=ImageCache(folder / "cache", "train"))
    size = sizes.step_captions
    batches = pair_batches(split.caption_image, size, seed=0, epoch=0, group_captions=False)
    often = max(1, len(batches) // 100)
    for _ in range(2):
        loaded = load_batches(split.images(32), [batch.images for batch in batches], workers=2)
        seen = [memory_mb() for number, _ in enumerate(loaded) if number % often == 0]
        highest.append(max(seen))
        growth.append(max(seen) / seen[len(seen) // 20])
    return {"start_s": starts, "epoch_memory_mb": highest, "epoch_memory_growth": growth}


def measure(sizes: Sizes, folder: Path) -> dict[str, list[float]]:
    """Return the values of all runs of each figure; ``folder`` takes the data."""
    split, model = split_and_model(sizes, folder / "images")
    return {
        "joint_step_ratio_lstm": joint_step_ratio(sizes, "lstm"),
        "joint_step_ratio_generative": joint_step_ratio(sizes, "generative"),
        "text_step_ms": text_step_ms(sizes),
        "box_ms": box_ms(sizes, model, split),
        "visual_evaluation_ratio": visual_evaluation_ratio(sizes, model, split),
        "text_evaluation_s": text_evaluation_s(sizes, folder / "texts"),
        "help_s": help_s(sizes),
        **loading_figures(sizes, split, folder / "cache"),
        **setup_figures(sizes, folder / "setup"),
        **epoch_figures(sizes, folder / "setup"),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure everything, print a Markdown table and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/benchmark.json"))
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does the benchmark work?")
    options = parser.parse_args(arguments)
    sizes = QUICK if options.quick else Sizes()
    facts = {  # what the figures depend on beside the program
        "machine": platform.machine(),
        "system": platform.system(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    with tempfile.TemporaryDirectory() as folder:
        runs = measure(sizes, Path(folder))
    figures = {name: statistics.median(values) for name, values in runs.items()}
    spread = {
        name: {"count": len(values), "lowest": min(values), "highest": max(values)}
        for name, values in runs.items()
    }
    content = {"figures": figures, "runs": spread, "sizes": asdict(sizes), "machine": facts}
    write_json(options.out, content)
    print(f"{facts['cores']} cores, {facts['threads']} threads, torch {facts['torch']}\n")
    print("| figure | median | lowest | highest | runs |\n|---|---|---|---|---|")
    for name, values in runs.items():
        numbers = " | ".join(f"{value:.3f}" for value in (figures[name], min(values), max(values)))
        print(f"| `{name}` | {numbers} | {len(values)} |")


if __name__ == "__main__":
    main()
