"""Training data in two parts: one to train on, one held out to compare settings by.

Axes: N images of the split.
"""

from dataclasses import dataclass, replace

import numpy as np

from datasets_src.captions import build_vocabulary
from datasets_src.pairs import TrainingPairs
from datasets_src.splits import Split
from utils.errors import UserError

HELD_OUT_SHARE = 0.2  # of the images


@dataclass(frozen=True)
class DividedData:
    """A training split in two parts that have no image in common."""

    pairs: TrainingPairs  # the vocabulary is that of these captions alone
    held_out: Split

    def fingerprint(self) -> dict[str, str]:
        """Return hashes of both parts: images, captions and, of the held-out part, instances."""
        return {"training": self.pairs.fingerprint(), "held_out": self.held_out.fingerprint()}


def held_out_images(image_count: int, seed: int) -> np.ndarray:
    """Draw a fifth of the images (rounded, but at least one, and not all) to hold out.

    Args:
        image_count: N, two or more.
        seed: The same seed and number give the same images.

    Returns:
        (N,) bool.
    """
    count = min(max(1, round(HELD_OUT_SHARE * image_count)), image_count - 1)
    is_held_out = np.zeros(image_count, dtype=bool)
    is_held_out[np.random.default_rng(seed).choice(image_count, count, replace=False)] = True
    return is_held_out


def divide_training_data(split: Split, filtered: bool, seed: int) -> DividedData:
    """Hold out a random fifth of a training split's images, each with all of its captions.

    Images are drawn, not pairs: the captions of one image say much the same, so an image with
    captions on both sides would reward a model for what it memorised.

    Args:
        split: The training split.
        filtered: Whether setup's filter was applied to it.
        seed: Of the draw.

    Raises:
        UserError: the split has fewer than two images, or too few captions are left to train on.
    """
    image_count = len(split.image_ids)
    if image_count < 2:
        raise UserError(
            f"{image_count} training images, and two are the least to hold one out; check "
            f"{_source(split)} and the filter"
        )
    is_held_out = held_out_images(image_count, seed)
    # training does not look at instances
    rest = replace(split.keep(~is_held_out), instances=None)
    if len(rest.captions) < 2:
        raise UserError(
            f"{len(rest.captions)} training captions are left when a fifth of the images is held "
            f"out, and two are the least; check {_source(split)} and the filter"
        )
    return DividedData(
        TrainingPairs(rest, *build_vocabulary(rest.captions), filtered), split.keep(is_held_out)
    )


def _source(split: Split) -> str:
    """Name the files that a split was read from."""
    return " and ".join(map(str, split.caption_files)) or str(split.folder)
