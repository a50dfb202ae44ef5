"""Resized images kept on disk, so that an image file is decoded once and not every epoch.

Nothing in the cache is trusted but what its checksum vouches for. The checksum covers the pixels
and what they were made from: the image file's name, size in bytes and time of change, the width and
height that its data set says, and the program that decoded it. So a changed image, a write that was
cut off, another order of images and a damaged disk all look like an image that is not there yet,
which is then read from its file and stored again; processes need no locks, because two that store
an image store the same.

Axes: R rows of the cache (one an image), S the image size in pixels.
"""

import logging
import os
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import __version__ as pillow_version

from utils.errors import UserError
from utils.files import require_writable_folder

FORMAT_VERSION = 2
CHECKSUM_BYTES = 4

logger = logging.getLogger(__name__)


@dataclass
class ImageCache:
    """A folder of resized images, and the name of one split in it.

    Row r of two files is an image's pixels, (R, 3, S, S) uint8, and its checksum, (R,) uint32, 0
    where nothing is stored. Rows that were never written take no space on most disks.
    """

    folder: Path
    name: str
    is_full: bool = False  # whether a write failed

    def row(
        self, row: int, size: int, path: Path, declared: tuple[int, int] | None
    ) -> "CachedImage":
        """Return the place of an image, the same whenever it is read."""
        try:
            status = path.stat()
            origin = f"{path.name} {status.st_size} {status.st_mtime_ns} {declared}"
        except OSError:
            origin = ""  # reading the file will say what is wrong with it
        seed = zlib.crc32(f"{FORMAT_VERSION} {pillow_version} {origin}".encode())
        return CachedImage(self, row, size, seed)

    def files(self, size: int) -> tuple[Path, Path]:
        """Return the files of pixels and of checksums."""
        stem = f"{self.name}_{size}"
        return self.folder / f"{stem}.pixels", self.folder / f"{stem}.checksums"

    def require_space(self, rows: np.ndarray, size: int) -> None:
        """See that what is not stored yet of some rows can be, before it is read."""
        pixels, checksum_file = self.files(size)
        rows = np.unique(rows)
        checksums = np.zeros(0, np.uint32)
        try:
            if checksum_file.exists():
                checksums = np.fromfile(checksum_file, np.uint32)
        except OSError as error:
            raise UserError(
                f"cannot read {checksum_file}: {error.strerror}; check the path of --image_cache"
            ) from None
        there = np.count_nonzero(checksums[rows[rows < len(checksums)]])
        needed = (len(rows) - there) * 3 * size * size
        if not needed:
            return
        require_writable_folder(self.folder)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"--image_cache {self.folder}: the images left take {needed / 1e9:.2f} GB, and "
                f"{free / 1e9:.2f} GB are free; make room, name another folder, or leave the "
                "option out"
            )
        logger.info(
            "%s: %d of %d images are stored; the others are as they are read, %.2f GB (%.1f GB "
            "are free)",
            pixels,
            there,
            len(rows),
            needed / 1e9,
            free / 1e9,
        )


@dataclass(frozen=True)
class CachedImage:
    """The place of one image in a cache."""

    cache: ImageCache
    row: int
    size: int  # S
    seed: int  # checksum of what the pixels are made from

    def read(self) -> np.ndarray | None:
        """Return the pixels (3, S, S), None unless they are there."""
        pixels, checksums = self.cache.files(self.size)
        shape = (3, self.size, self.size)
        offset = 3 * self.size * self.size * self.row
        try:
            checksum = np.memmap(checksums, np.uint32, "r", CHECKSUM_BYTES * self.row, (1,))[0]
            if not checksum:
                return None
            # mapped for this one copy: what stays mapped counts as memory of each worker
            stored = np.array(np.memmap(pixels, np.uint8, "r", offset, shape))
        except (OSError, ValueError):  # no such file, or it ends before this row
            return None
        return stored if zlib.crc32(stored.data, self.seed) == checksum else None

    def write(self, pixels: np.ndarray) -> None:
        """Store the pixels; when that fails, say so once and store nothing from here on."""
        if self.cache.is_full:
            return
        pixel_file, checksum_file = self.cache.files(self.size)
        checksum = np.uint32(zlib.crc32(pixels.data, self.seed))
        try:
            # not through a map: on a full disk that would kill the process
            _write_at(pixel_file, pixels.nbytes * self.row, pixels.tobytes())
            _write_at(checksum_file, CHECKSUM_BYTES * self.row, checksum.tobytes())
        except OSError as error:
            self.cache.is_full = True
            logger.warning(
                "no more images are stored in %s: %s", pixel_file, error.strerror or error
            )


def _write_at(path: Path, offset: int, content: bytes) -> None:
    """Write bytes at a place of a file, which grows as far as needed."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        written = 0
        while written < len(content):  # less than all is written when the disk is about to be full
            written += os.pwrite(file, content[written:], offset + written)
    finally:
        os.close(file)
