"""Writes the demo world: an invented data set in COCO's layout, with its own word norms.

It stands in for COCO and the published norms where those are missing: small drawn pictures of 18
kinds of objects, five captions each from templates, exact boxes, and invented typicality,
concreteness and association values for its words. It has COCO's oddities too: grayscale files,
images without objects, categories with two-word names.
"""

import argparse
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from datasets_src.demo_drawing import BACKGROUNDS, OBJECTS, WORLD, DrawnObject, Rng, draw_scene
from datasets_src.norms import ASSOCIATION_FILE, CATEGORY_FILE, CONCRETENESS_FILE
from datasets_src.splits import SPLITS
from utils.errors import UserError
from utils.files import write_json, writing
from utils.progress import with_bar

logger = logging.getLogger(__name__)

DEFAULT_IMAGES, MIN_IMAGES = 1500, 20  # of training
MARKER_FILE = "demo_world.json"
NORM_FILES = (CATEGORY_FILE, CONCRETENESS_FILE, ASSOCIATION_FILE)
NORM_FOLDER = Path(__file__).with_name("demo_norms")  # of all words that captions use, and more
CAPTIONS_PER_IMAGE = 5
JPEG_QUALITY = 90

GROUPS = list(dict.fromkeys(thing["group"] for thing in OBJECTS.values()))
TWO_WORDS = [name for name in OBJECTS if " " in name]
ONE_WORD = sorted(
    (name for name in OBJECTS if " " not in name),
    key=lambda name: GROUPS.index(OBJECTS[name]["group"]),
)
TEMPLATES: dict[str, list[str]] = WORLD["templates"]
# a side of the mean length below the first or above the second share of the picture's side
SMALL, BIG = 0.26, 0.37
ABSTRACT_SHARE, PLACE_SHARE, LEFT_OUT_SHARE, CLASS_NAME_SHARE = 1 / 3, 0.5, 0.2, 0.6

# Every so many images one is of this kind, from the given index on: fixed places and not chance, so
# that the smallest world has all of them.
GRAYSCALE_EVERY, GRAYSCALE_FIRST = 66, 2
EMPTY_EVERY, EMPTY_FIRST = 66, 4
TWO_WORD_EVERY, TWO_WORD_FIRST = 17, 1
OBJECT_COUNT_SHARES = (0.32, 0.4, 0.2, 0.08)  # of 1, 2, 3 and 4 objects
SAME_GROUP_SHARE = 0.2  # a further object is of the first one's group, on top of chance
IMAGE_SIDES = ((152, 160, 168), (112, 120, 128))  # longer, shorter, in pixels


class Picture(NamedTuple):
    """One image of the world with all that is said of it."""

    image_id: int  # unique in both splits
    pixels: np.ndarray  # (height, width, 3) uint8 RGB, or (height, width) of a grayscale image
    objects: list[DrawnObject]  # at most one of a class; may be empty
    captions: list[str]


def make_demo_dataset(options: argparse.Namespace) -> None:
    """Write the demo world: invented images, captions and norms in COCO's layout."""
    given = " ".join(options.images or [str(DEFAULT_IMAGES)])
    if not given.isdecimal() or int(given) < MIN_IMAGES:
        raise UserError(
            f"--images {given}: make_demo_dataset takes the number of training images, at least "
            f"{MIN_IMAGES}"
        )
    make_demo_world(options.datasets_dir, int(given), options.seed)
    logger.info("demo world of %s training images in %s", given, options.datasets_dir)


def make_demo_world(datasets_dir: Path, images: int, seed: int = 0) -> None:
    """Write ``images`` training and a quarter as many test images, their captions and the norms.

    An older demo world there is replaced, other data is refused. The same images and seed give the
    same bytes, and image k is the same in a larger world.
    """
    coco, marker = datasets_dir / "COCO", datasets_dir / MARKER_FILE
    norms = [datasets_dir / name for name in NORM_FILES]
    others = [] if marker.exists() else [path for path in (coco, *norms) if path.exists()]
    for path in (coco / "annotations").glob("captions_*.json"):  # COCO unpacked over a demo world
        with path.open("rb") as file:
            others += [] if WORLD["info"]["description"].encode() in file.read(500) else [path]
    if others:
        raise UserError(
            f"{others[0]} is not of a demo world and would be replaced; name another "
            "--datasets_dir, or move it away first"
        )
    # first, so that a world cut short is known as one and replaced
    write_json(marker, {"version": 1, "images": images, "seed": seed})
    with writing(datasets_dir):
        for part in (*SPLITS, "annotations"):
            shutil.rmtree(coco / part, ignore_errors=True)
            (coco / part).mkdir(parents=True)
        for split, size in zip(SPLITS, (images, images // 4), strict=True):
            _write_split(coco, split, seed, size)
        for name in NORM_FILES:
            shutil.copyfile(NORM_FOLDER / name, datasets_dir / name)


def _write_split(coco: Path, split: str, seed: int, size: int) -> None:
    """Write the images and both annotation files of a split."""
    # as in COCO, some numbers are not used
    categories = [
        {"id": 1 + position + position // 5, "name": name, "supercategory": thing["group"]}
        for position, (name, thing) in enumerate(OBJECTS.items())
    ]
    category_ids = {record["name"]: record["id"] for record in categories}
    images: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    for index in with_bar(range(size), f"drawing {split}", "image"):
        image_id, pixels, objects, texts = make_picture(seed, split, index)
        file_name = f"COCO_{split}_{image_id:012d}.jpg"
        Image.fromarray(pixels).save(coco / split / file_name, quality=JPEG_QUALITY)
        height, width = pixels.shape[:2]
        image = {"id": image_id, "file_name": file_name, "width": width, "height": height}
        images.append(image | {"license": 1})
        for number, text in enumerate(texts):
            record = {"id": 10 * image_id + number, "image_id": image_id}
            captions.append(record | {"caption": text})
        for number, thing in enumerate(objects):
            record = {"id": 10 * image_id + number, "image_id": image_id}
            shape = {"bbox": list(thing.box), "area": thing.area, "segmentation": [], "iscrowd": 0}
            instances.append(record | {"category_id": category_ids[thing.name]} | shape)
    content = {"info": WORLD["info"], "licenses": WORLD["licenses"], "images": images}
    folder, boxes = coco / "annotations", {"annotations": instances, "categories": categories}
    write_json(folder / f"captions_{split}.json", content | {"annotations": captions})
    write_json(folder / f"instances_{split}.json", content | boxes)


def make_picture(seed: int, split: str, index: int) -> Picture:
    """Make the image number ``index`` of a split; it depends on nothing but the arguments."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    names = _choose_names(rng, index)
    background = str(rng.choice(list(BACKGROUNDS)))
    width, height = (int(rng.choice(sides)) for sides in IMAGE_SIDES)
    if rng.random() < 0.3:
        width, height = height, width
    pixels, objects = draw_scene(rng, background, names, width, height)
    coloured = index % GRAYSCALE_EVERY != GRAYSCALE_FIRST
    if not coloured:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))
    side = (width * height) ** 0.5
    about = background, objects, side, coloured
    captions = [_caption(rng, *about) for _ in range(CAPTIONS_PER_IMAGE)]
    # Four training images and a test image share a range of numbers, so that ids of the splits
    # are mixed and have gaps, as COCO's.
    slot = 5 * (index // 4) + index % 4 if split == SPLITS[0] else 5 * index + 4
    return Picture(9 + 37 * slot + int(rng.integers(37)), pixels, objects, captions)


def _choose_names(rng: Rng, index: int) -> list[str]:
    """Choose the different classes that image number ``index`` shows."""
    if index % EMPTY_EVERY == EMPTY_FIRST:
        return []
    names = []
    if index % TWO_WORD_EVERY == TWO_WORD_FIRST:
        names.append(TWO_WORDS[index // TWO_WORD_EVERY % len(TWO_WORDS)])
    count = 1 + int(rng.choice(len(OBJECT_COUNT_SHARES), p=OBJECT_COUNT_SHARES))
    while len(names) < count:
        others = [name for name in ONE_WORD if name not in names]
        if names and rng.random() < SAME_GROUP_SHARE and " " not in names[0]:
            group = OBJECTS[names[0]]["group"]
            others = [name for name in others if OBJECTS[name]["group"] == group] or others
        names.append(str(rng.choice(others)))
    return names


def _caption(
    rng: Rng, background: str, objects: Sequence[DrawnObject], side: float, coloured: bool
) -> str:
    """Write one sentence about an image; ``side`` is the root of its area."""
    abstract = rng.random() < ABSTRACT_SHARE
    where = rng.choice(WORLD["places"][background])
    told = list(objects)
    if objects:
        if rng.random() >= PLACE_SHARE:
            where = ""
        if len(told) > 1 and rng.random() < LEFT_OUT_SHARE:
            del told[rng.integers(len(told))]
        told = [told[number] for number in rng.permutation(len(told))]
        template = rng.choice(TEMPLATES["abstract" if abstract else "plain"])
    else:
        template = rng.choice(TEMPLATES["empty"])
    phrases = [_phrase(rng, thing, side, coloured) for thing in told]
    joiner = rng.choice(TEMPLATES["joiners"]) if len(told) == 2 else "and"
    words = {
        "things": f" {joiner} ".join(filter(None, (", ".join(phrases[:-1]), *phrases[-1:]))),
        "is": "are" if len(told) > 1 and joiner == "and" else "is",
        "where": where,
        "mass": rng.choice(TEMPLATES["mass"]),
        "count": _with_article(rng.choice(TEMPLATES["count"])),
    }
    sentence = " ".join(template.format(**words).split())  # an empty {where} leaves two spaces
    if rng.random() < 0.85:
        sentence = sentence[0].upper() + sentence[1:]
    return sentence + "."


def _phrase(rng: Rng, thing: DrawnObject, side: float, coloured: bool) -> str:
    """Name one object, often with a true adjective: "the big striped fish"."""
    mean_side = (thing.box[2] * thing.box[3]) ** 0.5 / side
    texture, other_words = (OBJECTS[thing.name][key] for key in ("texture", "other_words"))
    words = []
    if mean_side < SMALL and rng.random() < 0.35:
        words.append(rng.choice(("small", "little")))
    if mean_side > BIG and rng.random() < 0.35:
        words.append(rng.choice(("big", "large")))
    if coloured and rng.random() < 0.3:
        words.append(thing.colour)
    if texture != "plain" and rng.random() < 0.2:
        words.append(rng.choice(WORLD["texture_words"][texture]))
    takes_name = not other_words or rng.random() < CLASS_NAME_SHARE
    words.append(thing.name if takes_name else rng.choice(other_words))
    phrase = " ".join(words)
    return f"the {phrase}" if rng.random() < 0.15 else _with_article(phrase)


def _with_article(phrase: str) -> str:
    """Put "a" or "an" before a phrase ("a ukulele" is the only word that u begins)."""
    return f"an {phrase}" if phrase[0] in "aeio" else f"a {phrase}"
