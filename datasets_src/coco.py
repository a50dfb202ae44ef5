"""Data in COCO's layout on disk to packed arrays.

Other tools export this format with less than COCO's own files have, or with numbers as text: only
what is used here is required, and a number may be written in any way.
"""

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from datasets_src.images import read_header
from datasets_src.splits import SPLITS, Instances, Split, find_image_folder
from utils.errors import UserError
from utils.files import read_json
from utils.progress import with_bar

LARGEST_SIDE = 1_000_000  # pixels; a larger box or image is a mistake in the file
ANNOTATION_FOLDERS = ("annotations", "train_val_annotations2014")
COMMON_IMAGE_FOLDER = "images"  # where a split has no image folder of its own

# ways to name the two splits -> file name of an image by its id, for entries that do not give it
NAMINGS = {
    ("train2014", "val2014"): "COCO_{split}_{id:012d}.jpg",
    ("train2017", "val2017"): "{id:012d}.jpg",
    ("train", "val"): None,
}
IMAGE_FORM = '{"id": 9, "file_name": "9.jpg"} (where known with "width": 640, "height": 480)'
CAPTION_FORM = '{"image_id": 9, "caption": "a dog"}'
CATEGORY_FORM = '{"id": 18, "name": "dog"}'
JSON_HINT = "it should be JSON: correct it, or download or export it again"
BOX_FORM = '{"image_id": 9, "category_id": 18, "bbox": [x, y, width, height]}'

Value = TypeVar("Value")
Row = TypeVar("Row", bound=tuple[Any, ...])

logger = logging.getLogger(__name__)


def annotation_file(folder: Path, kind: str, name: str) -> Path:
    """Return a data set's ``<kind>_<name>.json`` (kind captions or instances), there or not."""
    paths = [folder / place / f"{kind}_{name}.json" for place in ANNOTATION_FOLDERS]
    return next(filter(Path.is_file, paths), paths[0])


def load(folder: Path, split: str, *, with_instances: bool) -> Split:
    """Load a split's images and captions and, where asked for and there, its instances.

    ``split`` is one of ``SPLITS``; what its files are called is one of ``NAMINGS``.
    """

    def captions_file(name: str) -> Path:
        return annotation_file(folder, "captions", name)

    # the first of which both files are there, else one of them: so a stray file does not matter,
    # and the two splits are never of two data sets
    names = max(NAMINGS, key=lambda names: sum(captions_file(name).is_file() for name in names))
    name = names[SPLITS.index(split)]
    path = captions_file(name)
    if not path.is_file():
        pairs = ", or ".join(" and ".join(f"captions_{x}.json" for x in pair) for pair in NAMINGS)
        raise UserError(
            f"no {path.name} in {path.parent}; put the annotations of both splits there ({pairs}), "
            "or name another --datasets_dir or --dataset"
        )
    data = read_json(path, JSON_HINT)
    pattern = NAMINGS[names]

    def read_image(entry: dict[str, Any]) -> tuple[int, tuple[str, tuple[int, ...]]]:
        image_id = _whole(entry["id"])
        sizes = tuple(_whole(entry.get(side) or 0) for side in ("width", "height"))
        if not 0 <= min(sizes) <= max(sizes) <= LARGEST_SIDE:
            raise ValueError
        if pattern is not None:
            entry = {"file_name": pattern.format(split=name, id=image_id)} | entry
        return image_id, (_text(entry["file_name"]), sizes)

    def read_caption(entry: dict[str, Any]) -> tuple[int, str]:
        return index.get(_whole(entry["image_id"]), -1), _text(entry["caption"])

    images = _by_id(path, _read_entries(path, data, "images", read_image, IMAGE_FORM))
    image_ids = sorted(images)
    index = {image_id: position for position, image_id in enumerate(image_ids)}
    rows = _read_entries(path, data, "annotations", read_caption, CAPTION_FORM, "caption", "bbox")
    captions = _of_known_images(path, rows)
    file_names = [images[image_id][0] for image_id in image_ids]
    _warn(path, "images that have the file of another", len(file_names) - len(set(file_names)))
    image_folder = find_image_folder([folder / name, folder / COMMON_IMAGE_FOLDER], file_names)

    sizes = np.array([images[image_id][1] for image_id in image_ids], np.int64).reshape(-1, 2)
    instances = None
    instance_file = annotation_file(folder, "instances", name)
    if with_instances and instance_file.is_file():
        instances = _load_instances(instance_file, index)
    if instances is not None:
        unknown = np.flatnonzero((sizes == 0).any(axis=1)).tolist()
        for image in with_bar(unknown, "reading sizes", "image"):
            try:
                sizes[image] = read_header(image_folder / file_names[image])[1]
            except UserError:
                sizes[image] = 1  # no metric uses an image that cannot be read
        start, extent = instances.boxes[:, :2], instances.boxes[:, 2:]  # (G, 2)
        flat = (extent == 0).any(axis=1)
        outside = ((start >= sizes[instances.image]) | (start + extent <= 0)).any(axis=1) & ~flat
        _warn(instance_file, "boxes without area, counted like others", flat.sum())
        _warn(instance_file, "boxes wholly outside their image, counted like others", outside.sum())
    return Split(
        name=name,
        folder=image_folder,
        image_ids=np.array(image_ids, dtype=np.int64),
        file_names=np.array(file_names, dtype=np.str_),
        sizes=sizes,
        captions=tuple(text for _, text in captions),
        caption_image=np.array([image for image, _ in captions], dtype=np.int64),
        instances=instances,
        caption_files=(path,),
        instance_files=(instance_file,),
    )


def _load_instances(path: Path, index: dict[int, int]) -> Instances | None:
    """Load the instances of images ``index`` (id -> position) from a file; None without any.

    Crowd regions count like other instances. Categories of one name are one class.
    """

    def read_category(entry: dict[str, Any]) -> tuple[int, str]:
        return _whole(entry["id"]), _text(entry["name"])

    def read_box(entry: dict[str, Any]) -> tuple[int, int, tuple[float, ...]]:
        box = tuple(map(float, entry["bbox"]))
        if len(box) != 4 or min(box[2:]) < 0 or not all(abs(side) <= LARGEST_SIDE for side in box):
            raise ValueError
        position = index.get(_whole(entry["image_id"]), -1)
        return position, class_index[_whole(entry["category_id"])], box

    data = read_json(path, JSON_HINT)
    categories = _by_id(path, _read_entries(path, data, "categories", read_category, CATEGORY_FORM))
    names = list(dict.fromkeys(categories[category_id] for category_id in sorted(categories)))
    same = [name for name, count in Counter(categories.values()).items() if count > 1]
    if same:
        logger.warning("%s: categories of one name are one class: %s", path, ", ".join(same))
    class_index = {category_id: names.index(name) for category_id, name in categories.items()}
    form = f"{BOX_FORM}, with a category of the file"
    rows = _read_entries(path, data, "annotations", read_box, form, "bbox", "caption")
    known = _of_known_images(path, rows)
    if not known:
        return None
    return Instances(
        image=np.array([image for image, _, _ in known], dtype=np.int64),
        class_index=np.array([position for _, position, _ in known], dtype=np.int64),
        boxes=np.array([box for _, _, box in known], dtype=np.float64),
        class_names=tuple(names),
        has_own_box=np.ones(len(known), dtype=bool),
    )


def _by_id(path: Path, entries: list[tuple[int, Value]]) -> dict[int, Value]:
    """Return entries by their ids; one that is listed again counts once."""
    found: dict[int, Value] = {}
    for entry_id, value in entries:
        if found.setdefault(entry_id, value) != value:
            raise UserError(
                f"{path}: the id {entry_id} stands twice, and differently; correct the file"
            )
    return found


def _of_known_images(path: Path, rows: list[Row]) -> list[Row]:
    """Return captions or instances without those whose image has no entry, and count these."""
    known = [row for row in rows if row[0] >= 0]
    _warn(path, "annotations of unlisted images, left out", len(rows) - len(known))
    return known


def _warn(path: Path, what: str, count: int) -> None:
    if count:
        logger.warning("%s: %s: %d", path, what, count)


def _read_entries(
    path: Path,
    data: Any,
    key: str,
    read: Callable[[dict[str, Any]], Value],
    form: str,
    own: str = "",
    other: str = "",
) -> list[Value]:
    """Return ``read(entry)`` of the entries under a key; the first it does not take is shown.

    One file may hold captions and boxes: entries with ``other`` in place of ``own`` are left out.
    """
    entries = data.get(key) if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise UserError(
            f"{path} is not in COCO's format: it needs a list '{key}' with entries like {form}"
        )
    values = []
    for entry in with_bar(entries, f"checking {path.name}", "entry"):
        if isinstance(entry, dict) and other in entry and own not in entry:
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


def _whole(value: Any) -> int:
    """Return a whole number, however it is written; ValueError or TypeError for anything else."""
    number = int(value)
    if abs(number) >= 2**63 or (isinstance(value, float) and number != value):
        raise ValueError
    return number


def _text(value: str) -> str:
    str.encode(value)  # which refuses halves of surrogate pairs, as JSON may hold them
    return value
