"""Draws the pictures of the demo world: objects (``demo_world.yaml``) before six backgrounds."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from PIL import Image, ImageDraw
from PIL.ImageColor import getrgb

Box = tuple[int, int, int, int]  # x, y, width, height in whole pixels
Rng = np.random.Generator
Pen = ImageDraw.ImageDraw

WORLD: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("demo_world.yaml").read_bytes())
OBJECTS: dict[str, dict[str, Any]] = WORLD["objects"]
# Where the second colour of a textured part shows, from the object's own coordinates (0..100).
PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "stripes": lambda x, y: x % 22 < 9,
    "bands": lambda x, y: y % 16 < 7,
    "checks": lambda x, y: (x % 24 < 12) ^ (y % 24 < 12),
    "diamonds": lambda x, y: ((x + y) % 15 < 4) | ((x - y) % 15 < 4),
    "zigzag": lambda x, y: (y + abs(x % 24 - 12)) % 24 < 11,
    "dots": lambda x, y: (x % 17 - 8) ** 2 + ((y + 9 * (x // 17 % 2)) % 17 - 8) ** 2 < 30,
}
LENGTHS = (0.29, 0.52)  # an object's longer side, as a share of the root of the picture's area
LARGEST_OVERLAP = 0.1  # two boxes share at most this part of the smaller one
OVERSAMPLING = 3  # objects are drawn larger and scaled down, for smooth edges
MARGIN = 8  # shapes may reach this far beyond 0..100
FAINTEST_EDGE = 64  # of 255; fainter pixels are left out, so that a box has no invisible rim


class DrawnObject(NamedTuple):
    """One object in a finished picture."""

    name: str  # a key of OBJECTS
    colour: str  # the word of its palette
    box: Box  # tight around its visible pixels
    area: int  # visible pixels


def draw_scene(
    rng: Rng, background: str, names: Sequence[str], width: int, height: int
) -> tuple[np.ndarray, list[DrawnObject]]:
    """Draw a background and objects in front of it, wholly inside and hardly overlapping.

    The background depends only on the generator's state on entry. Returns the picture,
    (height, width, 3) uint8 RGB, and its objects in the order of ``names``, without those for which
    no room was found.
    """
    picture = draw_background(rng, background, width, height).astype(np.float32)
    owner = np.full((height, width), -1)  # which object shows in each pixel
    boxes: list[Box] = []
    drawn: list[tuple[str, str]] = []  # name and colour
    for name in names:
        colour, *codes = rng.choice(OBJECTS[name]["palettes"]).split()
        length = rng.uniform(*LENGTHS) * (width * height) ** 0.5 * 0.95 ** len(names)
        for share in (1.0, 0.75):
            sprite = _draw_object(rng, name, codes, length * share)
            box = _free_box(rng, sprite, boxes, width, height)
            if box is not None:
                x, y, w, h = box
                region = picture[y : y + h, x : x + w]
                region += (sprite[..., :3] - region) * (sprite[..., 3:] / np.float32(255))
                owner[y : y + h, x : x + w][sprite[..., 3] > 0] = len(boxes)
                boxes.append(box)
                drawn.append((name, colour))
                break
    objects = [
        DrawnObject(name, colour, _tight_box(owner == number), int((owner == number).sum()))
        for number, (name, colour) in enumerate(drawn)
    ]
    return np.rint(picture).clip(0, 255).astype(np.uint8), objects


def _free_box(
    rng: Rng, sprite: np.ndarray, boxes: Sequence[Box], width: int, height: int
) -> Box | None:
    """Return a place for a sprite off the boxes, None where 40 trials find none."""
    h, w = sprite.shape[:2]
    left, top, widths, heights = np.array(boxes, dtype=int).reshape(-1, 4).T
    for _ in range(40):
        x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        across = (np.minimum(x + w, left + widths) - np.maximum(x, left)).clip(min=0)
        down = (np.minimum(y + h, top + heights) - np.maximum(y, top)).clip(min=0)
        if (across * down / np.minimum(w * h, widths * heights) <= LARGEST_OVERLAP).all():
            return x, y, w, h
    return None


def _tight_box(mask: np.ndarray) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y


def _draw_object(rng: Rng, name: str, codes: Sequence[str], length: float) -> np.ndarray:
    """Draw an object, (h, w, 4) uint8 RGBA, cut to its pixels, its longer side ``length``."""
    drawing = OBJECTS[name]
    scale = OVERSAMPLING * length / 100
    zoom = np.array([scale * rng.uniform(0.9, 1.1), scale])
    size = tuple(round((100 + 2 * MARGIN) * side) for side in zoom)
    brightness = rng.uniform(0.9, 1.1)
    shades = (np.array(getrgb(f"#{code}")) * brightness + rng.normal(0, 4, 3) for code in codes)
    main, second = (tuple(np.rint(x).clip(0, 255).astype(int).tolist()) for x in shades)
    colours = WORLD["colours"] | {"main": main, "second": second}
    shapes = []
    for shape in drawing["shapes"].split(";"):
        kind, fill, *points = shape.split()
        corners = np.array([point.split(",") for point in points], dtype=float)  # (n, 2)
        shapes.append((kind, fill, (corners + MARGIN) * zoom))

    image = Image.new("RGBA", size)
    pen = ImageDraw.Draw(image)
    edge = tuple(channel // 3 for channel in main)
    for kind, _, points in shapes:  # all silhouettes a little larger make one dark outline
        _draw_shape(pen, kind, points, edge, grow=0.4 * OVERSAMPLING)
    for kind, fill, points in shapes:
        if fill == "texture":
            mask = Image.new("L", size)
            _draw_shape(ImageDraw.Draw(mask), kind, points, 255)
            x = np.arange(size[0])[None, :] / zoom[0] - MARGIN
            y = np.arange(size[1])[:, None] / zoom[1] - MARGIN
            pattern = np.broadcast_to(PATTERNS[drawing["texture"]](x, y), size[::-1])[..., None]
            pixels = np.where(pattern, (*second, 255), (*main, 255))
            image.paste(Image.fromarray(pixels.astype(np.uint8)), mask=mask)
        else:
            _draw_shape(pen, kind, points, colours[fill])
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle = rng.uniform(-drawing["tilt"], drawing["tilt"])
    image = image.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    image = image.crop(image.getbbox())
    ratio = length / max(image.size)
    width, height = (max(1, round(side * ratio)) for side in image.size)
    sprite = np.array(image.resize((width, height), Image.Resampling.BOX))
    sprite[..., 3] *= sprite[..., 3] >= FAINTEST_EDGE
    left, top, w, h = _tight_box(sprite[..., 3] > 0)
    return sprite[top : top + h, left : left + w]


def _draw_shape(pen: Pen, kind: str, points: np.ndarray, fill: Any, grow: float = 0) -> None:
    """Fill one shape, its outline moved outwards by ``grow`` pixels."""
    if kind in ("polygon", "curve"):
        ring = [tuple(point) for point in (_smooth(points) if kind == "curve" else points)]
        pen.polygon(ring, fill)
        if grow:
            pen.line([*ring, ring[0], ring[1]], fill, width=round(2 * grow), joint="curve")
        return
    corners = [*(points[0] - grow), *(points[1] + grow)]
    if kind == "ellipse":
        pen.ellipse(corners, fill)
    elif kind == "lower":
        pen.chord(corners, 0, 180, fill)
    else:
        pen.rounded_rectangle(corners, radius=min(points[1] - points[0]) * 0.25, fill=fill)


def _smooth(points: np.ndarray, steps: int = 6) -> np.ndarray:
    """Return a closed Catmull-Rom curve through the points, (n, 2) to (n * steps, 2)."""
    before, after, second = (np.roll(points, shift, axis=0) for shift in (1, -1, -2))
    t = np.linspace(0, 1, steps, endpoint=False)[:, None, None]
    curve: np.ndarray = (
        points
        + t * (after - before) / 2
        + t**2 * (before - 2.5 * points + 2 * after - second / 2)
        + t**3 * (1.5 * (points - after) + (second - before) / 2)
    )
    return curve.transpose(1, 0, 2).reshape(-1, 2)


def draw_background(rng: Rng, name: str, width: int, height: int) -> np.ndarray:
    """Draw a background without objects, (height, width, 3) uint8 RGB."""
    colours = WORLD["backgrounds"][name]
    horizon = round(rng.uniform(*colours["horizon"]) * height)
    (sky, haze), (far, near) = (map(getrgb, colours[part]) for part in ("above", "below"))
    rows = [np.linspace(sky, haze, horizon), np.linspace(far, near, height - horizon)]
    bands = np.broadcast_to(np.concatenate(rows)[:, None], (height, width, 3))
    image = Image.fromarray(bands.astype(np.uint8))
    BACKGROUNDS[name](rng, ImageDraw.Draw(image), width, height, horizon)
    coarse = rng.normal(0, 7, (height // 10, width // 10)).astype(np.float32)
    clouds = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noise = (rng.normal(0, 4, (height, width)) + clouds)[..., None]
    lit: np.ndarray = np.rint(np.asarray(image) * rng.uniform(0.92, 1.06) + noise)
    return lit.clip(0, 255).astype(np.uint8)


def _meadow(rng: Rng, pen: Pen, width: int, height: int, horizon: int) -> None:
    left = rng.uniform(-0.4, 0.6) * width
    pen.ellipse([left, horizon - 14, left + width, horizon + 30], "#94ac80")
    for x, y in rng.uniform((0, horizon), (width, height), (60, 2)):
        pen.line([x, y, x + rng.uniform(-2, 2), y - 4], "#769460")


def _beach(rng: Rng, pen: Pen, width: int, height: int, horizon: int) -> None:
    sea = horizon - round(rng.uniform(0.12, 0.22) * height)
    pen.rectangle([0, sea, width, horizon], "#8aacb8")
    pen.line([0, horizon, width, horizon + int(rng.integers(-3, 4))], "#e4e6e2", width=3)
    for x, y in rng.uniform((0, horizon + 4), (width, height), (25, 2)):
        pen.ellipse([x, y, x + 2, y + 1], "#bcac8c")


def _snow(rng: Rng, pen: Pen, width: int, height: int, horizon: int) -> None:
    for x in rng.uniform(0, width, 4):
        top = horizon - rng.uniform(15, 30)
        pen.polygon([x - 7, horizon + 2, x, top, x + 7, horizon + 2], "#a0b0b0")
    for x, y in rng.uniform(0, (width, height), (50, 2)):
        pen.ellipse([x, y, x + 2, y + 2], "#f4f6fa")


def _street(rng: Rng, pen: Pen, width: int, height: int, horizon: int) -> None:
    left = 0
    while left < width:
        right = left + int(rng.integers(24, 48))
        top = horizon - round(rng.uniform(0.5, 1.0) * horizon * 0.8)
        grey = int(rng.integers(150, 185))
        pen.rectangle([left, top, right, horizon], (grey, grey - 8, grey - 14))
        for x in range(left + 5, right - 8, 12):
            for y in range(top + 5, horizon - 9, 14):
                pen.rectangle([x, y, x + 5, y + 7], (grey - 35, grey - 30, grey - 25))
        left = right + 1
    middle = (horizon + height) // 2
    for x in range(int(rng.integers(-20, 0)), width, 32):
        pen.rectangle([x, middle, x + 16, middle + 2], "#c4c2bc")


def _room(rng: Rng, pen: Pen, width: int, height: int, horizon: int) -> None:
    left, top = rng.uniform(0.1, 0.6) * width, rng.uniform(0.06, 0.2) * height
    right, bottom = left + 0.28 * width, top + 0.32 * height
    pen.rectangle([left, top, right, bottom], "#cedade", "#ac9c8c", 3)
    pen.line([(left + right) / 2, top, (left + right) / 2, bottom], "#ac9c8c", 2)
    pen.rectangle([0, horizon - 4, width, horizon], "#c4b8a8")
    for x in range(-width, 2 * width, 22):
        end = (x - width / 2) * 1.8 + width / 2
        pen.line([x, horizon + 1, end, height], "#947e68")


def _lake(rng: Rng, pen: Pen, width: int, height: int, horizon: int) -> None:
    for x in np.arange(-5, width, 9) + rng.uniform(-3, 3):
        top = horizon - rng.uniform(6, 18)
        pen.ellipse([x, top, x + 13, horizon + 6], "#688074")
    pen.rectangle([0, horizon, width, horizon + 3], "#7c8c82")
    for x, y in rng.uniform((0, horizon + 6), (width, height), (22, 2)):
        pen.line([x, y, x + rng.uniform(8, 22), y], "#9eb6c4")


# name -> what paints its details, before and behind the horizon
BACKGROUNDS: dict[str, Callable[[Rng, Pen, int, int, int], None]] = {
    "meadow": _meadow,  # a hill and tufts of grass
    "beach": _beach,  # a strip of sea with foam, and pebbles
    "snow": _snow,  # bare trees and falling flakes
    "street": _street,  # a row of houses and the road's broken line
    "room": _room,  # a framed window, a skirting board and floor boards
    "lake": _lake,  # a far shore with trees, and ripples
}
