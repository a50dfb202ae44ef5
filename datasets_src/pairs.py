"""Training pairs (image, caption) and batches of images, loaded by worker processes.

Axes: M pairs (one a caption), B images of a batch, S the image size in pixels.
"""

import hashlib
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from datasets_src.captions import TokenizedCaptions, Vocabulary, build_vocabulary
from datasets_src.coco import SPLITS, Split
from datasets_src.datasets import COCO
from datasets_src.filtering import load_filtered_split
from datasets_src.images import read_image
from utils.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TrainingPairs:
    """Every caption of the training split with its image."""

    split: Split
    vocabulary: Vocabulary
    captions: TokenizedCaptions  # M captions
    filtered: bool  # whether setup's filter was applied

    def __len__(self) -> int:
        return len(self.captions)

    def fingerprint(self) -> str:
        """Return a hash of the images' ids, the captions' tokens and the vocabulary."""
        digest = hashlib.sha256("\n".join(self.vocabulary.words).encode())
        for array in (
            self.split.image_ids,
            self.split.caption_image,
            self.captions.tokens,
            self.captions.offsets,
        ):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def load_training_pairs(
    datasets_dir: Path, *, use_all_images: bool, dataset: str = COCO
) -> TrainingPairs:
    """Load and tokenize the captions of a data set that are kept for training.

    Raises:
        UserError: the data is missing or malformed, or no caption is left.
    """
    split, filtered = load_filtered_split(
        datasets_dir, SPLITS[0], use_all_images=use_all_images, dataset=dataset
    )
    if len(split.captions) < 2:
        raise UserError(
            f"{len(split.captions)} training captions, and two are the least; check "
            f"{' and '.join(map(str, split.caption_files))} and the filter"
        )
    return TrainingPairs(split, *build_vocabulary(split.captions), filtered)


def pair_batches(pair_count: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Return the batches of one epoch: all pairs once, in an order of this seed and epoch.

    The last batch may be smaller; a single pair left over joins the batch before it, because
    batch normalisation needs two.
    """
    order = np.random.default_rng([seed, epoch]).permutation(pair_count)
    bounds = list(range(batch_size, pair_count, batch_size))
    if bounds and pair_count - bounds[-1] == 1:
        bounds.pop()
    return np.split(order, bounds)


class ImageSource(Protocol):
    """Images by index: those of a split, or files of the user's own."""

    def path(self, image: int) -> Path:
        """Return the file of the image with this index."""


@dataclass(frozen=True)
class ImageFiles:
    """Image files that belong to no data set."""

    files: tuple[Path, ...]

    def path(self, image: int) -> Path:
        """Return the file of the image with this index."""
        return self.files[image]


class _ImageBatches:
    """Whole batches of images by index, as torch's DataLoader wants them."""

    def __init__(
        self,
        source: ImageSource,
        batches: Sequence[np.ndarray],
        read: Callable[[Path], np.ndarray],
    ):
        self.source = source
        self.batches = batches
        self.read = read

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> "Tensor | UserError":
        import torch

        try:
            pixels = [self.read(self.source.path(i)) for i in self.batches[index]]
        except UserError as error:  # raised in the parent, where it is one line
            return error
        return torch.from_numpy(np.stack(pixels))


def load_images(
    source: ImageSource, batches: Sequence[np.ndarray], size: int, workers: int
) -> Iterator["Tensor"]:
    """Yield the images of each batch of indices, (B, 3, S, S) uint8, in order.

    Args:
        source: Where the images are.
        batches: Image indices (B,) of each batch.
        size: S.
        workers: Processes that read ahead; 0 reads in this process.

    Raises:
        UserError: an image is missing or unreadable.
    """
    return load_batches(source, batches, partial(read_image, size=size), workers)


def load_batches(
    source: ImageSource,
    batches: Sequence[np.ndarray],
    read: Callable[[Path], np.ndarray],
    workers: int,
) -> Iterator["Tensor"]:
    """Yield the images of each batch of indices as ``read`` returns them, stacked, in order.

    Args:
        source: Where the images are.
        batches: Image indices (B,) of each batch.
        read: Reads an image file, always to the same shape, or raises a ``UserError``.
        workers: Processes that read ahead; 0 reads in this process.

    Raises:
        UserError: an image is missing or unreadable.
    """
    import torch
    from torch.utils.data import DataLoader

    loader = DataLoader(
        _ImageBatches(source, batches, read),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_leave_signals_to_parent,
        # a generator of its own: torch's must not depend on how often loading starts
        generator=torch.Generator(),
    )
    for images in loader:
        if isinstance(images, UserError):
            raise images
        yield images


def _leave_signals_to_parent(_worker: int) -> None:
    """Let signals to the process group end only the parent, which ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
