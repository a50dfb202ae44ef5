"""Draws the pictures of the demo world: 18 kinds of objects in front of six backgrounds.

An object is a short list of shapes in its own coordinates (x to the right, y down, about 0 to 100),
from back to front: kind, fill, points, and a semicolon between two shapes. Kinds: ``ellipse`` and
``box`` (rounded corners) take two corners, ``lower`` is the lower half of such an ellipse,
``polygon`` and ``curve`` (the same with smooth corners) take their points. Fills: ``main`` and
``second`` are the palette's colours, ``texture`` is the main colour with a pattern of the second,
other names stand in ``FIXED_COLOURS``. Colours are RGB, written "#rrggbb".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageColor, ImageDraw

RGB = tuple[int, int, int]  # 0..255 each
Box = tuple[int, int, int, int]  # x, y, width, height in whole pixels


@dataclass(frozen=True)
class Palette:
    """Two colours, and the word for what the object looks like in them."""

    word: str
    main: str
    second: str


@dataclass(frozen=True)
class Drawing:
    """How one category looks.

    Attributes:
        texture: ``plain`` or a key of ``PATTERNS``.
        tilt: The largest rotation to either side, in degrees.
        palettes: Each object takes one of them.
        shapes: See the module's docstring.
    """

    texture: str
    tilt: float
    palettes: tuple[Palette, ...]
    shapes: str


@dataclass(frozen=True)
class DrawnObject:
    """One object in a finished picture.

    Attributes:
        name: Its category, a key of ``DRAWINGS``.
        colour: The colour word of its palette.
        texture: Its texture, ``plain`` or a key of ``PATTERNS``.
        box: Tight around its visible pixels (x + width is the first column without any).
        area: The number of its visible pixels.
    """

    name: str
    colour: str
    texture: str
    box: Box
    area: int


FIXED_COLOURS: dict[str, str] = {
    "black": "#19191e",
    "white": "#fafaf5",
    "glass": "#aad7eb",
    "metal": "#bec3c8",
    "wood": "#c89b5f",
    "leaf": "#238732",
    "red": "#e62323",
    "yellow": "#fad21e",
    "green": "#28c850",
    "blue": "#285af0",
}

DRAWINGS: dict[str, Drawing] = {
    "dog": Drawing(
        "dots",
        12,
        (Palette("white", "#f5eee1", "#463228"), Palette("brown", "#be7d3c", "#5f3719")),
        """
        curve main 82,48 90,24 98,16 100,26 93,54; box main 76,56 88,92; box main 62,58 72,90;
        box main 46,58 56,90; curve texture 30,38 56,36 84,38 93,54 86,72 56,70 36,72 28,54;
        box main 33,56 45,92; polygon main 20,34 40,28 48,42 42,64 28,58;
        ellipse main 8,8 44,44; ellipse main 0,24 24,43; ellipse black -3,24 9,34;
        curve second 30,8 42,10 50,36 43,48 33,32; ellipse black 16,17 23,25
        """,
    ),
    "car": Drawing(
        "plain",
        8,
        (Palette("red", "#e1191e", "#780a0f"), Palette("blue", "#194be1", "#0a1e6e")),
        """
        polygon main 24,46 38,22 70,22 86,46; polygon glass 32,44 42,28 53,28 53,44;
        polygon glass 57,44 57,28 67,28 76,44; box main 2,42 99,68; box second 2,60 99,68;
        ellipse yellow 3,46 12,55; ellipse black 14,54 38,78; ellipse metal 21,61 31,71;
        ellipse black 63,54 87,78; ellipse metal 70,61 80,71
        """,
    ),
    "banana": Drawing(
        "plain",
        40,
        (Palette("yellow", "#ffe123", "#e1b414"), Palette("green", "#afd732", "#7daa23")),
        """
        curve main 10,26 10,50 28,74 56,82 84,72 98,50 92,46 76,56 52,58 32,46 20,24;
        curve second 12,46 28,70 56,79 84,69 97,52 82,63 56,70 32,60;
        polygon black 9,27 11,14 18,14 21,26; ellipse black 90,43 99,52
        """,
    ),
    "fire truck": Drawing(
        "plain",
        6,
        (Palette("red", "#e61414", "#fafaf5"), Palette("red", "#c81e19", "#fae15a")),
        """
        box main 28,34 99,70; box main 2,26 32,70; box glass 6,32 22,47; box second 2,53 99,59;
        box metal 24,16 99,20; box metal 24,27 99,31; polygon metal 32,18 35,18 35,29 32,29;
        polygon metal 46,18 49,18 49,29 46,29; polygon metal 60,18 63,18 63,29 60,29;
        polygon metal 74,18 77,18 77,29 74,29; polygon metal 88,18 91,18 91,29 88,29;
        box blue 9,18 20,26; ellipse black 10,58 30,78; ellipse metal 16,64 24,72;
        ellipse black 52,58 72,78; ellipse metal 58,64 66,72; ellipse black 76,58 96,78;
        ellipse metal 82,64 90,72
        """,
    ),
    "shirt": Drawing(
        "bands",
        20,
        (Palette("purple", "#7328b4", "#e1befa"), Palette("turquoise", "#14aaaf", "#ebfaf5")),
        """
        polygon texture 30,10 42,17 58,17 70,10 99,36 86,53 76,44 76,94 24,94 24,44 14,53 1,36;
        lower main 38,2 62,26; lower white 42,5 58,21
        """,
    ),
    "guitar": Drawing(
        "plain",
        40,
        (Palette("orange", "#f09128", "#6e3714"), Palette("brown", "#a5551e", "#3c1e0f")),
        """
        box second 44,4 56,56; box second 39,0 61,15; ellipse main 25,38 75,72;
        ellipse main 14,55 86,99; ellipse white 36,54 64,79; ellipse second 40,58 60,75;
        box second 33,84 67,91; polygon white 48.5,8 51.5,8 51.5,87 48.5,87
        """,
    ),
    "fish": Drawing(
        "stripes",
        20,
        (Palette("orange", "#ff730a", "#fffaf0"), Palette("blue", "#1e78f5", "#ffe13c")),
        """
        curve main 68,50 84,32 99,22 93,50 99,78 84,68; curve second 30,32 46,12 66,16 64,34;
        curve second 40,66 50,86 60,84 58,64; ellipse texture 2,26 80,74;
        ellipse white 10,38 23,51; ellipse black 13,41 20,48
        """,
    ),
    "bus": Drawing(
        "plain",
        6,
        (Palette("yellow", "#fcbe0a", "#322d2d"), Palette("green", "#0f9664", "#f5f5e6")),
        """
        box main 1,14 99,76; box second 1,56 99,62; box glass 5,22 17,46; box glass 21,22 35,46;
        box glass 39,22 53,46; box glass 57,22 71,46; box glass 76,22 93,70;
        polygon main 83.5,22 85.5,22 85.5,70 83.5,70; ellipse black 14,64 34,84;
        ellipse metal 20,70 28,78; ellipse black 54,64 74,84; ellipse metal 60,70 68,78
        """,
    ),
    "watermelon": Drawing(
        "plain",
        30,
        (Palette("red", "#f02d41", "#ffebd7"), Palette("pink", "#ff788c", "#f5fadc")),
        """
        lower leaf 1,-18 99,82; lower second 8,-11 92,75; lower main 13,-6 87,70;
        ellipse black 24,36 29,44; ellipse black 37,42 42,50; ellipse black 48,36 53,44;
        ellipse black 59,42 64,50; ellipse black 71,36 76,44; ellipse black 44,54 49,62;
        ellipse black 55,55 60,63
        """,
    ),
    "hat": Drawing(
        "plain",
        18,
        (Palette("black", "#282832", "#ebbe28"), Palette("pink", "#f03ca5", "#5a0a50")),
        """
        ellipse main 1,56 99,82; curve main 26,68 28,34 36,18 50,24 64,18 72,34 74,68 50,74;
        polygon second 27,54 73,54 74,67 50,72 26,67
        """,
    ),
    "teddy bear": Drawing(
        "plain",
        15,
        (Palette("brown", "#af6e32", "#f0d2a0"), Palette("white", "#f0e8d7", "#e1aaa0")),
        """
        ellipse main 22,0 42,20; ellipse main 58,0 78,20; ellipse second 27,5 38,16;
        ellipse second 62,5 73,16; ellipse main 8,48 36,67; ellipse main 64,48 92,67;
        ellipse main 16,76 46,99; ellipse main 54,76 84,99; ellipse main 26,42 74,92;
        ellipse second 36,54 64,84; ellipse main 24,4 76,50; ellipse second 39,27 61,46;
        ellipse black 45,28 55,36; ellipse black 34,18 41,25; ellipse black 59,18 66,25;
        ellipse red 20,84 34,95; ellipse red 66,84 80,95
        """,
    ),
    "drum": Drawing(
        "zigzag",
        15,
        (Palette("blue", "#283cbe", "#ffe15a"), Palette("red", "#cd192d", "#fffaeb")),
        """
        lower main 12,68 88,96; polygon texture 12,34 88,34 88,82 12,82; ellipse wood 9,20 91,50;
        ellipse white 15,24 85,46; polygon wood 16,4 21,1 58,34 54,38;
        polygon wood 84,4 79,1 42,34 46,38; ellipse wood 38,31 49,41; ellipse wood 51,31 62,41
        """,
    ),
    "turtle": Drawing(
        "checks",
        14,
        (Palette("green", "#1e7d37", "#8ccd50"), Palette("brown", "#734b23", "#cdbe5f")),
        """
        curve second 84,60 99,70 84,72; ellipse second 22,58 42,86; ellipse second 62,58 82,86;
        curve second 22,58 14,38 2,38 0,50 10,58 20,70;
        curve texture 14,68 18,46 34,28 52,23 70,28 86,46 90,68; box main 12,63 92,72;
        ellipse black 5,42 11,48
        """,
    ),
    "boat": Drawing(
        "plain",
        10,
        (Palette("blue", "#1e2d96", "#fcfcf8"), Palette("brown", "#82461e", "#faebc3")),
        """
        box wood 46,2 51,70; curve second 44,8 44,62 8,62 26,40; polygon second 54,18 54,62 90,62;
        polygon red 51,2 66,7 51,12; polygon main 2,68 98,68 82,92 18,92;
        polygon second 5,73 95,73 92,78 8,78
        """,
    ),
    "pineapple": Drawing(
        "diamonds",
        30,
        (Palette("yellow", "#f5b91e", "#a55f14"), Palette("orange", "#eb8c23", "#8c4619")),
        """
        polygon leaf 46,40 26,20 34,18 52,38; polygon leaf 48,40 36,4 44,8 54,38;
        polygon leaf 46,40 48,-2 52,-2 56,40; polygon leaf 46,38 56,8 64,4 52,40;
        polygon leaf 48,38 66,18 74,20 54,40;
        curve texture 50,34 68,40 75,62 69,88 50,99 31,88 25,62 32,40
        """,
    ),
    "traffic light": Drawing(
        "plain",
        6,
        (Palette("black", "#2d3034", "#141416"), Palette("green", "#194b32", "#0f1e16")),
        """
        box metal 46,74 54,99; polygon main 24,8 76,8 66,24 34,24;
        polygon main 24,32 76,32 66,48 34,48; polygon main 24,56 76,56 66,72 34,72;
        box main 34,1 66,78; ellipse red 39,6 61,28; ellipse yellow 39,29 61,51;
        ellipse green 39,52 61,74
        """,
    ),
    "boot": Drawing(
        "plain",
        18,
        (Palette("brown", "#8c501e", "#ebc891"), Palette("purple", "#5f2d78", "#d7b4eb")),
        """
        box main 40,6 74,70; curve main 40,48 74,48 77,86 40,88 5,88 5,74 18,64 32,60;
        box second 37,3 77,17; box black 3,84 64,94; box black 58,84 80,99;
        box second 36,34 52,38; box second 36,44 52,48; box second 34,54 50,58
        """,
    ),
    "piano": Drawing(
        "plain",
        6,
        (Palette("black", "#202026", "#464650"), Palette("brown", "#733219", "#af643c")),
        """
        box main 10,8 90,92; box second 16,72 84,88; box second 16,14 84,46;
        polygon white 34,18 66,18 66,42 34,42; polygon black 37,24 63,24 63,26 37,26;
        polygon black 37,30 63,30 63,32 37,32; polygon black 37,36 63,36 63,38 37,38;
        box main 2,48 98,72; polygon white 5,52 95,52 95,68 5,68;
        polygon black 12,52 18,52 18,61 12,61; polygon black 24,52 30,52 30,61 24,61;
        polygon black 42,52 48,52 48,61 42,61; polygon black 54,52 60,52 60,61 54,61;
        polygon black 66,52 72,52 72,61 66,61; polygon black 82,52 88,52 88,61 82,61;
        box main 2,70 11,98; box main 89,70 98,98
        """,
    ),
}

# Where the second colour of a textured part shows, from the object's own coordinates (0..100).
PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "stripes": lambda x, y: x % 22 < 9,
    "bands": lambda x, y: y % 16 < 7,
    "checks": lambda x, y: (x % 24 < 12) ^ (y % 24 < 12),
    "diamonds": lambda x, y: ((x + y) % 15 < 4) | ((x - y) % 15 < 4),
    "zigzag": lambda x, y: (y + abs(x % 24 - 12)) % 24 < 11,
    "dots": lambda x, y: (x % 17 - 8) ** 2 + ((y + 9 * (x // 17 % 2)) % 17 - 8) ** 2 < 30,
}

# The longer side of an object as a share of the square root of the picture's area.
LENGTHS = (0.29, 0.52)
# No two boxes share more than this part of the smaller one.
LARGEST_OVERLAP = 0.1
# Objects are drawn this many times larger and scaled down, for smooth edges.
OVERSAMPLING = 3
# Shapes may reach this far beyond 0..100 on every side.
MARGIN = 8
# Fainter edge pixels (of 255) are left out, so that a box has no invisible rim.
FAINTEST_EDGE = 64


def draw_scene(
    rng: np.random.Generator, background: str, names: Sequence[str], width: int, height: int
) -> tuple[np.ndarray, list[DrawnObject]]:
    """Draw a background and objects in front of it.

    The objects lie wholly inside the picture and hardly overlap. The background depends only on
    the generator's state on entry, not on the objects.

    Args:
        rng: Chooses palettes, sizes, rotations and places; it is moved on.
        background: A key of ``BACKGROUNDS``.
        names: Keys of ``DRAWINGS``, at most some four of them; may be empty.
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.

    Returns:
        The picture, (height, width, 3) uint8 RGB, and the objects in the order of ``names``. An
        object for which no room was found is left out.
    """
    picture = draw_background(rng, background, width, height).astype(np.float32)
    owner = np.full((height, width), -1)  # which object shows in each pixel
    boxes: list[Box] = []
    drawn: list[tuple[str, Palette]] = []
    for name in names:
        drawing = DRAWINGS[name]
        palette = drawing.palettes[rng.integers(len(drawing.palettes))]
        length = rng.uniform(*LENGTHS) * (width * height) ** 0.5 * 0.95 ** len(names)
        sprite, box = _fit(rng, drawing, palette, length, boxes, width, height)
        if sprite is None:
            continue
        x, y, w, h = box
        alpha = sprite[..., 3:] / np.float32(255)
        region = picture[y : y + h, x : x + w]
        region += (sprite[..., :3] - region) * alpha
        owner[y : y + h, x : x + w][sprite[..., 3] > 0] = len(boxes)
        boxes.append(box)
        drawn.append((name, palette))
    objects = [
        DrawnObject(name, palette.word, DRAWINGS[name].texture, *_visible(owner == number))
        for number, (name, palette) in enumerate(drawn)
    ]
    return np.rint(picture).clip(0, 255).astype(np.uint8), objects


def _fit(
    rng: np.random.Generator,
    drawing: Drawing,
    palette: Palette,
    length: float,
    boxes: Sequence[Box],
    width: int,
    height: int,
) -> tuple[np.ndarray | None, Box]:
    """Draw an object and find a free place for it; None where there is none at two sizes."""
    for share in (1.0, 0.75):
        sprite = _draw_object(rng, drawing, palette, length * share)
        h, w = sprite.shape[:2]
        for _ in range(40):
            box = (int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h)
            if all(_overlap(box, other) <= LARGEST_OVERLAP for other in boxes):
                return sprite, box
    return None, (0, 0, 0, 0)


def _overlap(a: Box, b: Box) -> float:
    """Return the share of the smaller box that lies inside the other."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(w, 0) * max(h, 0) / min(a[2] * a[3], b[2] * b[3])


def _visible(mask: np.ndarray) -> tuple[Box, int]:
    """Return the tight box (x, y, width, height) of a mask that is not empty, and its area."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return (x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y), int(mask.sum())


def _draw_object(
    rng: np.random.Generator, drawing: Drawing, palette: Palette, length: float
) -> np.ndarray:
    """Draw one object, (h, w, 4) uint8 RGBA, cut to its pixels, its longer side ``length``."""
    scale = OVERSAMPLING * length / 100
    stretch = rng.uniform(0.9, 1.1)
    size = (round((100 + 2 * MARGIN) * scale * stretch), round((100 + 2 * MARGIN) * scale))
    brightness = rng.uniform(0.9, 1.1)
    colours = {name: _rgb(code) for name, code in FIXED_COLOURS.items()} | {
        "main": _vary(rng, palette.main, brightness),
        "second": _vary(rng, palette.second, brightness),
    }
    red, green, blue = colours["main"]
    edge = (red // 3, green // 3, blue // 3)
    shapes = [_parse(shape) for shape in drawing.shapes.split(";")]
    zoom = np.array([scale * stretch, scale])

    image = Image.new("RGBA", size)
    pen = ImageDraw.Draw(image)
    for kind, _, points in shapes:  # all silhouettes a little larger make one dark outline
        _draw_shape(pen, kind, (points + MARGIN) * zoom, edge, grow=0.4 * OVERSAMPLING)
    for kind, fill, points in shapes:
        if fill == "texture":
            mask = Image.new("L", size)
            _draw_shape(ImageDraw.Draw(mask), kind, (points + MARGIN) * zoom, 255)
            image.paste(_texture(drawing.texture, size, zoom, colours), mask=mask)
        else:
            _draw_shape(pen, kind, (points + MARGIN) * zoom, colours[fill])
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle = rng.uniform(-drawing.tilt, drawing.tilt)
    image = image.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    return _scale_down(image, length)


def _scale_down(image: Image.Image, length: float) -> np.ndarray:
    """Cut an object's image to its pixels and scale its longer side to ``length`` pixels."""
    image = image.crop(image.getbbox())
    ratio = length / max(image.size)
    size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
    sprite = np.array(image.resize(size, Image.Resampling.BOX))
    sprite[..., 3] *= sprite[..., 3] >= FAINTEST_EDGE
    (x, y, w, h), _ = _visible(sprite[..., 3] > 0)
    return sprite[y : y + h, x : x + w]


def _vary(rng: np.random.Generator, colour: str, brightness: float) -> RGB:
    """Return a colour a little brighter or darker, each channel moved a little by itself."""
    moved = np.array(ImageColor.getrgb(colour)) * brightness + rng.normal(0, 4, 3)
    red, green, blue = np.rint(moved).clip(0, 255).astype(int).tolist()
    return red, green, blue


def _parse(shape: str) -> tuple[str, str, np.ndarray]:
    """Read one shape: its kind, its fill and its points, (n, 2)."""
    kind, fill, *points = shape.split()
    return kind, fill, np.array([point.split(",") for point in points], dtype=float)


def _draw_shape(
    pen: ImageDraw.ImageDraw, kind: str, points: np.ndarray, fill: RGB | int, grow: float = 0
) -> None:
    """Fill one shape, its outline moved outwards by ``grow`` pixels."""
    if kind in ("ellipse", "box", "lower"):
        corners = [*(points[0] - grow), *(points[1] + grow)]
        if kind == "ellipse":
            pen.ellipse(corners, fill)
        elif kind == "lower":
            pen.chord(corners, 0, 180, fill)
        else:
            pen.rounded_rectangle(corners, radius=min(points[1] - points[0]) * 0.25, fill=fill)
        return
    outline = _smooth(points) if kind == "curve" else points
    ring = [tuple(point) for point in outline]
    pen.polygon(ring, fill)
    if grow:
        pen.line([*ring, ring[0], ring[1]], fill, width=round(2 * grow), joint="curve")


def _rgb(code: str) -> RGB:
    """Return the colour that a name or a code such as #aabbcc stands for."""
    red, green, blue = ImageColor.getrgb(code)[:3]
    return red, green, blue


def _smooth(points: np.ndarray, steps: int = 6) -> np.ndarray:
    """Return a closed Catmull-Rom curve through the points, (n, 2) to (n * steps, 2)."""
    before, after, second = (np.roll(points, shift, axis=0) for shift in (1, -1, -2))
    t = np.linspace(0, 1, steps, endpoint=False)[:, None, None]
    curve = (
        points
        + t * (after - before) / 2
        + t**2 * (before - 2.5 * points + 2 * after - second / 2)
        + t**3 * (1.5 * (points - after) + (second - before) / 2)
    )
    closed: np.ndarray = curve.transpose(1, 0, 2).reshape(-1, 2)
    return closed


def _texture(
    name: str, size: tuple[int, int], zoom: np.ndarray, colours: dict[str, RGB]
) -> Image.Image:
    """Return an RGBA image of the main colour with a pattern of the second one."""
    x = np.arange(size[0])[None, :] / zoom[0] - MARGIN
    y = np.arange(size[1])[:, None] / zoom[1] - MARGIN
    pattern = PATTERNS[name](x, y)[..., None]
    pattern = np.broadcast_to(pattern, (size[1], size[0], 1))
    pixels = np.where(pattern, (*colours["second"], 255), (*colours["main"], 255))
    return Image.fromarray(pixels.astype(np.uint8))


@dataclass(frozen=True)
class Background:
    """A sky (or wall) above a ground: colours from top to bottom, and what is painted on them."""

    sky: tuple[str, str]
    ground: tuple[str, str]
    horizon: tuple[float, float]
    details: Callable[[np.random.Generator, ImageDraw.ImageDraw, int, int, int], None]


def draw_background(rng: np.random.Generator, name: str, width: int, height: int) -> np.ndarray:
    """Draw one background without objects.

    Args:
        rng: Chooses the horizon, the light and the details; it is moved on.
        name: A key of ``BACKGROUNDS``.
        width: In pixels.
        height: In pixels.

    Returns:
        The picture, (height, width, 3) uint8 RGB.
    """
    background = BACKGROUNDS[name]
    sky, ground = background.sky, background.ground
    horizon = round(rng.uniform(*background.horizon) * height)
    picture = np.concatenate(
        [
            np.linspace(_rgb(sky[0]), _rgb(sky[1]), horizon),
            np.linspace(_rgb(ground[0]), _rgb(ground[1]), height - horizon),
        ]
    )[:, None, :]
    picture = np.broadcast_to(picture, (height, width, 3)).astype(np.uint8)
    image = Image.fromarray(picture)
    background.details(rng, ImageDraw.Draw(image), width, height, horizon)
    coarse = rng.normal(0, 7, (height // 10, width // 10)).astype(np.float32)
    clouds = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noise = (rng.normal(0, 4, (height, width)) + clouds)[..., None]
    light = rng.uniform(0.92, 1.06)
    lit: np.ndarray = np.rint(np.asarray(image) * light + noise)
    return lit.clip(0, 255).astype(np.uint8)


def _meadow(
    rng: np.random.Generator, pen: ImageDraw.ImageDraw, width: int, height: int, horizon: int
) -> None:
    """Paint a hill and tufts of grass."""
    left = rng.uniform(-0.4, 0.6) * width
    pen.ellipse([left, horizon - 14, left + width, horizon + 30], "#94ac80")
    for x, y in rng.uniform((0, horizon), (width, height), (60, 2)):
        pen.line([x, y, x + rng.uniform(-2, 2), y - 4], "#769460")


def _beach(
    rng: np.random.Generator, pen: ImageDraw.ImageDraw, width: int, height: int, horizon: int
) -> None:
    """Paint a strip of sea with foam, and pebbles."""
    sea = horizon - round(rng.uniform(0.12, 0.22) * height)
    pen.rectangle([0, sea, width, horizon], "#8aacb8")
    pen.line([0, horizon, width, horizon + int(rng.integers(-3, 4))], "#e4e6e2", width=3)
    for x, y in rng.uniform((0, horizon + 4), (width, height), (25, 2)):
        pen.ellipse([x, y, x + 2, y + 1], "#bcac8c")


def _snow(
    rng: np.random.Generator, pen: ImageDraw.ImageDraw, width: int, height: int, horizon: int
) -> None:
    """Paint bare trees and falling flakes."""
    for x in rng.uniform(0, width, 4):
        top = horizon - rng.uniform(15, 30)
        pen.polygon([x - 7, horizon + 2, x, top, x + 7, horizon + 2], "#a0b0b0")
    for x, y in rng.uniform(0, (width, height), (50, 2)):
        pen.ellipse([x, y, x + 2, y + 2], "#f4f6fa")


def _street(
    rng: np.random.Generator, pen: ImageDraw.ImageDraw, width: int, height: int, horizon: int
) -> None:
    """Paint a row of houses and the road's broken line."""
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


def _room(
    rng: np.random.Generator, pen: ImageDraw.ImageDraw, width: int, height: int, horizon: int
) -> None:
    """Paint a framed window, a skirting board and floor boards."""
    left, top = rng.uniform(0.1, 0.6) * width, rng.uniform(0.06, 0.2) * height
    right, bottom = left + 0.28 * width, top + 0.32 * height
    pen.rectangle([left, top, right, bottom], "#cedade", "#ac9c8c", 3)
    pen.line([(left + right) / 2, top, (left + right) / 2, bottom], "#ac9c8c", 2)
    pen.rectangle([0, horizon - 4, width, horizon], "#c4b8a8")
    for x in range(-width, 2 * width, 22):
        end = (x - width / 2) * 1.8 + width / 2
        pen.line([x, horizon + 1, end, height], "#947e68")


def _lake(
    rng: np.random.Generator, pen: ImageDraw.ImageDraw, width: int, height: int, horizon: int
) -> None:
    """Paint a far shore with trees, and ripples."""
    for x in np.arange(-5, width, 9) + rng.uniform(-3, 3):
        top = horizon - rng.uniform(6, 18)
        pen.ellipse([x, top, x + 13, horizon + 6], "#688074")
    pen.rectangle([0, horizon, width, horizon + 3], "#7c8c82")
    for x, y in rng.uniform((0, horizon + 6), (width, height), (22, 2)):
        pen.line([x, y, x + rng.uniform(8, 22), y], "#9eb6c4")


# Pale colours, so that the objects stand out.
BACKGROUNDS: dict[str, Background] = {
    "meadow": Background(("#b0cade", "#d6e0de"), ("#96b07a", "#7e9c64"), (0.3, 0.5), _meadow),
    "beach": Background(("#bad0e2", "#dee2de"), ("#daccac", "#cebc98"), (0.4, 0.6), _beach),
    "snow": Background(("#bec6d0", "#d6dae0"), ("#e8ecf0", "#dce2ea"), (0.25, 0.5), _snow),
    "street": Background(("#c6ccd2", "#d6d6d2"), ("#808082", "#6e6e72"), (0.4, 0.6), _street),
    "room": Background(("#e2d6c6", "#d8caba"), ("#b0967c", "#9e846c"), (0.55, 0.72), _room),
    "lake": Background(("#beccda", "#dcdeda"), ("#86a4b6", "#7090a6"), (0.25, 0.45), _lake),
}
