"""Batches of images, read ahead by worker processes.

Axes: B images of a batch, S the image size in pixels.
"""

import logging
import signal
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datasets_src.images import ImageSet, LoadedImage, are_too_many
from utils.errors import UserError

ADVICE = "give fewer --workers, or --workers 0 to read in this process"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedBatch:
    """The images of a batch, as far as they can be read."""

    # (B', 3, S, S) uint8, those that can, in order; None without any. An array of numpy's: torch
    # would hand a tensor on through /dev/shm, and wait for ever where that is full
    pixels: np.ndarray | None
    errors: dict[int, UserError]  # position in the batch -> why that image cannot
    odd: list[int]  # positions of images that are not as large as their data set says


def load_batches(
    images: ImageSet, batches: Sequence[np.ndarray], workers: int
) -> Generator[LoadedBatch, None, None]:
    """Yield the images of each batch of indices, in order; what cannot be read is named.

    ``workers`` processes read ahead; 0 reads in this process. Whatever ends one of them ends the
    loading with an error, after one more batch, which is read here: a training that was asked to
    stop by the same signal takes its last step and saves.
    """
    if images.cache is not None:
        cache, rows = images.cache
        cache.require_space(rows[np.concatenate([np.zeros(0, np.int64), *batches])], images.size)
    unlike: set[int] = set()  # images of another size than their data set says
    done = 0
    try:
        # no variable holds the iterator: one that an error's traceback kept alive would keep the
        # workers, too, and they would keep this process from ending
        for batch, loaded in zip(batches, _start_reading(images, batches, workers), strict=True):
            unlike.update(batch[loaded.odd].tolist())
            done += 1
            yield loaded
    except OSError as error:
        raise UserError(
            f"cannot start processes that read images: {error.strerror or error}; {ADVICE}, or "
            "make room in /dev/shm (Docker: --shm-size)"
        ) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        yield _stack([images[image] for image in batches[done].tolist()])
        raise UserError(
            "a process that reads images was killed, for want of memory or of room in /dev/shm, or "
            f"by a signal; {ADVICE}"
        ) from None
    finally:
        if unlike:
            logger.warning(
                "images whose width and height are not those of the annotations: %d, the first %s; "
                "boxes and captions fit only if these images were resized as a whole",
                len(unlike),
                images.path(min(unlike)),
            )


def _start_reading(
    images: ImageSet, batches: Sequence[np.ndarray], workers: int
) -> Iterator[LoadedBatch]:
    """Return an iterator over the batches; its workers run from here on."""
    handler = signal.getsignal(signal.SIGCHLD)
    loader: DataLoader[Any] = DataLoader(
        images,  # type: ignore[arg-type]  # torch asks for no more than it has
        batch_sampler=[batch.tolist() for batch in batches],
        collate_fn=_stack,
        num_workers=workers,
        worker_init_fn=_heed_signals,
        # a generator of its own: torch's must not depend on how often loading starts
        generator=torch.Generator(),
    )
    loaded = iter(loader)
    if handler is not None and workers:
        # torch's own would raise in the middle of a training step when a worker ends
        signal.signal(signal.SIGCHLD, handler)
    return loaded


def _stack(images: list[LoadedImage | UserError]) -> LoadedBatch:
    """Put a batch together."""
    read = {place: x for place, x in enumerate(images) if isinstance(x, LoadedImage)}
    errors = {place: x for place, x in enumerate(images) if isinstance(x, UserError)}
    odd = [place for place, image in read.items() if not image.has_declared_size]
    return LoadedBatch(np.stack([x.pixels for x in read.values()]) if read else None, errors, odd)


def _heed_signals(_worker: int) -> None:
    """Let SIGTERM end a worker; other signals to the process group are for its parent."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def load_images(
    images: ImageSet,
    batches: Sequence[np.ndarray],
    workers: int,
    left_out: list[int] | None = None,
    out_of: int | None = None,
) -> Iterator[Tensor]:
    """Yield the images of each batch of indices, (B, 3, S, S) uint8, in order.

    An image that cannot be read is an error; but where ``left_out`` is given it is logged and left
    out of its batch (which may be left out whole), and its index is added there. Too many are an
    error all the same: too many of ``out_of`` images, or of these where that is not given.
    """
    total = sum(map(len, batches)) if out_of is None else out_of
    for batch, loaded in zip(batches, load_batches(images, batches, workers), strict=True):
        for place, error in loaded.errors.items():
            if left_out is None:
                raise error
            left_out.append(int(batch[place]))
            logger.warning("left out: %s", error)
            require_readable(len(left_out), total, str(error))
        if loaded.pixels is not None:
            yield torch.from_numpy(loaded.pixels)


def require_readable(bad: int, total: int, last: str) -> None:
    """Refuse a data set of which too many images cannot be read (see ``are_too_many``)."""
    if are_too_many(bad, total):
        raise UserError(f"{bad} of {total} images cannot be read; the last: {last}")
