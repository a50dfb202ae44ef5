"""Flickr30k, and the boxes of Flickr30k Entities, to packed arrays.

Captions: Young, Lai, Hodosh and Hockenmaier (2014), "From image descriptions to visual
denotations". Boxes, chains and the split: Plummer et al. (2015), "Flickr30k Entities".

A chain is one thing that the captions of an image speak of, under whatever words; its types are the
classes here, its boxes the instances.

Axes: N images of a split, M captions, G instances (boxes), K classes (types of chains).
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from datasets_src.coco import LARGEST_SIDE, SPLITS, Instances, Split, require_files
from utils.errors import UserError
from utils.files import read_lines, read_text

CAPTION_FILE = "results_20130124.token"
SPLIT_NAMES = ("train", "test")  # in the order of SPLITS
IMAGE_FOLDERS = ("flickr30k-images", "flickr30k_images", "images")
BOX_FOLDER, PHRASE_FOLDER = "Annotations", "Sentences"  # of Entities
ENTITIES_PLACE = "github.com/BryanPlummer/flickr30k_entities"
CHAIN_TYPES = (
    "people",
    "clothing",
    "bodyparts",
    "animals",
    "vehicles",
    "instruments",
    "scene",
    "other",
)
NOT_VISUAL = "notvisual"  # the type of chains without class

_ID = "[1-9][0-9]{0,17}"  # within 64 bits
_CAPTION = re.compile(rf"({_ID})\.jpg#[0-9]+\t(.*)")
_PHRASE = re.compile(r"\[/EN#([0-9]{1,18})((?:/[^\s/\[\]]+)*)(?=[\s\]])")  # [/EN#7/people ..

logger = logging.getLogger(__name__)


class _TreeWithoutDoctype(ElementTree.TreeBuilder):
    """An XML tree that refuses a DOCTYPE, whose entities could grow without bound."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Refuse; called where a DOCTYPE begins, whatever the file's encoding."""
        raise ValueError("it has a DOCTYPE")


def load(folder: Path, split: str, *, with_instances: bool) -> Split:
    """Load a split's images and captions and, where asked for and there, its instances.

    Widths and heights are those that Entities gives, in whose pixels the boxes are, and 0 where the
    boxes are not read: nothing else needs them, and no image is opened for them.

    Args:
        folder: The folder of Flickr30k.
        split: One of ``datasets_src.coco.SPLITS``: the images of train.txt or test.txt.
        with_instances: Whether to read the boxes of Entities.

    Raises:
        UserError: a file is missing or malformed.
    """
    name = SPLIT_NAMES[SPLITS.index(split)]
    list_file, caption_file = folder / f"{name}.txt", folder / CAPTION_FILE
    image_ids = _read_image_ids(list_file)
    index = {image_id: position for position, image_id in enumerate(image_ids.tolist())}
    captions, caption_image = _read_captions(caption_file, index)
    bare = len(image_ids) - len(np.unique(caption_image))
    if bare:
        logger.warning("%s: %d images of %s have no caption", caption_file, bare, list_file.name)

    image_folder = next(
        (folder / place for place in IMAGE_FOLDERS if (folder / place).is_dir()),
        folder / IMAGE_FOLDERS[0],
    )
    file_names = [f"{image_id}.jpg" for image_id in image_ids.tolist()]
    require_files(image_folder, file_names)

    entities = [folder / BOX_FOLDER, folder / PHRASE_FOLDER]
    has_entities = any(place.is_dir() for place in entities)
    box_files = [entities[0] / f"{image_id}.xml" for image_id in image_ids.tolist()]
    phrase_files = [entities[1] / f"{image_id}.txt" for image_id in image_ids.tolist()]
    sizes, instances = np.zeros((len(image_ids), 2), dtype=np.int64), None
    if with_instances and has_entities:
        sizes, instances = _read_entities(box_files, phrase_files)
    return Split(
        name=name,
        folder=image_folder,
        image_ids=image_ids,
        file_names=np.array(file_names, dtype=np.str_),
        widths=sizes[:, 0],
        heights=sizes[:, 1],
        captions=captions,
        caption_image=caption_image,
        instances=instances,
        caption_files=(caption_file, list_file),
        instance_files=(*box_files, *phrase_files) if has_entities else tuple(entities),
    )


def _read_image_ids(path: Path) -> np.ndarray:
    """Return the ids of a split list, one a line, (N,) int64 ascending."""
    if not path.is_file():
        raise UserError(
            f"no split list {path}; get train.txt and test.txt of Flickr30k Entities "
            f"({ENTITIES_PLACE}) and put them there"
        )
    ids = set()
    for number, line in enumerate(read_lines(path, "the split list"), start=1):
        word = line.strip()
        if not word:
            continue
        if not re.fullmatch(_ID, word):
            raise UserError(f"{path} line {number}: {word!r} is no image id; correct the line")
        ids.add(int(word))
    return np.array(sorted(ids), dtype=np.int64)


def _read_captions(path: Path, index: Mapping[int, int]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the captions of images ``index`` (id -> position), and their images (M,) int64."""
    captions, images = [], []
    for number, line in enumerate(read_lines(path, "the captions of Flickr30k"), start=1):
        if not line:
            continue
        match = _CAPTION.fullmatch(line)
        if match is None:
            raise UserError(
                f"{path} line {number} is not '<image id>.jpg#<number>', a tab and a caption; "
                "correct the line"
            )
        position = index.get(int(match[1]))
        if position is not None:
            captions.append(match[2])
            images.append(position)
    return tuple(captions), np.array(images, dtype=np.int64)


def _read_entities(
    box_files: list[Path], phrase_files: list[Path]
) -> tuple[np.ndarray, Instances | None]:
    """Read the sizes and the instances of N images.

    Every box is one instance of each type that its chains have, however many of them have it and
    however often it was drawn; of these instances the first has the box as its own. Chains without
    box or type are none.

    Returns:
        Widths and heights (N, 2) int64; the instances, None where there is none.
    """
    sizes = np.zeros((len(box_files), 2), dtype=np.int64)
    image, classes, boxes, has_own_box = [], [], [], []
    for position, (box_file, phrase_file) in enumerate(zip(box_files, phrase_files, strict=True)):
        types = _read_chain_types(phrase_file)
        sizes[position], chain_boxes = _read_boxes(box_file)
        seen: dict[tuple[int, ...], set[int]] = {}  # box -> its types so far
        for chain, box in chain_boxes:
            known = seen.setdefault(box, set())
            for class_index in sorted(types.get(chain, set()) - known):
                image.append(position)
                classes.append(class_index)
                boxes.append(box)
                has_own_box.append(not known)
                known.add(class_index)
    if not image:
        return sizes, None
    return sizes, Instances(
        image=np.array(image, dtype=np.int64),
        class_index=np.array(classes, dtype=np.int64),
        boxes=np.array(boxes, dtype=np.float64),
        class_names=CHAIN_TYPES,
        has_own_box=np.array(has_own_box, dtype=bool),
    )


def _read_chain_types(path: Path) -> dict[int, set[int]]:
    """Return the types of each chain in an image's captions, as indices into ``CHAIN_TYPES``.

    A phrase is written ``[/EN#<chain>/<type>/<type> words]``; ``NOT_VISUAL`` and phrases without
    type add none.
    """
    types: dict[int, set[int]] = {}
    for number, line in enumerate(read_lines(path, "the phrases of Flickr30k Entities"), start=1):
        phrases = _PHRASE.findall(line)
        if len(phrases) != line.count("[/EN#"):
            raise UserError(
                f"{path} line {number} has a phrase that is not '[/EN#<chain>/<type> words]'; "
                "correct the line"
            )
        for chain, named in phrases:
            for name in named.split("/")[1:]:
                if name == NOT_VISUAL:
                    continue
                if name not in CHAIN_TYPES:
                    raise UserError(
                        f"{path} line {number}: {name!r} is no type of chains "
                        f"({', '.join(CHAIN_TYPES)}); correct the line"
                    )
                types.setdefault(int(chain), set()).add(CHAIN_TYPES.index(name))
    return types


def _read_boxes(path: Path) -> tuple[tuple[int, int], list[tuple[int, tuple[int, int, int, int]]]]:
    """Return an image's (width, height), and each chain with each of its boxes.

    The file has the first and the last pixel of a box, counted from 1; here a box is
    [x, y, width, height] counted from 0, so that x = xmin - 1 and width = xmax - xmin + 1.
    """
    text = read_text(path, "an annotation of Flickr30k Entities")
    try:
        root = ElementTree.fromstring(text, ElementTree.XMLParser(target=_TreeWithoutDoctype()))
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{path} is no annotation in XML ({error}); download it again") from None
    sides = [_number(root, f"size/{side}", path) for side in ("width", "height")]
    if not all(1 <= side <= LARGEST_SIDE for side in sides):
        raise UserError(f"{path}: the size is {sides[0]} x {sides[1]}; correct the file")
    found = []
    for element in root.iterfind("object"):
        chains = [_whole_number(name.text, "name", path) for name in element.iterfind("name")]
        for box in element.iterfind("bndbox"):
            edges = [_number(box, edge, path) for edge in ("xmin", "ymin", "xmax", "ymax")]
            left, top, right, bottom = edges
            if not (left <= right and top <= bottom) or max(map(abs, edges)) > LARGEST_SIDE:
                raise UserError(
                    f"{path}: {left} {top} {right} {bottom} are no box's xmin, ymin, xmax and "
                    "ymax; correct the file"
                )
            corners = (left - 1, top - 1, right - left + 1, bottom - top + 1)
            found += [(chain, corners) for chain in chains]
    return (sides[0], sides[1]), found


def _number(element: ElementTree.Element, place: str, path: Path) -> int:
    """Return the whole number of an element below ``element``."""
    return _whole_number(element.findtext(place), place, path)


def _whole_number(text: str | None, place: str, path: Path) -> int:
    """Read the whole number that stands in an element."""
    if text is None or not re.fullmatch("-?[0-9]{1,18}", text.strip()):
        raise UserError(f"{path}: {text!r} is no whole number '{place}'; correct the file")
    return int(text)
