"""Image files to arrays, and pixels to what a network takes.

Axes: N images of a set, B images of a batch, S the image size in pixels.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from datasets_src.image_cache import ImageCache
from utils.errors import UserError

# mean and standard deviation per channel (red, green, blue), for values scaled to 0..1: those of
# CLIP's training images, which the published system uses, and those of ImageNet
PIXEL_STATISTICS = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
# of a data set's images a few, or this share, may be missing or unreadable, and are left out
FEW_BAD_IMAGES, BAD_IMAGES_SHARE = 3, 0.01

# Pillow warns of large pictures and odd metadata with its own source lines
warnings.filterwarnings("ignore", module=r"PIL\.")


def are_too_many(bad: int, images: int) -> bool:
    """Return whether so many of some images are missing or unreadable that the work must stop.

    Fewer are left out, named and counted: one bad file must not end hours of work.
    """
    return bad == images > 0 or bad > max(FEW_BAD_IMAGES, BAD_IMAGES_SHARE * images)


class LoadedImage(NamedTuple):
    """An image that could be read."""

    pixels: np.ndarray  # (3, S, S) uint8, or what ``prepare`` returns
    has_declared_size: bool  # whether it is as wide and high as its data set says


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images by index, as a map-style data set of torch's; one that cannot be read is its error.

    An image is taken as it is stored, whatever its EXIF orientation, because COCO's boxes count
    stored pixels. It is turned upright where width and height are then those that its data set
    declares, and they are swapped otherwise; and where nothing is declared with ``upright``.
    """

    folder: Path
    file_names: Sequence[str] | np.ndarray  # N, in the folder
    size: int  # S
    declared: np.ndarray | None = None  # (N, 2) width and height that the data set says; 0 unknown
    upright: bool = False
    prepare: Callable[[Image.Image], np.ndarray] | None = None  # in place of resizing to S
    cache: tuple[ImageCache, np.ndarray] | None = None  # and (N,) int64 the rows in it

    def path(self, image: int) -> Path:
        """Return the file of the image with this index."""
        return self.folder / str(self.file_names[image])

    def open(self, image: int) -> Image.Image:
        """Return the whole image in RGB, turned as boxes and captions mean it."""
        return open_rgb(self.path(image), self._declared_size(image), upright=self.upright)

    def __getitem__(self, image: int) -> LoadedImage | UserError:
        """Decode and resize (bilinear, aspect ratio not kept), or find it in the cache."""
        declared = self._declared_size(image)
        if self.cache is not None:
            cache, row = self.cache[0], int(self.cache[1][image])
            origin = cache.origin(self.path(image), declared)
            stored = cache.read(row, self.size, origin)
            if stored is not None:
                return LoadedImage(stored, True)
        try:
            whole = self.open(image)
        except UserError as error:
            return error
        pixels = resized(whole, self.size) if self.prepare is None else self.prepare(whole)
        loaded = LoadedImage(pixels, declared in (None, whole.size))
        if self.cache is not None and loaded.has_declared_size:
            cache.write(row, loaded.pixels, origin)
        return loaded

    def __len__(self) -> int:
        return len(self.file_names)

    def _declared_size(self, image: int) -> tuple[int, int] | None:
        if self.declared is None or not self.declared[image].all():
            return None
        width, height = self.declared[image].tolist()
        return width, height


@dataclass(frozen=True)
class ImageFiles:
    """Image files that belong to no data set."""

    files: Sequence[Path]

    def images(self, size: int) -> ImageSet:
        """Return them as a data set of torch's, turned upright and resized to size x size."""
        return ImageSet(Path(), [str(path) for path in self.files], size, upright=True)


def resized(image: Image.Image, size: int) -> np.ndarray:
    """Return an RGB image as (3, size, size) uint8."""
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def open_rgb(
    path: Path, declared: tuple[int, int] | None = None, *, upright: bool = False
) -> Image.Image:
    """Read an image file whole, as RGB; see ``ImageSet`` for how it is turned."""
    with _opened(path) as image:
        if upright or (image.size != declared and image.size[::-1] == declared):
            ImageOps.exif_transpose(image, in_place=True)
        if image.mode in ("I", "F"):
            raise ValueError(f"pixels of 32 bits ({image.mode}), whose range is not known")
        if image.mode.startswith("I;16"):  # ``convert`` would cut bright pixels off at 255
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        return image.convert("RGB")


def read_header(path: Path) -> tuple[str, tuple[int, int]]:
    """Read an image file's mode (Pillow's) and stored (width, height), and not its pixels."""
    with _opened(path) as image:
        return image.mode, image.size


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file; what Pillow raises then, or while it is open, becomes a UserError."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for without end
            raise OSError("it is no file")
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise UserError(
            f"image {path} is missing; check the path, or complete the image folder"
        ) from None
    except Exception as error:  # Pillow's readers raise many kinds
        raise UserError(
            f"cannot read image {path}: {error}; replace it by a JPEG or PNG file, or remove it"
        ) from None


def cropped(images: Tensor, draws: Tensor, smallest: float) -> Tensor:
    """Cut a square from each image, (B, 3, S, S) uint8, and bring it back to S bilinearly.

    ``draws`` (B, 3), uniform in 0..1, decide side, left edge and top edge; the least side is
    ``smallest``, above 0, of the image's.
    """
    side = 1 - (1 - smallest) * draws[:, :1]  # (B, 1)
    centre = (2 * draws[:, 1:] - 1) * (1 - side)  # (B, 2) in -1..1
    scale = torch.eye(2) * side[:, :, None]  # (B, 2, 2)
    maps = torch.cat([scale, centre[:, :, None]], dim=2)  # (B, 2, 3)
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
    found = functional.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return found.round().to(torch.uint8)


def normalise(images: Tensor, statistics: str = "clip") -> Tensor:
    """Scale uint8 images (B, 3, H, W) to 0..1 and normalise each channel; float32."""
    scaled = images.float() / 255
    mean, std = (scaled.new_tensor(x).view(3, 1, 1) for x in PIXEL_STATISTICS[statistics])
    return (scaled - mean) / std
