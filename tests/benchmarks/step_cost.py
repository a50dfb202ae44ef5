"""What a joint step costs in CPU time and memory, and what that makes of full COCO: prints tables.

    python -m tests.benchmarks.step_cost [--quick]

Every row is a process of its own with one thread, as its peak of memory is wanted. Times are CPU
seconds of that process, which other work on the machine lengthens less than it does seconds on the
clock. ``--quick`` is tiny and says nothing of either.
"""

import argparse
import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

IMAGES, CAPTIONS, EPOCHS = 82_783, 414_113, 2  # COCO's train2014, twice as published


@dataclass(frozen=True)
class Variant:
    """One way to take joint steps."""

    network: str = "resnet50"
    image_size: int = 224
    images: int = 8  # of a batch
    captions: int = 1  # of an image
    text_encoder: str = "generative"
    accumulate: int = 1
    precision: str = "fp32"
    channels_last: bool = True
    words: int = 30_000
    steps: int = 5


QUICK = {"network": "resnet18", "image_size": 32, "images": 4, "words": 200, "steps": 1}
VARIANTS = {
    "a batch of 8 pairs": Variant(),
    "a batch of 16": Variant(images=16),
    "a batch of 16 in 4 parts": Variant(images=16, accumulate=4),
    "a batch of 8, five captions an image": Variant(captions=5),
    "the same with lstm": Variant(captions=5, text_encoder="lstm"),
    "channels first": Variant(channels_last=False),
    "bf16": Variant(precision="bf16", steps=2),
}


def measure(variant: Variant) -> dict[str, float]:
    """Take joint steps in this process: median CPU time of a step, memory before and at most."""
    import numpy as np
    import torch

    from datasets_src.images import normalise
    from models_src.hardware import adam
    from models_src.joint import joint_step
    from models_src.settings import TrainingSettings
    from models_src.text_encoders.interface import build_text_encoder
    from models_src.visual_encoders import build_visual_encoder
    from tests.benchmarks.invented_data import invented_words

    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings = TrainingSettings(
        visual_encoder=variant.network, text_encoder=variant.text_encoder, cluster_num=150,
        accumulate=variant.accumulate, precision=variant.precision,
    )  # fmt: skip
    visual = build_visual_encoder(settings)
    if not variant.channels_last:
        visual = visual.to(memory_format=torch.contiguous_format)
    text = build_text_encoder(settings, tuple(invented_words(variant.words)))
    optimizer = adam(visual, settings.visual_learning_rate)
    thresholds = settings.visual_threshold, settings.text_threshold
    shape = (variant.images, 3, variant.image_size, variant.image_size)
    rng = np.random.default_rng(0)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
    image_of_caption = torch.arange(variant.images).repeat_interleave(variant.captions)
    tokens = torch.from_numpy(rng.integers(variant.words, size=(len(image_of_caption), 12)))
    start_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000  # Linux counts in kB
    times = []
    for _ in range(1 + variant.steps):  # the first is not timed
        begun = time.process_time()
        batch = normalise(pixels), image_of_caption, tokens
        joint_step(visual, optimizer, text, *batch, *thresholds, precision=variant.precision)
        times.append(time.process_time() - begun)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return {"seconds": statistics.median(times[1:]), "start_mb": start_mb, "peak_mb": peak_mb}


def main() -> None:
    """Measure all variants, each in a process, and print what follows from them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it work?")
    small = QUICK if parser.parse_args().quick else {}
    variants = {name: replace(variant, **small) for name, variant in VARIANTS.items()}
    costs = {}
    print("| ResNet-50, 224 x 224 | CPU s a step | CPU s an image | start MB | peak MB |")
    print("|---|---|---|---|---|")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as processes:
        measured = processes.map(measure, variants.values())
        for (name, variant), cost in zip(variants.items(), measured, strict=True):
            costs[name] = cost
            print(
                f"| {name} | {cost['seconds']:.2f} | {cost['seconds'] / variant.images:.3f} "
                f"| {cost['start_mb']:.0f} | {cost['peak_mb']:.0f} |",
                flush=True,
            )
    print()
    for name, encoded, of in (
        ("a batch of 16", CAPTIONS, "every pair"),
        ("a batch of 8, five captions an image", IMAGES, "--group_captions"),
    ):
        an_image = costs[name]["seconds"] / variants[name].images
        hours = EPOCHS * encoded * an_image / 3600
        print(f"computed: {EPOCHS} epochs of COCO, {of}: {hours:.0f} hours of one thread")


if __name__ == "__main__":
    main()
