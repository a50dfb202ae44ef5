"""Training pairs (image, caption) and batches of images, loaded by worker processes.

Axes: M pairs (one a caption), B images of a batch, S the image size in pixels.
"""

import hashlib
import logging
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from datasets_src.captions import (
    TokenizedCaptions,
    Vocabulary,
    note_odd_captions,
    stored_vocabulary,
)
from datasets_src.coco import SPLITS, Split
from datasets_src.datasets import COCO
from datasets_src.filtering import filter_file, load_filtered_split
from datasets_src.images import are_too_many, read_image
from utils.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)


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

    Tokens are stored beside setup's filter result, and read from there when it has the same
    captions again.

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
    name = f"tokens_{split.name}{'_filtered' if filtered else ''}.npz"
    path = filter_file(datasets_dir, dataset).with_name(name)
    vocabulary, captions = stored_vocabulary(split.captions, path)
    note_odd_captions(split.captions, captions)
    return TrainingPairs(split, vocabulary, captions, filtered)


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

    Args:
        caption_image: (M,) index of each caption's image.
        batch_size: Pairs in a batch; with ``group_captions`` images, each with all its captions.
        seed: Of the order.
        epoch: Likewise.
        group_captions: Whether the captions of an image stand in one batch, so that the image is
            encoded once for all of them.
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


class ImageSource(Protocol):
    """Images by index: those of a split, or files of the user's own."""

    def path(self, image: int) -> Path:
        """Return the file of the image with this index."""

    def reader(self, images: np.ndarray, size: int) -> Callable[[int], np.ndarray]:
        """Return what reads the image of an index, out of ``images`` (N,), as ``read_image`` does.

        Raises:
            UserError: there is a cache of images, and it cannot be written.
        """


@dataclass(frozen=True)
class ImageFiles:
    """Image files that belong to no data set."""

    files: tuple[Path, ...]

    def path(self, image: int) -> Path:
        """Return the file of the image with this index."""
        return self.files[image]

    def reader(self, images: np.ndarray, size: int) -> Callable[[int], np.ndarray]:
        """Return what reads the image of an index as ``read_image`` does."""
        return partial(_read_file, self, partial(read_image, size=size))


def _read_file(source: ImageSource, read: Callable[[Path], np.ndarray], image: int) -> np.ndarray:
    """Read the file of an image as ``read`` does."""
    return read(source.path(image))


@dataclass(frozen=True)
class LoadedImages:
    """The images of a batch, as far as they can be read."""

    pixels: "Tensor | None"  # (G, ...) those that can, in order; None without any
    errors: dict[int, UserError]  # position in the batch -> why that image cannot


class _ImageBatches:
    """Whole batches of images by index, as torch's DataLoader wants them."""

    def __init__(self, batches: Sequence[np.ndarray], read: Callable[[int], np.ndarray]):
        self.batches = batches
        self.read = read

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> LoadedImages:
        import torch

        pixels, errors = [], {}
        for position, image in enumerate(self.batches[index]):
            try:
                pixels.append(self.read(image))
            except UserError as error:  # for the parent, which can say it in one line
                errors[position] = error
        return LoadedImages(torch.from_numpy(np.stack(pixels)) if pixels else None, errors)


def load_images(
    source: ImageSource,
    batches: Sequence[np.ndarray],
    size: int,
    workers: int,
    left_out: list[int] | None = None,
    out_of: int | None = None,
) -> Iterator["Tensor"]:
    """Yield the images of each batch of indices, (B, 3, S, S) uint8, in order.

    Args:
        source: Where the images are.
        batches: Image indices (B,) of each batch.
        size: S.
        workers: Processes that read ahead; 0 reads in this process.
        left_out: Where given, images that are missing or unreadable are logged and left out of
            their batch (which may be left out whole), and their indices are added here.
        out_of: Of how many images these are a part; unless given, they are all. Too many are those
            that would be too many of the whole.

    Raises:
        UserError: an image is missing or unreadable, or, with ``left_out``, too many are (see
            ``require_readable``); the source's cache cannot be written.
    """
    return _load_all(batches, _reader(source, batches, size), workers, left_out, out_of)


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
    return _load_all(batches, partial(_read_file, source, read), workers)


def load_readable_images(
    source: ImageSource, batches: Sequence[np.ndarray], size: int, workers: int
) -> Generator[LoadedImages, None, None]:
    """Yield what ``load_images`` does, but leave out images that are missing or unreadable."""
    return _load(batches, _reader(source, batches, size), workers)


def _reader(
    source: ImageSource, batches: Sequence[np.ndarray], size: int
) -> Callable[[int], np.ndarray]:
    """Return what reads the image of an index, out of those in the batches."""
    return source.reader(np.concatenate([np.zeros(0, np.int64), *batches]), size)


def _load_all(
    batches: Sequence[np.ndarray],
    read: Callable[[int], np.ndarray],
    workers: int,
    left_out: list[int] | None = None,
    out_of: int | None = None,
) -> Iterator["Tensor"]:
    """Yield the images of each batch of indices (see ``load_images``)."""
    total = sum(map(len, batches)) if out_of is None else out_of
    # no variable holds the iterator: one that an error's traceback kept alive would keep the
    # workers, too, and they would keep this process from ending
    for batch, loaded in zip(batches, _load(batches, read, workers), strict=True):
        for place, error in loaded.errors.items():
            if left_out is None:
                raise error
            left_out.append(int(batch[place]))
            logger.warning("left out: %s", error)
            require_readable(len(left_out), total, str(error))
        if loaded.pixels is not None:
            yield loaded.pixels


def require_readable(bad: int, total: int, last: str) -> None:
    """See that images can be read, but for a few.

    Args:
        bad: How many cannot.
        total: Of how many.
        last: What is wrong with the last one.

    Raises:
        UserError: that are too many (see ``are_too_many``), or all.
    """
    if are_too_many(bad, total) or bad == total > 0:
        raise UserError(f"{bad} of {total} images cannot be read; the last: {last}")


def _load(
    batches: Sequence[np.ndarray], read: Callable[[int], np.ndarray], workers: int
) -> Generator[LoadedImages, None, None]:
    """Yield the images of each batch of indices, in order (see ``load_batches``)."""
    import torch
    from torch.utils.data import DataLoader

    dataset: Any = _ImageBatches(batches, read)  # torch asks for no more than it has
    yield from DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_leave_signals_to_parent,
        # a generator of its own: torch's must not depend on how often loading starts
        generator=torch.Generator(),
    )


def _leave_signals_to_parent(_worker: int) -> None:
    """Let signals to the process group end only the parent, which ends its workers itself."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
