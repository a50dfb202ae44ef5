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

from datasets_src.coco import LARGEST_SIDE
from datasets_src.splits import SPLITS, Instances, Split, require_image_files
from utils.errors import UserError
from utils.files import read_lines, read_text, reading

CAPTION_FILE = "results_20130124.token"
SPLIT_NAMES = ("train", "test")  # in the order of SPLITS
IMAGE_FOLDERS = ("flickr30k-images", "flickr30k_images", "images")
BOX_FOLDER, PHRASE_FOLDER = "Annotations", "Sentences"  # of Entities
ENTITIES_PLACE = "github.com/BryanPlummer/flickr30k_entities"
CHAIN_TYPES = (
    "people", "clothing", "bodyparts", "animals", "vehicles", "instruments", "scene", "other",
)  # fmt: skip
NOT_VISUAL = "notvisual"  # the type of chains without class

PHRASE_FORM = "[/EN#<chain>/<type> words]"
BOX_HINT = "it should be an annotation of Flickr30k Entities; download it again"

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
    """
    name = SPLIT_NAMES[SPLITS.index(split)]
    list_file, caption_file = folder / f"{name}.txt", folder / CAPTION_FILE
    image_ids = _read_image_ids(list_file)
    index = {image_id: position for position, image_id in enumerate(image_ids)}
    captions, caption_image = _read_captions(caption_file, index)
    bare = len(image_ids) - len(set(caption_image))
    if bare:
        logger.warning("%s: images of %s without caption: %d", caption_file, list_file.name, bare)

    image_folder = next(
        (folder / place for place in IMAGE_FOLDERS if (folder / place).is_dir()),
        folder / IMAGE_FOLDERS[0],
    )
    file_names = [f"{image_id}.jpg" for image_id in image_ids]
    require_image_files(image_folder, file_names)

    entities = (folder / BOX_FOLDER, folder / PHRASE_FOLDER)
    has_entities = any(place.is_dir() for place in entities)
    box_files = [entities[0] / f"{image_id}.xml" for image_id in image_ids]
    phrase_files = [entities[1] / f"{image_id}.txt" for image_id in image_ids]
    sizes, instances = np.zeros((len(image_ids), 2), dtype=np.int64), None
    if with_instances and has_entities:
        sizes, instances = _read_entities(box_files, phrase_files)
    return Split(
        name=name,
        folder=image_folder,
        image_ids=np.array(image_ids, dtype=np.int64),
        file_names=np.array(file_names, dtype=np.str_),
        widths=sizes[:, 0],
        heights=sizes[:, 1],
        captions=captions,
        caption_image=np.array(caption_image, dtype=np.int64),
        instances=instances,
        caption_files=(caption_file, list_file),
        instance_files=(*box_files, *phrase_files) if has_entities else entities,
    )


def _read_image_ids(path: Path) -> list[int]:
    """Return the ids of a split list, one a line, ascending."""
    if not path.is_file():
        raise UserError(
            f"no split list {path}; get train.txt and test.txt of Flickr30k Entities "
            f"({ENTITIES_PLACE}) and put them there"
        )
    ids = set()
    for number, line in enumerate(read_lines(path, "the split list"), start=1):
        word = line.strip()
        if word and not re.fullmatch(_ID, word):
            raise UserError(f"{path} line {number}: {word!r} is no image id; correct the line")
        ids |= {int(word)} if word else set()
    return sorted(ids)


def _read_captions(path: Path, index: Mapping[int, int]) -> tuple[tuple[str, ...], list[int]]:
    """Return the captions of images ``index`` (id -> position), and the position of each."""
    captions, images = [], []
    for number, line in enumerate(read_lines(path, "the file of captions"), start=1):
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
    return tuple(captions), images


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
        with reading(box_file, BOX_HINT):
            sizes[position], chain_boxes = _read_boxes(read_text(box_file, "an annotation"))
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
    """Return the types of each chain in an image's captions, as indices into ``CHAIN_TYPES``."""
    types: dict[int, set[int]] = {}
    for number, line in enumerate(read_lines(path, "the file of phrases"), start=1):
        phrases = _PHRASE.findall(line)
        named = {name for _, names in phrases for name in names.split("/")[1:]}
        unknown = named - {NOT_VISUAL, *CHAIN_TYPES}
        if len(phrases) != line.count("[/EN#") or unknown:
            raise UserError(
                f"{path} line {number}: a phrase should be {PHRASE_FORM} with a type out of "
                f"{', '.join((*CHAIN_TYPES, NOT_VISUAL))}; correct the line"
            )
        for chain, names in phrases:
            visual = set(names.split("/")[1:]) - {NOT_VISUAL}
            types.setdefault(int(chain), set()).update(map(CHAIN_TYPES.index, visual))
    return types


def _read_boxes(text: str) -> tuple[tuple[int, int], list[tuple[int, tuple[int, ...]]]]:
    """Return an image's (width, height), and each chain with each of its boxes.

    The file has the first and the last pixel of a box, counted from 1; here a box is
    [x, y, width, height] counted from 0, so that x = xmin - 1 and width = xmax - xmin + 1.
    """
    root = ElementTree.fromstring(text, ElementTree.XMLParser(target=_TreeWithoutDoctype()))

    def whole(element: ElementTree.Element, place: str) -> int:
        number = int(element.findtext(place) or "")
        if abs(number) > LARGEST_SIDE:
            raise ValueError(f"{place} is {number}")
        return number

    width, height = (whole(root, f"size/{side}") for side in ("width", "height"))
    if min(width, height) < 1:
        raise ValueError(f"the size is {width} x {height}")
    found: list[tuple[int, tuple[int, ...]]] = []
    for element in root.iterfind("object"):
        chains = [int(name.text or "") for name in element.iterfind("name")]
        for box in element.iterfind("bndbox"):
            left, top, right, bottom = (whole(box, e) for e in ("xmin", "ymin", "xmax", "ymax"))
            if left > right or top > bottom:
                raise ValueError(f"{left} {top} {right} {bottom} is no box xmin ymin xmax ymax")
            corners = (left - 1, top - 1, right - left + 1, bottom - top + 1)
            found += [(chain, corners) for chain in chains]
    return (width, height), found
