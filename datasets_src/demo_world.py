"""Writes the demo world: an invented data set in COCO's layout, with its own word norms.

It stands in for COCO and the published norms where those are missing: small drawn pictures of 18
kinds of objects, five captions each from templates, exact boxes, and invented typicality,
concreteness and association values for its words. It has COCO's oddities too: grayscale files,
images without objects, categories with two-word names.
"""

import argparse
import itertools
import logging
import shutil
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from PIL import Image

from datasets_src.demo_drawing import BACKGROUNDS, OBJECTS, WORLD, DrawnObject, Rng, draw_scene
from datasets_src.norms import ASSOCIATION_FILE, CATEGORY_FILE, CONCRETENESS_FILE
from datasets_src.splits import SPLITS
from utils.errors import UserError
from utils.files import write_json, write_text
from utils.progress import with_bar

logger = logging.getLogger(__name__)

DEFAULT_IMAGES, MIN_IMAGES = 1500, 20  # of training
MARKER_FILE = "demo_world.json"
CAPTIONS_PER_IMAGE = 5
DESCRIPTION = "Demo world: invented pictures and captions in the layout of COCO 2014"
INFO = {
    "description": DESCRIPTION,
    "url": "",
    "version": "1",
    "year": 2014,
    "contributor": "",
    "date_created": "2014/01/01",
}
LICENSES = [{"id": 1, "name": "Invented; free to use", "url": ""}]

# Group -> class name -> other words for it.
GROUPS: dict[str, dict[str, list[str]]] = {}
for _name, _object in OBJECTS.items():
    if " " not in _name:
        GROUPS.setdefault(_object["group"], {})[_name] = _object["other_words"]
TWO_WORD_CLASSES = [name for name in OBJECTS if " " in name]
CLASS_OF = {
    word: name
    for members in GROUPS.values()
    for name, others in members.items()
    for word in (name, *others)
}
PLACES: dict[str, list[str]] = WORLD["places"]
PLACE_WORDS = sorted({where.split()[-1] for phrases in PLACES.values() for where in phrases})
TEMPLATES: dict[str, list[str]] = WORLD["templates"]
# A side of the mean length below the first or above the second share of the picture's side.
SMALL, BIG = 0.26, 0.37

ABSTRACT_SHARE, PLACE_SHARE, LEFT_OUT_SHARE, CLASS_NAME_SHARE = 1 / 3, 0.5, 0.2, 0.6
RATINGS_HEADER = "Word\tBigram\tConc.M\tConc.SD\tUnknown\tTotal\tPercent_known\tSUBTLEX\tDom_Pos"

# Every so many images one is of this kind, from the given index on: fixed places and not chance, so
# that the smallest world has all of them.
GRAYSCALE_EVERY, GRAYSCALE_FIRST = 66, 2
EMPTY_EVERY, EMPTY_FIRST = 66, 4
TWO_WORD_EVERY, TWO_WORD_FIRST = 17, 1
OBJECT_COUNT_SHARES = (0.32, 0.4, 0.2, 0.08)  # of 1, 2, 3 and 4 objects
SAME_GROUP_SHARE = 0.2  # a further object is of the first one's group, on top of chance
IMAGE_SIDES = ((152, 160, 168), (112, 120, 128))  # longer, shorter, in pixels
JPEG_QUALITY = 90


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
    try:
        counts = make_demo_world(options.datasets_dir, int(given), options.seed)
    except OSError as error:
        raise UserError(
            f"cannot write the demo world in {options.datasets_dir}: {error.strerror or error}; "
            "check the folder's permissions and the free disk space"
        ) from None
    held = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items())
    logger.info("demo world in %s: %s", options.datasets_dir, held)


def make_demo_world(datasets_dir: Path, images: int, seed: int = 0) -> dict[str, int]:
    """Write the demo world; an older demo world there is replaced, other data is refused.

    The same images and seed give the same bytes, and image k is the same in a larger world.

    Args:
        datasets_dir: Created where it is missing.
        images: Number of training images; a quarter as many test images are added.
        seed: Not negative.

    Returns:
        What the world holds.
    """
    coco, marker = datasets_dir / "COCO", datasets_dir / MARKER_FILE
    parts = [coco / name for name in (*SPLITS, "annotations")]
    norms = [datasets_dir / name for name in (CATEGORY_FILE, CONCRETENESS_FILE, ASSOCIATION_FILE)]
    others = [] if marker.exists() else [path for path in (coco, *norms) if path.exists()]
    for path in (coco / "annotations").glob("captions_*.json"):  # COCO unpacked over a demo world
        with path.open("rb") as file:
            others += [] if DESCRIPTION.encode() in file.read(500) else [path]
    if others:
        raise UserError(
            f"{others[0]} is not of a demo world and would be replaced; name another "
            "--datasets_dir, or move it away first"
        )
    # first, so that a world cut short is known as one and replaced
    write_json(marker, {"version": 1, "images": images, "seed": seed})
    counts: Counter[str] = Counter()
    for part in parts:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    for split, kind, size in zip(SPLITS, ("train", "test"), (images, images // 4), strict=True):
        counts += _write_split(coco, split, kind, seed, size)
    return dict(counts) | {"categories": len(OBJECTS)} | _write_norms(*norms)


def _write_split(coco: Path, split: str, kind: str, seed: int, size: int) -> Counter[str]:
    """Write the images and both annotation files of a split and count what they hold."""
    # as in COCO, some numbers are not used
    categories = [
        {"id": 1 + position + position // 5, "name": name, "supercategory": thing["group"]}
        for position, (name, thing) in enumerate(OBJECTS.items())
    ]
    category_ids = {record["name"]: record["id"] for record in categories}
    images: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    for index in with_bar(range(size), f"drawing {split}", "image"):
        picture = make_picture(seed, split, index)
        file_name = f"COCO_{split}_{picture.image_id:012d}.jpg"
        Image.fromarray(picture.pixels).save(coco / split / file_name, quality=JPEG_QUALITY)
        height, width = picture.pixels.shape[:2]
        image = {"id": picture.image_id, "file_name": file_name, "width": width, "height": height}
        images.append(image | {"license": 1})
        for number, caption in enumerate(picture.captions):
            record = {"id": 10 * picture.image_id + number, "image_id": picture.image_id}
            captions.append(record | {"caption": caption})
        for number, thing in enumerate(picture.objects):
            record = {"id": 10 * picture.image_id + number, "image_id": picture.image_id}
            shape = {"bbox": list(thing.box), "area": thing.area, "segmentation": [], "iscrowd": 0}
            instances.append(record | {"category_id": category_ids[thing.name]} | shape)
        counts["grayscale_images"] += picture.pixels.ndim == 2
        counts["images_without_objects"] += not picture.objects
        counts["images_with_two_word_names"] += any(" " in o.name for o in picture.objects)
    content = {"info": INFO, "licenses": LICENSES, "images": images}
    folder = coco / "annotations"
    write_json(folder / f"captions_{split}.json", content | {"annotations": captions})
    labels = {"annotations": instances, "categories": categories}
    write_json(folder / f"instances_{split}.json", content | labels)
    sizes = {f"{kind}_images": size, f"{kind}_captions": len(captions), "objects": len(instances)}
    return counts + Counter(sizes)


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
    captions = [
        _caption(rng, background, objects, side, coloured) for _ in range(CAPTIONS_PER_IMAGE)
    ]
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
        names.append(TWO_WORD_CLASSES[index // TWO_WORD_EVERY % len(TWO_WORD_CLASSES)])
    count = 1 + int(rng.choice(len(OBJECT_COUNT_SHARES), p=OBJECT_COUNT_SHARES))
    while len(names) < count:
        others = [name for members in GROUPS.values() for name in members if name not in names]
        if names and rng.random() < SAME_GROUP_SHARE and " " not in names[0]:
            group = GROUPS[OBJECTS[names[0]]["group"]]
            others = [name for name in others if name in group] or others
        names.append(str(rng.choice(others)))
    return names


def _caption(
    rng: Rng, background: str, objects: Sequence[DrawnObject], side: float, coloured: bool
) -> str:
    """Write one sentence about an image; ``side`` is the root of its area."""
    abstract = rng.random() < ABSTRACT_SHARE
    where = _pick(rng, PLACES[background])
    told = list(objects)
    if objects:
        if rng.random() >= PLACE_SHARE:
            where = ""
        if len(told) > 1 and rng.random() < LEFT_OUT_SHARE:
            del told[rng.integers(len(told))]
        told = [told[number] for number in rng.permutation(len(told))]
        template = _pick(rng, TEMPLATES["abstract" if abstract else "plain"])
    else:
        template = _pick(rng, TEMPLATES["empty"])
    phrases = [_phrase(rng, thing, side, coloured) for thing in told]
    joiner = _pick(rng, TEMPLATES["joiners"]) if len(told) == 2 else "and"
    words = {
        "things": f" {joiner} ".join(filter(None, (", ".join(phrases[:-1]), *phrases[-1:]))),
        "is": "are" if len(told) > 1 and joiner == "and" else "is",
        "where": where,
        "mass": _pick(rng, TEMPLATES["mass"]),
        "count": _with_article(_pick(rng, TEMPLATES["count"])),
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
        words.append(_pick(rng, ("small", "little")))
    if mean_side > BIG and rng.random() < 0.35:
        words.append(_pick(rng, ("big", "large")))
    if coloured and rng.random() < 0.3:
        words.append(thing.colour)
    if texture != "plain" and rng.random() < 0.2:
        words.append(_pick(rng, WORLD["texture_words"][texture]))
    if not other_words or rng.random() < CLASS_NAME_SHARE:
        words.append(thing.name)
    else:
        words.append(_pick(rng, other_words))
    phrase = " ".join(words)
    return f"the {phrase}" if rng.random() < 0.15 else _with_article(phrase)


def _with_article(phrase: str) -> str:
    """Put "a" or "an" before a phrase ("a ukulele" is the only word that u begins)."""
    return f"an {phrase}" if phrase[0] in "aeio" else f"a {phrase}"


def _pick(rng: Rng, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _write_norms(category_file: Path, rating_file: Path, association_file: Path) -> dict[str, int]:
    """Write invented norms in the layout of the published ones and count what they hold."""
    extra: dict[str, dict[str, float]] = WORLD["extra_typicality"]
    categories = {
        group: extra[group]
        | {name: _spread(name, 5.8, 6.7) for name in members}
        | {word: _spread(word, 4.3, 5.7) for others in members.values() for word in others}
        for group, members in GROUPS.items()
    }
    categories["place"] = extra["place"] | {word: _spread(word, 4.5, 6.6) for word in PLACE_WORDS}
    write_text(category_file, yaml.dump(categories, explicit_start=True, sort_keys=False))

    tables = [(low, high, part, words.split()) for low, high, part, words in WORLD["ratings"]]
    tables += [(1.2, 2.2, "Noun", TEMPLATES["count"] + TEMPLATES["mass"])]
    tables += [(4.3, 4.9, "Noun", PLACE_WORDS), (4.6, 5.0, "Noun", [*CLASS_OF])]
    rated = {
        word: (_spread(word, low, high), part)
        for low, high, part, words in tables
        for word in words
    }
    lines = [RATINGS_HEADER]
    for word, (rating, part) in sorted(rated.items()):
        deviation, raters = _spread(word[::-1], 0.2, 1.5), round(_spread(word + "#", 25, 31))
        frequency = round(_spread(word + "+", 10, 9000))
        row = [word.replace("_", " "), int("_" in word), f"{rating:.2f}", f"{deviation:.2f}"]
        lines.append("\t".join(map(str, [*row, 0, raters, "1.00", frequency, part])))
    write_text(rating_file, "".join(f"{line}\r\n" for line in lines))

    # Associations are strong within a class and weak across groups.
    group_of = {
        word: group
        for group, words in categories.items()
        for word in words
        if word not in extra[group] or word not in CLASS_OF
    }
    rows = []
    for a, b in itertools.combinations(sorted(group_of), 2):
        chance = _spread(f"{a} {b} found", 0, 1)
        if CLASS_OF.get(a, a) == CLASS_OF.get(b, b):
            count = round(_spread(f"{a} {b}", 60, 120))
        elif group_of[a] == group_of[b]:
            count = round(_spread(f"{a} {b}", 10, 45)) if chance < 0.85 else 0
        else:
            count = round(_spread(f"{a} {b}", 1, 6)) if chance < 0.15 else 0
        # both orders and several relations, whose counts add up to the pair's
        parts = (count - 3 * (count // 4), count // 4, count // 4, count // 4)
        orders = (f"R1\t{a}\t{b}", f"R1\t{b}\t{a}", f"R2\t{a}\t{b}", f"R3\t{b}\t{a}")
        rows += [f"{order}\t{part}\n" for order, part in zip(orders, parts, strict=True) if part]
    write_text(association_file, "".join(rows))
    return {
        "category_words": len(set().union(*categories.values())),
        "rated_words": len(rated),
        "association_rows": len(rows),
    }


def _spread(text: str, low: float, high: float) -> float:
    """Return a number between ``low`` and ``high`` that depends on nothing but the text."""
    return round(low + (high - low) * zlib.crc32(text.encode()) / 2**32, 2)
