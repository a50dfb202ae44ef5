"""Resized images kept on disk, so that an image file is decoded once and not every epoch.

Nothing in the cache is trusted but what its checksum vouches for. The checksum covers the pixels
and what they were made from: the image file's name, size in bytes and time of change, and the
program that decoded it. So a changed image, a write that was cut off, another order of images and a
damaged disk all look like an image that is not there yet, which is then read from its file and
stored again; processes need no locks, because two that store an image store the same.

Axes: R rows of the cache (one an image), S the image size in pixels.
"""

import logging
import os
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets_src.images import read_image
from utils.errors import UserError
from utils.files import require_writable_folder

FORMAT_VERSION = 1
CHECKSUM_BYTES = 4

logger = logging.getLogger(__name__)


@dataclass
class StoredImages:
    """The images of a split in one size: row r of two files is an image's pixels and checksum.

    Rows that were never written are holes, which take no space on most disks.
    """

    pixels: Path  # (R, 3, S, S) uint8
    checksums: Path  # (R,) uint32, 0 where nothing is stored
    size: int  # S
    writable: bool = True  # until a write fails

    @property
    def image_bytes(self) -> int:
        """Bytes of one image's pixels."""
        return 3 * self.size * self.size

    def read(self, path: Path, row: int) -> np.ndarray:
        """Return what ``read_image`` does, from the cache where it is there, and store it if not.

        Args:
            path: The image file.
            row: The image's row in the cache, the same whenever it is read.

        Raises:
            UserError: as of ``read_image``.
        """
        from PIL import __version__ as pillow_version

        try:
            status = path.stat()
        except OSError:
            return read_image(path, self.size)  # which says what is wrong with it
        made_from = (
            f"{FORMAT_VERSION} {pillow_version} {path.name} {status.st_size} {status.st_mtime_ns}"
        )
        seed = zlib.crc32(made_from.encode())
        stored = self._stored(row, seed)
        if stored is not None:
            return stored
        pixels = read_image(path, self.size)
        if self.writable:
            self._store(row, pixels, zlib.crc32(pixels.data, seed))
        return pixels

    def _stored(self, row: int, seed: int) -> np.ndarray | None:
        """Return the pixels (3, S, S) of a row, None unless they are those of ``seed``."""
        try:
            checksum = np.memmap(self.checksums, np.uint32, "r", CHECKSUM_BYTES * row, (1,))
            if not checksum[0]:
                return None
            # mapped for this one copy: what stays mapped counts as memory of each worker
            pixels = np.array(
                np.memmap(
                    self.pixels,
                    np.uint8,
                    "r",
                    self.image_bytes * row,
                    (3, self.size, self.size),
                )
            )
        except (OSError, ValueError):  # no such file, or it ends before this row
            return None
        return pixels if zlib.crc32(pixels.data, seed) == checksum[0] else None

    def _store(self, row: int, pixels: np.ndarray, checksum: int) -> None:
        """Write a row; when that fails, say so once and store nothing from here on."""
        try:
            # not through a map: on a full disk that would kill the process
            _write_at(self.pixels, self.image_bytes * row, pixels.tobytes())
            _write_at(self.checksums, CHECKSUM_BYTES * row, np.uint32(checksum).tobytes())
        except OSError as error:
            self.writable = False
            logger.warning(
                "no more images are stored in %s: %s", self.pixels, error.strerror or error
            )


@dataclass(frozen=True)
class ImageCache:
    """A folder of resized images, and the name of one split in it."""

    folder: Path
    name: str

    def opened(self, rows: np.ndarray, size: int) -> StoredImages:
        """Return the stored images of a size, after a look at how much is still to be written.

        Args:
            rows: Of the images that will be read.
            size: S.

        Raises:
            UserError: images are to be written, and the folder cannot be written or its disk has
                less free space than they take.
        """
        stem = f"{self.name}_{size}"
        stored = StoredImages(
            self.folder / f"{stem}.pixels", self.folder / f"{stem}.checksums", size
        )
        rows = np.unique(rows)
        try:
            checksums = np.fromfile(stored.checksums, np.uint32)
        except FileNotFoundError:
            checksums = np.zeros(0, np.uint32)
        except OSError as error:
            raise UserError(
                f"cannot read {stored.checksums}: {error.strerror}; check the path of --image_cache"
            ) from None
        there = np.count_nonzero(checksums[rows[rows < len(checksums)]])
        needed = (len(rows) - there) * stored.image_bytes
        if needed:
            require_writable_folder(self.folder)
            free = shutil.disk_usage(self.folder).free
            if needed > free:
                raise UserError(
                    f"--image_cache {self.folder}: {len(rows) - there} images take "
                    f"{needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free; make room, name "
                    "another folder, or leave the option out"
                )
            logger.info(
                "%s: %d of %d images are stored; the others are as they are read, %.2f GB (%.1f GB "
                "are free)",
                stored.pixels,
                there,
                len(rows),
                needed / 1e9,
                free / 1e9,
            )
        return stored


def _write_at(path: Path, offset: int, content: bytes) -> None:
    """Write bytes at a place of a file, which grows as far as needed."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        written = os.pwrite(file, content, offset)
        while written < len(content):  # the disk is about to be full
            written += os.pwrite(file, content[written:], offset + written)
    finally:
        os.close(file)
