"""Writes the demo world: an invented data set in COCO's layout, with its own word norms.

It stands in for COCO and the published norms where those are missing: small drawn pictures of 18
kinds of objects (see ``demo_drawing``), five captions each from templates, exact boxes, and
invented typicality, concreteness and association values for its words. It has COCO's oddities too:
grayscale files, images without objects, categories with two-word names.
"""

import itertools
import logging
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets_src.coco import SPLITS
from datasets_src.demo_drawing import BACKGROUNDS, DRAWINGS, DrawnObject, draw_scene
from datasets_src.norms import ASSOCIATION_FILE, CATEGORY_FILE, CONCRETENESS_FILE
from utils.errors import UserError
from utils.files import write_json, write_text
from utils.progress import with_bar

logger = logging.getLogger(__name__)

MARKER_FILE = "demo_world.json"
VERSION = 1
MIN_IMAGES = 20
PARTIAL_FOLDER = "demo_world.partial"
CAPTIONS_PER_IMAGE = 5
INFO: dict[str, str | int] = {
    "description": "Demo world: invented pictures and captions in the layout of COCO 2014",
    "url": "",
    "version": str(VERSION),
    "year": 2014,
    "contributor": "",
    "date_created": "2014/01/01",
}
LICENSES = [{"id": 1, "name": "Invented; free to use", "url": ""}]

# Group -> class name -> other words for it.
GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "animal": {"dog": ("puppy", "hound"), "fish": ("trout",), "turtle": ("tortoise",)},
    "vehicle": {
        "car": ("sedan", "automobile"),
        "bus": ("coach", "minibus"),
        "boat": ("sailboat", "yacht"),
    },
    "fruit": {"banana": ("plantain",), "watermelon": ("melon",), "pineapple": ("ananas",)},
    "clothing": {"shirt": ("blouse", "jersey"), "hat": ("fedora", "bonnet"), "boot": ("shoe",)},
    "instrument": {"guitar": ("ukulele",), "drum": ("snare",), "piano": ("keyboard",)},
}
# Classes with two-word names -> supercategory; the setup filter drops their images.
TWO_WORD_CLASSES = {"fire truck": "vehicle", "teddy bear": "toy", "traffic light": "outdoor"}
# Words beside a group's own: some of another group (where they are less typical), some that no
# caption uses.
EXTRA_TYPICALITY: dict[str, dict[str, float]] = {
    "animal": {"jersey": 2.3, "giraffe": 6.3},
    "vehicle": {"tram": 5.4},
    "fruit": {"mango": 6.0},
    "clothing": {"scarf": 5.2},
    "instrument": {"violin": 6.4},
    "place": {"boat": 2.1, "yacht": 1.8, "bus": 1.4, "canyon": 5.1},
}
# Background -> what a caption may say of it.
PLACES: dict[str, tuple[tuple[str, str], ...]] = {
    "meadow": (("in the", "meadow"), ("in a", "meadow"), ("on the", "grass"), ("on a", "field")),
    "beach": (("on the", "beach"), ("at the", "beach"), ("on the", "sand"), ("near the", "shore")),
    "snow": (("in the", "snow"), ("on the", "snow"), ("in the", "frost")),
    "street": (("on the", "street"), ("in a", "street"), ("on the", "road")),
    "room": (("in a", "room"), ("in the", "room"), ("in the", "lounge")),
    "lake": (("at the", "lake"), ("near a", "lake"), ("at the", "pond"), ("by the", "water")),
}
TEXTURE_WORDS: dict[str, tuple[str, ...]] = {
    "dots": ("spotted", "dotted"),
    "stripes": ("striped",),
    "bands": ("striped",),
    "checks": ("checkered",),
    "diamonds": ("checkered",),
    "zigzag": ("zigzag",),
}
# A side of the mean length below the first or above the second share of the picture's side.
SMALL, BIG = 0.26, 0.37

# {things} are the objects, {where} the place or nothing, {is} agrees with the objects.
TEMPLATES = (
    "{things} {where}",
    "there {is} {things} {where}",
    "here {is} {things} {where}",
    "a photo of {things} {where}",
    "a picture with {things} {where}",
    "this image shows {things} {where}",
    "{things} {is} standing {where}",
    "{things} {is} lying {where}",
    "{things} {is} waiting {where}",
    "{things} can be seen {where}",
    "someone left {things} {where}",
    "someone placed {things} {where}",
    "we can see {things} {where}",
    "you find {things} {where}",
    "look at {things} {where}",
    "a close view of {things} {where}",
)
# {mass} is an abstract word without article, {count} one with it.
ABSTRACT_TEMPLATES = (
    "the {mass} of {things} {where}",
    "{count} of {mass} with {things} {where}",
    "{things} {where} and a lot of {mass}",
    "what {count} to see {things} {where}",
    "{count} about {things} {where}",
    "{things} {where} in {count} of {mass}",
)
EMPTY_TEMPLATES = (
    "there is nothing {where}",
    "nobody is {where} today",
    "a quiet view {where}",
    "an empty picture taken {where}",
    "a photo taken {where}",
    "the {mass} of a day {where}",
    "{count} of {mass} {where}",
)
ABSTRACT_COUNT = ("idea", "moment", "memory", "chance", "wish", "thought", "dream", "mood")
ABSTRACT_MASS = ("beauty", "luck", "hope", "truth", "freedom", "peace", "joy", "wonder")
JOINERS = ("and", "and", "and", "with", "near", "beside", "next to")
ABSTRACT_SHARE = 1 / 3
PLACE_SHARE = 0.5
LEFT_OUT_SHARE = 0.2
CLASS_NAME_SHARE = 0.6

# (lowest, highest rating, part of speech, words). Objects and places are added from above.
RATINGS: tuple[tuple[float, float, str, str], ...] = (
    (3.3, 4.2, "Adjective", "red blue green yellow orange brown black white purple pink turquoise"),
    (3.3, 4.2, "Adjective", "spotted dotted striped checkered zigzag big large small little"),
    (2.3, 3.2, "Adjective", "empty quiet close"),
    (2.3, 3.8, "Verb", "standing lying waiting seen left placed see find look taken shows"),
    (3.6, 4.5, "Noun", "photo picture image view"),
    (3.0, 3.6, "Noun", "day lot"),
    (1.2, 2.2, "Noun", " ".join(ABSTRACT_COUNT + ABSTRACT_MASS)),
    (1.2, 2.2, "Article", "a an the"),
    (1.2, 2.2, "Preposition", "of in on at by near with beside to about"),
    (1.2, 2.2, "Conjunction", "and"),
    (1.2, 2.2, "Pronoun", "we you this someone nobody nothing what"),
    (1.2, 2.2, "Verb", "is are be can"),
    (1.2, 2.2, "Adverb", "there here today next"),
    (4.4, 5.0, "Noun", "fire truck teddy bear traffic light"),
    (4.5, 5.0, "Noun", "lamp bottle ladder spoon pillow bucket candle hammer window carrot kettle"),
    (4.5, 5.0, "Noun", "giraffe tram mango scarf violin canyon basket penguin button needle"),
    (3.0, 4.2, "Verb", "swim jump carry throw climb whisper"),
    (2.0, 3.2, "Adjective", "heavy gentle early strange brave polite"),
    (1.1, 2.1, "Noun", "justice theory pride doubt mercy logic virtue belief fate reason"),
    (4.4, 5.0, "#N/A", "ice_cream fire_truck teddy_bear traffic_light coffee_cup"),
    (1.3, 2.4, "#N/A", "good_luck common_sense"),
)
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


@dataclass(frozen=True)
class Picture:
    """One image of the world with all that is said of it.

    Attributes:
        image_id: Unique in both splits.
        background: A key of ``BACKGROUNDS``.
        pixels: (height, width, 3) uint8 RGB, or (height, width) for a grayscale image.
        objects: What it shows, of one category at most one each; may be empty.
        captions: ``CAPTIONS_PER_IMAGE`` sentences.
    """

    image_id: int
    background: str
    pixels: np.ndarray
    objects: tuple[DrawnObject, ...]
    captions: tuple[str, ...]


def make_demo_world(datasets_dir: Path, images: int = 1500, seed: int = 0) -> dict[str, int]:
    """Write the demo world into ``datasets_dir``; an older demo world there is replaced.

    The same images and seed give the same bytes, and image k is the same in a larger world. The
    world is built beside its place and moved there whole; ``demo_world.json`` comes last.

    Args:
        datasets_dir: Created where it is missing.
        images: Number of training images, at least 20; a quarter as many test images are added.
        seed: Not negative.

    Returns:
        What the world holds: ``train_images, test_images, train_captions, test_captions,
        objects, grayscale_images, images_without_objects, images_with_two_word_names`` (these of
        both splits), ``categories, category_words, rated_words, association_rows``.

    Raises:
        UserError: too few images, a negative seed, other data stands at that place, or it cannot
            be written.
    """
    if images < MIN_IMAGES:
        raise UserError(
            f"a demo world of {images} training images is too small; ask for {MIN_IMAGES} or more"
        )
    if seed < 0:
        raise UserError(f"the seed {seed} is negative; give 0 or a positive number")
    _refuse_other_data(datasets_dir)
    partial = datasets_dir / PARTIAL_FOLDER
    try:
        shutil.rmtree(partial, ignore_errors=True)  # what a killed run left
        try:
            counts = _write_world(partial, images, seed)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        _move_into_place(partial, datasets_dir)
    except OSError as error:
        raise UserError(
            f"cannot write the demo world in {datasets_dir}: {error.strerror or error}; check the "
            "folder's permissions and the free disk space"
        ) from error
    logger.info("demo world written to %s", datasets_dir)
    return counts


def make_picture(seed: int, split: str, index: int) -> Picture:
    """Make the image number ``index`` of a split (a member of ``SPLITS``).

    It depends on nothing but the three arguments.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    names = _choose_names(rng, index)
    background = str(rng.choice(list(BACKGROUNDS)))
    width, height = (int(rng.choice(sides)) for sides in IMAGE_SIDES)
    if rng.random() < 0.3:
        width, height = height, width
    pixels, objects = draw_scene(rng, background, names, width, height)
    grayscale = index % GRAYSCALE_EVERY == GRAYSCALE_FIRST
    if grayscale:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))
    captions = [
        _caption(rng, background, objects, pixels.shape, coloured=not grayscale)
        for _ in range(CAPTIONS_PER_IMAGE)
    ]
    # Four training images and a test image share a range of numbers, so that ids of the splits
    # are mixed and have gaps, as COCO's.
    slot = 5 * (index // 4) + index % 4 if split == SPLITS[0] else 5 * index + 4
    image_id = 9 + 37 * slot + int(rng.integers(37))
    return Picture(image_id, background, pixels, tuple(objects), tuple(captions))


def _choose_names(rng: np.random.Generator, index: int) -> list[str]:
    """Choose the different categories that image number ``index`` shows."""
    if index % EMPTY_EVERY == EMPTY_FIRST:
        return []
    group_of = {name: group for group, members in GROUPS.items() for name in members}
    names = []
    if index % TWO_WORD_EVERY == TWO_WORD_FIRST:
        names.append(list(TWO_WORD_CLASSES)[index // TWO_WORD_EVERY % len(TWO_WORD_CLASSES)])
    count = 1 + int(rng.choice(len(OBJECT_COUNT_SHARES), p=OBJECT_COUNT_SHARES))
    while len(names) < count:
        others = [name for name in group_of if name not in names]
        if names and rng.random() < SAME_GROUP_SHARE:
            alike = [name for name in others if group_of[name] == group_of.get(names[0])]
            others = alike or others
        names.append(str(rng.choice(others)))
    return names


def _caption(
    rng: np.random.Generator,
    background: str,
    objects: Sequence[DrawnObject],
    shape: Sequence[int],
    *,
    coloured: bool,
) -> str:
    """Write one sentence about an image; ``shape`` begins with its height and width."""
    abstract = rng.random() < ABSTRACT_SHARE
    preposition, place = PLACES[background][rng.integers(len(PLACES[background]))]
    where = f"{preposition} {place}"
    told = list(objects)
    if objects:
        if rng.random() >= PLACE_SHARE:
            where = ""
        if len(told) > 1 and rng.random() < LEFT_OUT_SHARE:
            del told[rng.integers(len(told))]
        told = [told[number] for number in rng.permutation(len(told))]
        template = _pick(rng, ABSTRACT_TEMPLATES if abstract else TEMPLATES)
    else:
        template = _pick(rng, EMPTY_TEMPLATES)
    side = (shape[0] * shape[1]) ** 0.5
    phrases = [_phrase(rng, thing, side, coloured) for thing in told]
    joiner = _pick(rng, JOINERS) if len(told) == 2 else "and"
    words = {
        "things": f" {joiner} ".join(filter(None, (", ".join(phrases[:-1]), *phrases[-1:]))),
        "is": "are" if len(told) > 1 and joiner == "and" else "is",
        "where": where,
        "mass": _pick(rng, ABSTRACT_MASS),
        "count": _with_article(_pick(rng, ABSTRACT_COUNT)),
    }
    sentence = template.format(**words)
    sentence = " ".join(sentence.split())  # an empty {where} leaves two spaces
    if rng.random() < 0.85:
        sentence = sentence[0].upper() + sentence[1:]
    return sentence + "."


def _phrase(rng: np.random.Generator, thing: DrawnObject, side: float, coloured: bool) -> str:
    """Name one object, often with a true adjective: "the big striped fish"."""
    mean_side = (thing.box[2] * thing.box[3]) ** 0.5 / side
    words = []
    if mean_side < SMALL and rng.random() < 0.35:
        words.append(_pick(rng, ("small", "little")))
    if mean_side > BIG and rng.random() < 0.35:
        words.append(_pick(rng, ("big", "large")))
    if coloured and rng.random() < 0.3:
        words.append(thing.colour)
    if thing.texture in TEXTURE_WORDS and rng.random() < 0.2:
        words.append(_pick(rng, TEXTURE_WORDS[thing.texture]))
    words.append(_noun(rng, thing.name))
    phrase = " ".join(words)
    return f"the {phrase}" if rng.random() < 0.15 else _with_article(phrase)


def _noun(rng: np.random.Generator, name: str) -> str:
    """Return the class name or another word for it."""
    others = next((members[name] for members in GROUPS.values() if name in members), ())
    return name if not others or rng.random() < CLASS_NAME_SHARE else _pick(rng, others)


def _with_article(phrase: str) -> str:
    """Put "a" or "an" before a phrase ("a ukulele" is the only word that u begins)."""
    return f"an {phrase}" if phrase[0] in "aeio" else f"a {phrase}"


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """Return one of the options, all equally likely."""
    return options[int(rng.integers(len(options)))]


def _write_world(folder: Path, images: int, seed: int) -> dict[str, int]:
    """Write all files of a world into an empty or missing folder and count what they hold."""
    (folder / "COCO" / "annotations").mkdir(parents=True)
    splits = []
    for split, size in zip(SPLITS, (images, max(1, images // 4)), strict=True):
        image_folder = folder / "COCO" / split
        image_folder.mkdir()
        pictures = (make_picture(seed, split, index) for index in range(size))
        shown = with_bar(pictures, f"drawing {split}", "image", size)
        splits.append(_write_split(folder / "COCO", split, shown))
    categories = typicality()
    write_text(folder / CATEGORY_FILE, _category_yaml(categories))
    rating_rows = _rating_rows()
    lines = [RATINGS_HEADER, *rating_rows]
    write_text(folder / CONCRETENESS_FILE, "".join(f"{line}\r\n" for line in lines))
    association_rows = list(_association_rows(categories))
    write_text(folder / ASSOCIATION_FILE, "".join(f"{row}\n" for row in association_rows))
    write_json(folder / MARKER_FILE, {"version": VERSION, "images": images, "seed": seed})
    train, test = splits
    both = {name: train[name] + test[name] for name in train if name not in ("images", "captions")}
    return {
        "train_images": train["images"],
        "test_images": test["images"],
        "train_captions": train["captions"],
        "test_captions": test["captions"],
        **both,
        "categories": len(DRAWINGS),
        "category_words": len(set().union(*categories.values())),
        "rated_words": len(rating_rows),
        "association_rows": len(association_rows),
    }


def _write_split(coco: Path, split: str, pictures: Iterable[Picture]) -> dict[str, int]:
    """Write the images and both annotation files of a split and count what they hold."""
    category_ids = {record["name"]: record["id"] for record in _category_records()}
    images: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    grayscale = empty = two_word = 0
    for picture in pictures:
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
        grayscale += picture.pixels.ndim == 2
        empty += not picture.objects
        two_word += any(thing.name in TWO_WORD_CLASSES for thing in picture.objects)
    content = {"info": INFO, "licenses": LICENSES, "images": images}
    folder = coco / "annotations"
    write_json(folder / f"captions_{split}.json", content | {"annotations": captions})
    labels = {"annotations": instances, "categories": _category_records()}
    write_json(folder / f"instances_{split}.json", content | labels)
    return {
        "images": len(images),
        "captions": len(captions),
        "objects": len(instances),
        "grayscale_images": grayscale,
        "images_without_objects": empty,
        "images_with_two_word_names": two_word,
    }


def _category_records() -> list[dict[str, Any]]:
    """Return COCO's category list of the world; as in COCO, some numbers are not used."""
    groups = {name: group for group, members in GROUPS.items() for name in members}
    groups |= TWO_WORD_CLASSES
    return [
        {"id": 1 + position + position // 5, "name": name, "supercategory": groups[name]}
        for position, name in enumerate(DRAWINGS)
    ]


def typicality() -> dict[str, dict[str, float]]:
    """Return the taxonomic categories: category -> word -> invented typicality (1 to 7)."""
    result: dict[str, dict[str, float]] = {}
    for group, members in GROUPS.items():
        result[group] = {name: _spread(name, 5.8, 6.7) for name in members}
        result[group] |= {
            word: _spread(word, 4.3, 5.7) for others in members.values() for word in others
        }
    places = {word for phrases in PLACES.values() for _, word in phrases}
    result["place"] = {word: _spread(word, 4.5, 6.6) for word in sorted(places)}
    return {category: EXTRA_TYPICALITY[category] | words for category, words in result.items()}


def _category_yaml(categories: dict[str, dict[str, float]]) -> str:
    """Write the categories as YAML, in the published file's layout."""
    lines = ["---"]
    for category, words in categories.items():
        lines += [f"{category}:", *(f"  {word}: {value}" for word, value in words.items())]
    return "\n".join(lines) + "\n"


def _rating_rows() -> list[str]:
    """Return the rows of the concreteness file; an underscore in ``RATINGS`` is a space."""
    rated = {
        word: (_spread(word, low, high), part)
        for low, high, part, words in RATINGS
        for word in words.split()
    }
    for phrases in PLACES.values():
        rated |= {word: (_spread(word, 4.3, 4.9), "Noun") for _, word in phrases}
    for members in GROUPS.values():
        for word in itertools.chain(members, *members.values()):
            rated[word] = (_spread(word, 4.6, 5.0), "Noun")
    rows = []
    for word, (rating, part) in sorted(rated.items()):
        deviation, raters = _spread(word[::-1], 0.2, 1.5), round(_spread(word + "#", 25, 31))
        frequency = round(_spread(word + "+", 10, 9000))
        row = [word.replace("_", " "), str(int("_" in word)), f"{rating:.2f}", f"{deviation:.2f}"]
        rows.append("\t".join([*row, "0", str(raters), "1.00", str(frequency), part]))
    return rows


def _association_rows(categories: dict[str, dict[str, float]]) -> Iterator[str]:
    """Yield the lines of the association file: strong within a class, weak across groups."""
    class_of = {
        word: name
        for members in GROUPS.values()
        for name, others in members.items()
        for word in (name, *others)
    }
    group_of = {
        word: group
        for group, words in categories.items()
        for word in words
        if word not in EXTRA_TYPICALITY[group] or word not in class_of
    }
    for a, b in itertools.combinations(sorted(group_of), 2):
        chance = _spread(f"{a} {b} found", 0, 1)
        if class_of.get(a, a) == class_of.get(b, b):
            count = round(_spread(f"{a} {b}", 60, 120))
        elif group_of[a] == group_of[b]:
            count = round(_spread(f"{a} {b}", 10, 45)) if chance < 0.85 else 0
        else:
            count = round(_spread(f"{a} {b}", 1, 6)) if chance < 0.15 else 0
        # both orders and several relations, whose counts add up to the pair's
        parts = (count - 3 * (count // 4), count // 4, count // 4, count // 4)
        orders = (("R1", a, b), ("R1", b, a), ("R2", a, b), ("R3", b, a))
        for (relation, first, second), part in zip(orders, parts, strict=True):
            if part:
                yield f"{relation}\t{first}\t{second}\t{part}"


def _spread(text: str, low: float, high: float) -> float:
    """Return a number between ``low`` and ``high`` that depends on nothing but the text."""
    return round(low + (high - low) * zlib.crc32(text.encode()) / 2**32, 2)


def _refuse_other_data(datasets_dir: Path) -> None:
    """Raise ``UserError`` where the world would replace something that is not a demo world."""
    # a finished world in the partial folder: moving it into place was interrupted
    marks = (datasets_dir / MARKER_FILE, datasets_dir / PARTIAL_FOLDER / MARKER_FILE)
    if any(mark.exists() for mark in marks):
        others = [path for path in _caption_files(datasets_dir) if not _is_of_a_demo_world(path)]
    else:
        parts = ("COCO", CATEGORY_FILE, CONCRETENESS_FILE, ASSOCIATION_FILE)
        others = [datasets_dir / part for part in parts if (datasets_dir / part).exists()]
    if others:
        raise UserError(
            f"{others[0]} is not of a demo world and would be replaced; name another "
            "--datasets_dir, or move it away first"
        )


def _caption_files(datasets_dir: Path) -> list[Path]:
    """Return the captions files that a new world would replace."""
    return sorted((datasets_dir / "COCO" / "annotations").glob("captions_*.json"))


def _is_of_a_demo_world(path: Path) -> bool:
    """Say whether an annotation file is one of ours; COCO's may have taken its place."""
    with path.open("rb") as file:
        return str(INFO["description"]).encode() in file.read(500)


def _move_into_place(partial: Path, datasets_dir: Path) -> None:
    """Replace an older world by the finished one; the marker goes first and comes last."""
    (datasets_dir / MARKER_FILE).unlink(missing_ok=True)
    (datasets_dir / "COCO").mkdir(exist_ok=True)
    parts = [Path("COCO", name) for name in (*SPLITS, "annotations")]
    parts += map(Path, (CATEGORY_FILE, CONCRETENESS_FILE, ASSOCIATION_FILE, MARKER_FILE))
    for part in parts:
        target = datasets_dir / part
        if target.is_dir():
            shutil.rmtree(target)
        (partial / part).replace(target)
    shutil.rmtree(partial)
