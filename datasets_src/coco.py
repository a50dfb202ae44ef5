"""Data in COCO's layout on disk to packed arrays.

Other tools export this format with less than COCO's own files have, or with numbers as text: only
what is used here is required, and a number may be written in any way.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from datasets_src.images import read_header
from datasets_src.splits import SPLITS, Instances, Split, require_image_files
from utils.errors import UserError
from utils.files import read_json
from utils.progress import with_bar

LARGEST_SIDE = 1_000_000  # pixels; a larger box or image is a mistake in the file
ANNOTATION_FOLDERS = ("annotations", "train_val_annotations2014")
COMMON_IMAGE_FOLDER = "images"  # where a split has no image folder of its own
LARGE_FILE = 30_000_000  # bytes; reading more takes seconds

# ways to name the two splits -> file name of an image by its id, for entries that do not give it
NAMINGS = {
    ("train2014", "val2014"): "COCO_{split}_{id:012d}.jpg",
    ("train2017", "val2017"): "{id:012d}.jpg",
    ("train", "val"): None,
}
IMAGE_FORM = '{"id": 9, "file_name": "9.jpg"} (where known with "width": 640, "height": 480)'
CAPTION_FORM = '{"image_id": 9, "caption": "a dog"}'
CATEGORY_FORM = '{"id": 18, "name": "dog"}'
BOX_FORM = '{"image_id": 9, "category_id": 18, "bbox": [x, y, width, height]}'

Value = TypeVar("Value")

logger = logging.getLogger(__name__)


def annotation_file(folder: Path, kind: str, name: str) -> Path | None:
    """Return a data set's ``<kind>_<name>.json`` (kind captions or instances); None if absent."""
    paths = [folder / place / f"{kind}_{name}.json" for place in ANNOTATION_FOLDERS]
    return next((path for path in paths if path.is_file()), None)


def load(folder: Path, split: str, *, with_instances: bool) -> Split:
    """Load a split's images and captions and, where asked for and there, its instances.

    ``split`` is one of ``SPLITS``; what its files are called is one of ``NAMINGS``.
    """
    names = _choose_naming(folder, split)
    name, other = names if split == SPLITS[0] else names[::-1]
    path = annotation_file(folder, "captions", name)
    if path is None:
        raise UserError(
            f"no captions_{name}.json in {folder / ANNOTATION_FOLDERS[0]}, to go with "
            f"captions_{other}.json there; add it"
        )
    data = _read_json(path)
    pattern = NAMINGS[names]

    def read_image(entry: dict[str, Any]) -> tuple[int, tuple[str, tuple[int, int]]]:
        image_id = _whole(entry["id"])
        if pattern is not None and "file_name" not in entry:
            return image_id, (pattern.format(split=name, id=image_id), _size(entry))
        return image_id, (_text(entry["file_name"]), _size(entry))

    images = _by_id(path, "images", _read_entries(path, data, "images", read_image, IMAGE_FORM))
    image_ids = sorted(images)
    index = {image_id: position for position, image_id in enumerate(image_ids)}
    # one file may hold captions and boxes: entries without a caption are then boxes
    entries = [
        (index.get(image_id, -1), text)
        for image_id, text in _read_entries(
            path,
            data,
            "annotations",
            lambda entry: (_whole(entry["image_id"]), _text(entry["caption"])),
            CAPTION_FORM,
            other_kind="bbox",
        )
    ]
    captions = [entry for entry in entries if entry[0] >= 0]
    if len(captions) < len(entries):
        strays = len(entries) - len(captions)
        logger.warning("%s: captions of images that it does not list, left out: %d", path, strays)

    file_names = [images[image_id][0] for image_id in image_ids]
    same = len(file_names) - len(set(file_names))
    if same:
        logger.warning("%s: images that have the file of another image: %d", path, same)
    image_folder = folder / name
    if not image_folder.is_dir() and (folder / COMMON_IMAGE_FOLDER).is_dir():
        image_folder = folder / COMMON_IMAGE_FOLDER
    require_image_files(image_folder, file_names)

    sizes = np.array([images[image_id][1] for image_id in image_ids], np.int64).reshape(-1, 2)
    instances = None
    instance_file = annotation_file(folder, "instances", name)
    if with_instances and instance_file is not None:
        instances = _load_instances(instance_file, index)
    if instances is not None and instance_file is not None:
        unknown = np.flatnonzero((sizes == 0).any(axis=1)).tolist()
        for image in with_bar(unknown, "reading sizes", "image"):
            try:
                sizes[image] = read_header(image_folder / file_names[image]).size
            except UserError:
                sizes[image] = 1  # no metric uses an image that cannot be read
        start, extent = instances.boxes[:, :2], instances.boxes[:, 2:]  # (G, 2)
        flat = (extent == 0).any(axis=1)
        outside = ((start >= sizes[instances.image]) | (start + extent <= 0)).any(axis=1) & ~flat
        for what, odd in (("without area", flat), ("wholly outside their image", outside)):
            if odd.any():
                count = odd.sum()
                logger.warning("%s: boxes %s, counted like others: %d", instance_file, what, count)
    return Split(
        name=name,
        folder=image_folder,
        image_ids=np.array(image_ids, dtype=np.int64),
        file_names=np.array(file_names, dtype=np.str_),
        widths=sizes[:, 0],
        heights=sizes[:, 1],
        captions=tuple(text for _, text in captions),
        caption_image=np.array([image for image, _ in captions], dtype=np.int64),
        instances=instances,
        caption_files=(path,),
        instance_files=(
            instance_file or folder / ANNOTATION_FOLDERS[0] / f"instances_{name}.json",
        ),
    )


def _choose_naming(folder: Path, split: str) -> tuple[str, str]:
    """Return the first naming of which both captions files are there, else one of them.

    So a stray file does not matter, and the two splits are never of two data sets.
    """
    found = {
        names: sum(annotation_file(folder, "captions", name) is not None for name in names)
        for names in NAMINGS
    }
    there = [names for names, count in found.items() if count]
    if not there:
        files = [f"captions_{names[SPLITS.index(split)]}.json" for names in NAMINGS]
        raise UserError(
            f"no {', '.join(files[:-1])} or {files[-1]} in {folder / ANNOTATION_FOLDERS[0]}; put "
            "the annotations there, or name another --datasets_dir or --dataset"
        )
    chosen = next((names for names in there if found[names] == 2), there[0])
    if len(there) > 1:
        logger.info(
            "%s has annotations of several kinds: %s is used, %s is not",
            folder,
            " and ".join(chosen),
            ", ".join(" and ".join(names) for names in there if names != chosen),
        )
    return chosen


def _load_instances(path: Path, index: dict[int, int]) -> Instances | None:
    """Load the instances of images ``index`` (id -> position) from a file; None without any.

    Crowd regions count like other instances. Categories of one name are one class.
    """
    data = _read_json(path)
    categories = _by_id(
        path,
        "categories",
        _read_entries(
            path,
            data,
            "categories",
            lambda entry: (_whole(entry["id"]), _text(entry["name"])),
            CATEGORY_FORM,
        ),
    )
    ids = sorted(categories)
    names = list(dict.fromkeys(categories[category_id] for category_id in ids))
    class_index = {category_id: names.index(categories[category_id]) for category_id in ids}
    if len(names) < len(ids):
        times = Counter(categories.values())
        logger.warning(
            "%s: categories of one name are taken as one class: %s",
            path,
            ", ".join(f"{name} ({count} times)" for name, count in times.items() if count > 1),
        )
    rows = _read_entries(
        path,
        data,
        "annotations",
        lambda entry: (
            index.get(_whole(entry["image_id"]), -1),
            class_index[_whole(entry["category_id"])],
            _box(entry["bbox"]),
        ),
        f"{BOX_FORM}, with a category of the file",
        other_kind="caption",
    )
    known = [row for row in rows if row[0] >= 0]
    if len(known) < len(rows):
        strays = len(rows) - len(known)
        logger.warning("%s: instances of images without entry, left out: %d", path, strays)
    if not known:
        return None
    return Instances(
        image=np.array([image for image, _, _ in known], dtype=np.int64),
        class_index=np.array([position for _, position, _ in known], dtype=np.int64),
        boxes=np.array([box for _, _, box in known], dtype=np.float64),
        class_names=tuple(names),
    )


def _read_json(path: Path) -> dict[str, Any]:
    """Return what an annotation file holds."""
    is_large = path.stat().st_size > LARGE_FILE
    bar = with_bar([path], f"reading {path.name}", "file", at_once=is_large)
    (data,) = (
        read_json(file, "it should be JSON: correct it, or download or export it again")
        for file in bar
    )
    if not isinstance(data, dict):
        raise UserError(
            f"{path} is not in COCO's format; it should be an object with the lists 'images' (each "
            f"{IMAGE_FORM}) and 'annotations' (each {CAPTION_FORM} or {BOX_FORM})"
        )
    return data


def _read_entries(
    path: Path,
    data: dict[str, Any],
    key: str,
    read: Callable[[dict[str, Any]], Value],
    form: str,
    other_kind: str | None = None,
) -> list[Value]:
    """Return ``read(entry)`` of the entries under a key; the first it does not take is shown.

    Entries that lack the last name of ``form`` and have ``other_kind`` in its place are left out.
    """
    entries = data.get(key)
    if not isinstance(entries, list):
        raise UserError(f"{path} has no list '{key}'; it should hold entries like {form}")
    own_kind = {"bbox": "caption", "caption": "bbox"}.get(other_kind or "")
    values = []
    for entry in with_bar(entries, f"checking {path.name}", "entry"):
        if own_kind and isinstance(entry, dict) and own_kind not in entry and other_kind in entry:
            continue
        try:
            values.append(read(entry))
        except (KeyError, TypeError, ValueError, OverflowError):
            raise UserError(
                f"{path}: the entry {str(entry)[:100]} of '{key}' should look like {form}; correct "
                "the file or export it again"
            ) from None
    if entries and not values:
        raise UserError(f"{path}: no entry of '{key}' looks like {form}; give the right file")
    return values


def _by_id(path: Path, key: str, values: Iterable[tuple[int, Value]]) -> dict[int, Value]:
    """Return entries by their ids; one that is listed again counts once."""
    found: dict[int, Value] = {}
    for entry_id, value in values:
        if found.setdefault(entry_id, value) != value:
            raise UserError(
                f"{path}: the id {entry_id} stands twice among the {key}, and differently; correct "
                "the file"
            )
    return found


def _whole(value: Any) -> int:
    """Return a whole number, however it is written; ValueError or TypeError for anything else."""
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    number = int(value)
    if abs(number) >= 2**63:
        raise ValueError
    return number


def _size(entry: dict[str, Any]) -> tuple[int, int]:
    """Return an image's width and height, 0 where they are absent."""
    sides = [entry.get(side) for side in ("width", "height")]
    if None in sides:
        return 0, 0
    width, height = map(_whole, sides)
    if not (1 <= width <= LARGEST_SIDE and 1 <= height <= LARGEST_SIDE):
        raise ValueError
    return width, height


def _text(value: str) -> str:
    str.encode(value)  # which refuses halves of surrogate pairs, as JSON may hold them
    return value


def _box(value: Any) -> tuple[float, ...]:
    """Return an instance's box as four finite numbers."""
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError
    box = tuple(map(float, value))
    if not all(math.isfinite(side) and abs(side) <= LARGEST_SIDE for side in box):
        raise ValueError
    if min(box[2:]) < 0:
        raise ValueError
    return box
