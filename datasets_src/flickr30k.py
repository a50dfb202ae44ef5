"""Flickr30k, and the boxes of Flickr30k Entities, to packed arrays.

Captions: Young, Lai, Hodosh and Hockenmaier (2014), "From image descriptions to visual
denotations". Boxes, chains and the split: Plummer et al. (2015), "Flickr30k Entities".

A chain is one thing that the captions of an image speak of, under whatever words; its types are the
classes here, its boxes the instances.

Axes: N images of a split, M captions, G instances (boxes), K classes (types of chains).
"""

import logging
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from datasets_src.splits import SPLITS, Instances, Split, find_image_folder
from utils.files import read_each_line, reading

CAPTION_FILE = "results_20130124.token"
SPLIT_NAMES = ("train", "test")  # in the order of SPLITS
IMAGE_FOLDERS = ("flickr30k-images", "flickr30k_images", "images")
BOX_FOLDER, PHRASE_FOLDER = "Annotations", "Sentences"  # of Entities
CHAIN_TYPES = (
    "people", "clothing", "bodyparts", "animals", "vehicles", "instruments", "scene", "other",
)  # fmt: skip
NOT_VISUAL = "notvisual"  # the type of chains without class
ENTITIES_HINT = "get it from Flickr30k Entities (github.com/BryanPlummer/flickr30k_entities)"

_LISTED = re.compile(r"^\s*([1-9][0-9]{0,17})\s*$")  # within 64 bits
_CAPTION = re.compile(r"^([1-9][0-9]{0,17})\.jpg#[0-9]+\t(.*)$")
_PHRASE = re.compile(r"\[/EN#([0-9]{1,18})((?:/[^\s/\[\]]+)*)(?=[\s\]])")  # [/EN#7/people ..

logger = logging.getLogger(__name__)


def load(folder: Path, split: str, *, with_instances: bool) -> Split:
    """Load a split's images and captions and, where asked for and there, its instances.

    Widths and heights are those that Entities gives, in whose pixels the boxes are, and 0 where the
    boxes are not read: nothing else needs them, and no image is opened for them.
    """
    name = SPLIT_NAMES[SPLITS.index(split)]
    list_file, caption_file = folder / f"{name}.txt", folder / CAPTION_FILE

    def read_id(line: str) -> int:
        (image_id,) = _LISTED.findall(line)
        return int(image_id)

    def read_caption(line: str) -> tuple[int, str]:
        ((image_id, text),) = _CAPTION.findall(line)
        return int(image_id), text

    image_ids = sorted(set(read_each_line(list_file, read_id, "an image id", ENTITIES_HINT)))
    index = {image_id: position for position, image_id in enumerate(image_ids)}
    form = "'<image id>.jpg#<number>', a tab and a caption"
    listed = read_each_line(caption_file, read_caption, form)
    captions = [(index[image_id], text) for image_id, text in listed if image_id in index]
    bare = len(image_ids) - len({image for image, _ in captions})
    if bare:
        logger.warning("%s: images of %s without caption: %d", caption_file, list_file.name, bare)

    file_names = [f"{image_id}.jpg" for image_id in image_ids]
    image_folder = find_image_folder([folder / place for place in IMAGE_FOLDERS], file_names)

    entities = (folder / BOX_FOLDER, folder / PHRASE_FOLDER)
    has_entities = any(map(Path.is_dir, entities))
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
        sizes=sizes,
        captions=tuple(text for _, text in captions),
        caption_image=np.array([image for image, _ in captions], dtype=np.int64),
        instances=instances,
        caption_files=(caption_file, list_file),
        instance_files=(*box_files, *phrase_files) if has_entities else entities,
    )


def _read_entities(
    box_files: list[Path], phrase_files: list[Path]
) -> tuple[np.ndarray, Instances | None]:
    """Read the widths and heights (N, 2) int64 and the instances, if any, of N images.

    Every box is one instance of each type that its chains have, however many of them have it and
    however often it was drawn; of these instances the first has the box as its own. Chains without
    box or type are none.
    """
    sizes = np.zeros((len(box_files), 2), dtype=np.int64)
    rows: list[tuple[int, int, tuple[int, ...]]] = []  # image, class, box
    for image, (box_file, phrase_file) in enumerate(zip(box_files, phrase_files, strict=True)):
        types = _read_chain_types(phrase_file)
        with reading(box_file, ENTITIES_HINT):
            sizes[image], boxes = _read_boxes(box_file)
        for chain, box in boxes:
            rows += [(image, class_index, box) for class_index in sorted(types.get(chain, set()))]
    if not rows:
        return sizes, None
    found = pd.DataFrame(rows, columns=["image", "class_index", "box"]).drop_duplicates()
    return sizes, Instances(
        image=found["image"].to_numpy(np.int64),
        class_index=found["class_index"].to_numpy(np.int64),
        boxes=np.array(found["box"].tolist(), dtype=np.float64),
        class_names=CHAIN_TYPES,
        has_own_box=~found.duplicated(["image", "box"]).to_numpy(),
    )


def _read_chain_types(path: Path) -> dict[int, set[int]]:
    """Return the types of each chain in an image's captions, as indices into ``CHAIN_TYPES``."""
    types: dict[int, set[int]] = {}

    def read_phrases(line: str) -> None:
        phrases = _PHRASE.findall(line)
        if len(phrases) != line.count("[/EN#"):
            raise ValueError
        for chain, names in phrases:
            visual = set(names.split("/")[1:]) - {NOT_VISUAL}
            types.setdefault(int(chain), set()).update(map(CHAIN_TYPES.index, visual))

    form = f"a caption with [/EN#<chain>/<type> words], a type being one of {CHAIN_TYPES}"
    read_each_line(path, read_phrases, form, ENTITIES_HINT)
    return types


def _read_boxes(path: Path) -> tuple[tuple[int, ...], list[tuple[int, tuple[int, ...]]]]:
    """Return an image's (width, height), and each chain with each of its boxes.

    The file has the first and the last pixel of a box, counted from 1; here a box is
    [x, y, width, height] counted from 0, so that x = xmin - 1 and width = xmax - xmin + 1.
    """
    root = ElementTree.parse(path).getroot()
    size = tuple(int(root.findtext(f"size/{side}") or "") for side in ("width", "height"))
    if min(size) < 1:
        raise ValueError(f"the size is {size}")
    found: list[tuple[int, tuple[int, ...]]] = []
    for element in root.iterfind("object"):
        chains = [int(name.text or "") for name in element.iterfind("name")]
        for box in element.iterfind("bndbox"):
            left, top, right, bottom = (
                int(box.findtext(edge) or "") for edge in ("xmin", "ymin", "xmax", "ymax")
            )
            if left > right or top > bottom:
                raise ValueError(f"{left} {top} {right} {bottom} is no box xmin ymin xmax ymax")
            corners = (left - 1, top - 1, right - left + 1, bottom - top + 1)
            found += [(chain, corners) for chain in chains]
    return size, found
