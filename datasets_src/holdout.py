"""Training data in two parts: one to train on, one held out to compare settings by.

Axes: N images of the split.
"""

from dataclasses import replace

import numpy as np

from datasets_src.captions import build_vocabulary
from datasets_src.pairs import TrainingPairs
from datasets_src.splits import Split
from utils.errors import UserError

HELD_OUT_SHARE = 0.2  # of the images


def held_out_images(image_count: int, seed: int) -> np.ndarray:
    """Draw a fifth of N images (at least one, and not all) to hold out, (N,) bool."""
    count = min(max(1, round(HELD_OUT_SHARE * image_count)), image_count - 1)
    is_held_out = np.zeros(image_count, dtype=bool)
    is_held_out[np.random.default_rng(seed).choice(image_count, count, replace=False)] = True
    return is_held_out


def divide_training_data(split: Split, filtered: bool, seed: int) -> tuple[TrainingPairs, Split]:
    """Hold out a random fifth of a training split's images, each with all of its captions.

    Images are drawn, not pairs: the captions of one image say much the same, so an image with
    captions on both sides would reward a model for what it memorised.

    Args:
        split: The training split.
        filtered: Whether setup's filter was applied to it.
        seed: Of the draw.

    Returns:
        The pairs to train on, with the vocabulary of their captions alone, and the rest.
    """
    is_held_out = held_out_images(len(split.image_ids), seed)
    rest = replace(split.keep(~is_held_out), instances=None)  # training does not look at these
    if len(rest.captions) < 2:
        raise UserError(
            f"{len(rest.captions)} training captions of {split.name} are left when a fifth of the "
            "images is held out, and two are the least; check the data and the filter"
        )
    pairs = TrainingPairs(rest, *build_vocabulary(rest.captions), filtered)
    return pairs, split.keep(is_held_out)
