"""Resized images kept on disk, so that an image file is decoded once and not every epoch.

Nothing in the cache is trusted but what its checksum vouches for. The checksum covers the pixels
and what they were made from: the image file's name, size in bytes and time of change, the width and
height that its data set says, and the program that decoded it. So a changed image, a write that was
cut off, another order of images and a damaged disk all look like an image that is not there yet,
which is then read from its file and stored again; processes need no locks, because two that store
an image store the same.

Axes: R rows of the cache (one an image), S the image size in pixels.
"""

import contextlib
import logging
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import __version__ as pillow_version

from utils.errors import UserError
from utils.files import reading, require_writable_folder

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

    def files(self, size: int) -> tuple[Path, Path]:
        """Return the files of pixels and of checksums."""
        stem = f"{self.name}_{size}"
        return self.folder / f"{stem}.pixels", self.folder / f"{stem}.checksums"

    def origin(self, path: Path, declared: tuple[int, int] | None) -> int:
        """Return a checksum of what an image's pixels are made from."""
        origin = ""
        with contextlib.suppress(OSError):  # reading the file will say what is wrong with it
            status = path.stat()
            origin = f"{path.name} {status.st_size} {status.st_mtime_ns} {declared}"
        return zlib.crc32(f"{FORMAT_VERSION} {pillow_version} {origin}".encode())

    def require_space(self, rows: np.ndarray, size: int) -> None:
        """See that what is not stored yet of some rows can be, before it is read."""
        pixels, checksum_file = self.files(size)
        rows = np.unique(rows)
        there = 0
        if checksum_file.exists():
            with reading(checksum_file, "check the path of --image_cache"):
                checksums = np.fromfile(checksum_file, np.uint32)
            there = int(np.count_nonzero(checksums[rows[rows < len(checksums)]]))
        if there == len(rows):
            return
        require_writable_folder(self.folder)
        needed, free = (len(rows) - there) * 3 * size * size, shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"--image_cache {self.folder}: the images left take {needed / 1e9:.2f} GB, and "
                f"{free / 1e9:.2f} GB are free; make room, name another folder, or leave it out"
            )
        counts = f"{there} of {len(rows)} images are stored; the others are as they are read"
        logger.info("%s: %s, %.2f GB (%.1f GB are free)", pixels, counts, needed / 1e9, free / 1e9)

    def read(self, row: int, size: int, origin: int) -> np.ndarray | None:
        """Return the pixels (3, S, S) of an image, None unless they are there."""
        pixels, checksums = self.files(size)
        try:
            checksum = np.memmap(checksums, np.uint32, "r", CHECKSUM_BYTES * row, (1,))[0]
            if not checksum:
                return None
            # mapped for this one copy: what stays mapped counts as memory of each worker
            offset, shape = 3 * size * size * row, (3, size, size)
            stored = np.array(np.memmap(pixels, np.uint8, "r", offset, shape))
        except (OSError, ValueError):  # no such file, or it ends before this row
            return None
        return stored if zlib.crc32(stored.data, origin) == checksum else None

    def write(self, row: int, pixels: np.ndarray, origin: int) -> None:
        """Store the pixels; when that fails, say so once and store nothing from here on."""
        if self.is_full:
            return
        pixel_file, checksum_file = self.files(pixels.shape[1])
        checksum = np.uint32(zlib.crc32(pixels.data, origin))
        try:
            # not through a map: on a full disk that would kill the process
            _write_at(pixel_file, pixels.nbytes * row, pixels.tobytes())
            _write_at(checksum_file, CHECKSUM_BYTES * row, checksum.tobytes())
        except OSError as error:
            self.is_full = True
            reason = error.strerror or error
            logger.warning("no more images are stored in %s: %s", pixel_file, reason)


def _write_at(path: Path, offset: int, content: bytes) -> None:
    """Write bytes at a place of a file, which grows as far as needed."""
    path.touch()
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)
