"""Training pairs (image, caption) and the batches of an epoch.

Axes: M pairs (one a caption), B pairs and I images of a batch.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from datasets_src.captions import LONGEST_CAPTION, TokenizedCaptions, Vocabulary, build_vocabulary
from datasets_src.datasets import COCO
from datasets_src.filtering import load_filtered_split
from datasets_src.splits import SPLITS, Split
from utils.errors import UserError
from utils.files import digest

HELD_OUT_SHARE = 0.2  # of the images

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingPairs:
    """Every caption of the training split with its image."""

    split: Split
    vocabulary: Vocabulary
    captions: TokenizedCaptions  # M captions

    def __len__(self) -> int:
        return len(self.captions)

    def fingerprint(self) -> str:
        """Return a hash of the images' ids, the captions' tokens and the vocabulary."""
        words, split, captions = self.vocabulary.words, self.split, self.captions
        arrays = split.image_ids, split.caption_image, captions.tokens, captions.offsets
        return digest("\n".join(words), *arrays)


def load_training_pairs(
    datasets_dir: Path, *, use_all_images: bool, dataset: str = COCO, cache_dir: Path | None = None
) -> TrainingPairs:
    """Load and tokenize the captions of a data set that are kept for training."""
    split = load_filtered_split(
        datasets_dir, SPLITS[0], use_all_images=use_all_images, dataset=dataset, cache_dir=cache_dir
    )
    if len(split.captions) < 2:
        raise UserError(
            f"{len(split.captions)} training captions, and two are the least; check "
            f"{' and '.join(map(str, split.caption_files))} and the filter"
        )
    vocabulary, captions = build_vocabulary(split.captions)
    odd = {
        "without a word": (np.diff(captions.offsets) == 0).sum(),
        f"cut at {LONGEST_CAPTION} characters": sum(
            len(text) > LONGEST_CAPTION for text in split.captions
        ),
    }
    for what, count in odd.items():
        if count:
            logger.warning("training captions %s: %d of %d", what, count, len(captions))
    return TrainingPairs(split, vocabulary, captions)


def held_out_images(image_count: int, seed: int) -> np.ndarray:
    """Draw a fifth of N images (at least one, and not all) to hold out, (N,) bool."""
    count = min(max(1, round(HELD_OUT_SHARE * image_count)), image_count - 1)
    is_held_out = np.zeros(image_count, dtype=bool)
    is_held_out[np.random.default_rng(seed).choice(image_count, count, replace=False)] = True
    return is_held_out


def divide_training_data(split: Split, seed: int) -> tuple[TrainingPairs, Split]:
    """Hold out a random fifth of a training split's images, each with all of its captions.

    Images are drawn, not pairs: the captions of one image say much the same, so an image with
    captions on both sides would reward a model for what it memorised. Returns the pairs to train
    on, with the vocabulary of their captions alone, and the rest.
    """
    is_held_out = held_out_images(len(split.image_ids), seed)
    rest = replace(split.keep(~is_held_out), instances=None)  # training does not look at these
    if len(rest.captions) < 2:
        raise UserError(
            f"{len(rest.captions)} training captions of {split.name} are left when a fifth of the "
            "images is held out, and two are the least; check the data and the filter"
        )
    pairs = TrainingPairs(rest, *build_vocabulary(rest.captions))
    return pairs, split.keep(is_held_out)


@dataclass(frozen=True)
class PairBatch:
    """The pairs of one joint step: captions, and the images that they belong to."""

    captions: np.ndarray  # (B,) int64 indices of captions
    images: np.ndarray  # (I,) int64 indices of the images to encode
    image_of_caption: np.ndarray  # (B,) int64 positions in ``images``

    def only(self, kept: np.ndarray) -> "PairBatch":
        """Return the batch without the images where ``kept`` (I,) bool is False, or their pairs."""
        stays = kept[self.image_of_caption]  # (B,)
        positions = np.cumsum(kept) - 1  # (I,) of what is kept
        return PairBatch(
            self.captions[stays], self.images[kept], positions[self.image_of_caption[stays]]
        )


def pair_batches(
    caption_image: np.ndarray, batch_size: int, seed: int, epoch: int, *, group_captions: bool
) -> list[PairBatch]:
    """Return the batches of one epoch: all pairs once, in an order of this seed and epoch.

    The last batch may be smaller; what would be left over as a batch of one image joins the batch
    before it, because batch normalisation needs two.

    ``caption_image`` (M,) is the index of each caption's image. With ``group_captions`` all
    captions of an image stand in one batch, the image is encoded once for all of them, and
    ``batch_size`` counts images.
    """
    rng = np.random.default_rng([seed, epoch])
    if not group_captions:
        return [
            PairBatch(captions, caption_image[captions], np.arange(len(captions)))
            for captions in _split(rng.permutation(len(caption_image)), batch_size)
        ]
    by_image = np.argsort(caption_image, kind="stable")  # (M,)
    captioned, first = np.unique(caption_image[by_image], return_index=True)
    captions_of = np.split(by_image, first[1:])
    batches = []
    for chosen in _split(rng.permutation(len(captioned)), batch_size):
        parts = [captions_of[image] for image in chosen]
        positions = np.repeat(np.arange(len(chosen)), [len(part) for part in parts])
        batches.append(PairBatch(np.concatenate(parts), captioned[chosen], positions))
    return batches


def _split(order: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut an array into pieces of a size; a single element left over joins the piece before it."""
    bounds = list(range(size, len(order), size))
    if bounds and len(order) - bounds[-1] == 1:
        bounds.pop()
    return np.split(order, bounds)
