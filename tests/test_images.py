"""Image files to pixels: modes, orientation, damage, and the statistics of pixels."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import normalize

from datasets_src.images import (
    ImageFiles,
    ImageSet,
    cropped,
    normalise,
    open_rgb,
    read_header,
    resized,
)
from tests.test_coco import refusal_of, write_split

TURNED = 6  # the EXIF orientation of a picture that is shown turned by 90 degrees


def random_picture(mode="RGB", width=21, height=13, seed=0):
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width)).astype(np.uint16))
    pixels = rng.integers(0, 256, (height, width, 4)).astype(np.uint8)
    has_alpha = mode in ("RGBA", "LA")
    return Image.fromarray(pixels if has_alpha else pixels[:, :, :3]).convert(mode)


def write_small(datasets_dir, instances=None):
    """Write a data set of three images and four captions."""
    pictures = {image_id: random_picture(seed=image_id) for image_id in (4, 8, 15)}
    captions = [(8, "a red dog"), (4, "a cat ."), (15, "two dogs"), (8, "the dog")]
    return write_split(datasets_dir, pictures, captions, instances)


def read_image(path, size):
    """Read an image as those of a data set are read."""
    return ImageSet(path.parent, [path.name], size)[0].pixels


def save_turned(picture, path):
    exif = Image.Exif()
    exif[0x0112] = TURNED
    picture.save(path, exif=exif)


@pytest.mark.parametrize("size", [1, 16, 40])
@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *((mode, "JPEG") for mode in ("RGB", "L", "CMYK")),
        *((mode, "PNG") for mode in ("RGB", "1", "L", "LA", "P", "RGBA", "I;16")),
        *((mode, "TIFF") for mode in ("CMYK", "I;16")),
        ("P", "GIF"),
    ],
)
def test_image_of_any_mode_is_read_as_rgb_and_resized_bilinearly(tmp_path, mode, kind, size):
    path = tmp_path / "x.jpg"  # whatever the format
    random_picture(mode).save(path, kind)
    with Image.open(path) as image:
        assert image.mode == mode
        if mode == "I;16":  # the brighter of two bytes
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        expected = np.asarray(image.convert("RGB").resize((size, size), Image.BILINEAR))
    pixels = read_image(path, size)
    assert pixels.dtype == np.uint8
    assert pixels.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(pixels, np.moveaxis(expected, 2, 0))


def test_orientation_is_applied_to_own_photos_and_where_the_declared_size_is_turned(tmp_path):
    picture = random_picture(width=8, height=4)  # as stored
    upright = picture.transpose(Image.Transpose.ROTATE_270)  # 4 wide, 8 high
    save_turned(picture, tmp_path / "turned.png")
    picture.save(tmp_path / "plain.png")
    names = [*["turned.png"] * 4, "plain.png", "plain.png"]
    declared = np.array([(8, 4), (4, 8), (0, 0), (80, 40), (8, 4), (4, 8)])
    images = ImageSet(tmp_path, names, 16, declared)
    expected = [picture, upright, picture, picture, picture, picture]
    fits = [True, True, True, False, True, False]
    for image, (shown, is_fit) in enumerate(zip(expected, fits, strict=True)):
        loaded = images[image]
        np.testing.assert_array_equal(loaded.pixels, resized(shown, 16))
        assert loaded.has_declared_size == is_fit
        np.testing.assert_array_equal(np.asarray(images.open(image)), np.asarray(shown))
    own = ImageFiles([tmp_path / "turned.png"]).images(16)  # a user's own photo
    np.testing.assert_array_equal(own[0].pixels, resized(upright, 16))


def test_large_pictures_and_odd_metadata_print_no_warning_of_a_library(tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (10_000, 9_000)).save(path)
    code = "import sys, pathlib; from datasets_src.images import *; "
    code += "read_header(pathlib.Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "bomb", "fifo", "folder", "half"])
def test_what_is_no_image_is_refused_by_name(tmp_path, kind):
    path = tmp_path / "x.jpg"
    half = random_picture().tobytes("jpeg", "RGB")[:500]
    {
        "missing": lambda: None,
        "empty": path.touch,
        "text": lambda: path.write_bytes(b"no image\nbut text"),
        "bomb": lambda: path.write_bytes(b"P6 60000 60000 255\n"),
        "fifo": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "half": lambda: path.write_bytes(half),
    }[kind]()
    message = refusal_of(open_rgb, path)
    assert str(path) in message
    assert str(ImageSet(tmp_path, ["x.jpg"], 8)[0]) == message
    if kind != "half":
        assert refusal_of(read_header, path) == message


def test_header_is_read_without_the_pixels(tmp_path):
    path = tmp_path / "x.png"
    save_turned(random_picture("LA"), path)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"IDAT") + 4])
    assert read_header(path) == ("LA", (21, 13))


@pytest.mark.parametrize(
    ("statistics", "means", "deviations"),
    [
        ("clip", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
def test_normalise_is_that_of_torchvision_with_published_statistics(statistics, means, deviations):
    images = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    expected = normalize(images / 255, means, deviations)
    torch.testing.assert_close(normalise(images, statistics), expected)
    assert torch.equal(normalise(images), normalise(images, "clip"))


def test_a_crop_is_the_square_that_was_drawn():
    image = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).repeat(1, 3, 1, 1)
    # side 1 - (1 - 0.5) x 1 = half; the edges at the far right and the very top
    found = cropped(image, torch.tensor([[1.0, 1.0, 0.0]]), 0.5)
    corner = image[:, :, :4, 4:].float()
    expected = torch.nn.functional.interpolate(corner, size=8, mode="bilinear")
    inside = (slice(None), slice(None), slice(1, 7), slice(1, 7))  # beyond the edge pixels differ
    torch.testing.assert_close(found[inside].float(), expected[inside], atol=0.51, rtol=0)
    assert torch.equal(cropped(image, torch.zeros(1, 3), 0.5), image)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_of_32_bits_are_refused(kind, tmp_path):
    Image.fromarray(np.full((4, 4), 300, kind)).save(tmp_path / "x.tiff")
    (found,) = ImageFiles([tmp_path / "x.tiff"]).images(4)
    assert "32 bits" in str(found) and "replace it by a JPEG or PNG" in str(found)
