"""Image files to tensors.

Axes: B images, H = W = the image size in pixels.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage
    from torch import Tensor

# per channel (red, green, blue), for values scaled to 0..1
CHANNEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
CHANNEL_STD = (0.26862954, 0.26130258, 0.27577711)
# of a data set's images a few, or this share, may be missing or unreadable, and are left out
FEW_BAD_IMAGES, BAD_IMAGES_SHARE = 3, 0.01


def are_too_many(bad: int, images: int) -> bool:
    """Return whether so many of some images are missing or unreadable that the work must stop.

    Fewer are left out, named and counted: one bad file must not end hours of work.
    """
    return bad > max(FEW_BAD_IMAGES, BAD_IMAGES_SHARE * images)


def open_rgb(path: Path) -> "PillowImage":
    """Read an image file whole, as RGB, its pixels as they are stored.

    An EXIF orientation is not applied: COCO's boxes count stored pixels.

    Raises:
        UserError: the file is missing or no image that Pillow reads whole.
    """
    from PIL import Image

    with _opened(path) as image:
        if image.mode.startswith("I;16"):  # whose bright pixels convert() would cut off at 255
            return Image.fromarray((np.asarray(image) // 256).astype(np.uint8)).convert("RGB")
        return image.convert("RGB")


def read_mode(path: Path) -> str:
    """Return Pillow's mode of an image file ("RGB", "L", ...), from its header alone.

    Raises:
        UserError: the file is missing or no image that Pillow knows.
    """
    with _opened(path) as image:
        return image.mode


@contextlib.contextmanager
def _opened(path: Path) -> "Iterator[PillowImage]":
    """Open an image file; what Pillow raises then, or while it is open, becomes a UserError."""
    from PIL import Image

    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for without end
            raise OSError("it is no file")
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise UserError(
            f"image {path} is missing; check the path, or complete the image folder"
        ) from None
    except (  # RuntimeError: what Pillow's AVIF reader raises
        OSError,
        ValueError,
        SyntaxError,
        RuntimeError,
        Image.DecompressionBombError,
    ) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot read image {path}: {reason}; replace or remove it") from None


def read_image(path: Path, size: int) -> np.ndarray:
    """Read an image as RGB, resized to size x size (bilinear), aspect ratio not kept.

    Returns:
        (3, size, size) uint8.

    Raises:
        UserError: the file is missing or no image that Pillow reads whole.
    """
    from PIL import Image

    pixels = open_rgb(path).resize((size, size), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(pixels).transpose(2, 0, 1))


def normalise(images: "Tensor") -> "Tensor":
    """Scale uint8 images (B, 3, H, W) to 0..1 and normalise each channel; float32."""
    import torch

    mean, std = (
        torch.tensor(channels).view(3, 1, 1).to(images.device, non_blocking=True)
        for channels in (CHANNEL_MEAN, CHANNEL_STD)
    )
    return (images.float() / 255 - mean) / std
