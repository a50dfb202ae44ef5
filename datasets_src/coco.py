"""Data in COCO's layout on disk to packed arrays, and the arrays themselves.

Axes: N images of a split, M captions, G instances (boxes), K classes.
"""

import contextlib
import hashlib
import io
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datasets_src.image_cache import ImageCache, StoredImages
from datasets_src.images import are_too_many, read_image
from utils.errors import UserError
from utils.files import file_size, parse_json, read_text
from utils.progress import with_bar

# The training and the test split, as the program calls them whatever the data set; the names are
# COCO's, whose val2014 is the test set because its own test labels are not public.
SPLITS = ("train2014", "val2014")
LARGEST_SIDE = 1_000_000  # pixels; a larger box or image is a mistake in the file
ANNOTATION_FOLDERS = ("annotations", "train_val_annotations2014")
COMMON_IMAGE_FOLDER = "images"  # where a split has no image folder of its own

LARGE_FILE = 30_000_000  # bytes; reading more takes seconds

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Instances:
    """Objects of a split, in packed arrays."""

    image: np.ndarray  # (G,) int64 index into the split's images
    class_index: np.ndarray  # (G,) int64 index into class_names
    boxes: np.ndarray  # (G, 4) float64 [x, y, width, height] in pixels of the original image
    class_names: tuple[str, ...]  # K names by ascending category id
    # (G,) bool, False for a row that only gives a further class to the box of an earlier row of its
    # image; None where every row is a box of its own, though it equals another, as in COCO
    has_own_box: np.ndarray | None = None

    def counts(self, image_count: int) -> np.ndarray:
        """Return how many instances of each class each image has, (N, K) int64."""
        counts = np.zeros((image_count, len(self.class_names)), dtype=np.int64)
        np.add.at(counts, (self.image, self.class_index), 1)
        return counts

    def is_single_word(self) -> np.ndarray:
        """Return which class names are one word, (K,) bool."""
        return np.array([len(name.split()) == 1 for name in self.class_names], dtype=bool)


@dataclass(frozen=True)
class Split:
    """Images of one split by ascending id, with their captions and, where known, instances."""

    name: str  # what the data set itself calls the split
    folder: Path  # where the images are
    image_ids: np.ndarray  # (N,) int64, ascending
    file_names: np.ndarray  # (N,) str
    # they give the boxes their scale; a split without instances may have 0, "not known"
    widths: np.ndarray  # (N,) int64 pixels
    heights: np.ndarray  # (N,) int64 pixels
    captions: tuple[str, ...]  # M texts in the file's order
    caption_image: np.ndarray  # (M,) int64 index into the images
    instances: Instances | None
    caption_files: tuple[Path, ...] = ()  # what images and captions were read from
    instance_files: tuple[Path, ...] = ()  # where instances are looked for, read and there or not
    # (N,) int64 index before images were left out, None where none were: the row in the cache
    first_index: np.ndarray | None = None
    cache: ImageCache | None = None  # where resized images are kept

    def path(self, image: int) -> Path:
        """Return the file of the image with this index."""
        return self.folder / str(self.file_names[image])

    def reader(self, images: np.ndarray, size: int) -> Callable[[int], np.ndarray]:
        """Return what reads the image of an index, out of some, as ``read_image`` does.

        Raises:
            UserError: the cache cannot be written (see ``ImageCache.opened``).
        """
        if self.cache is None:
            return partial(self._read, size)
        rows = self._first_index()
        return partial(self._read_stored, self.cache.opened(rows[images], size), rows)

    def _read(self, size: int, image: int) -> np.ndarray:
        return read_image(self.path(image), size)

    def _read_stored(self, stored: StoredImages, rows: np.ndarray, image: int) -> np.ndarray:
        return stored.read(self.path(image), int(rows[image]))

    def _first_index(self) -> np.ndarray:
        """Return ``first_index``, (N,) int64 in any case."""
        return np.arange(len(self.image_ids)) if self.first_index is None else self.first_index

    def fingerprint(self) -> str:
        """Return a hash of the images' ids, the captions and, where there are any, the instances.

        What the image files hold does not count, see ``image_files_fingerprint``.
        """
        digest = hashlib.sha256("\n".join(self.captions).encode())
        arrays = [self.image_ids, self.caption_image]
        if self.instances is not None:
            digest.update("\n".join(self.instances.class_names).encode())
            arrays += [self.widths, self.heights]
            arrays += [self.instances.image, self.instances.class_index, self.instances.boxes]
        for array in arrays:
            digest.update(f"\n{array.dtype} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def image_file_sizes(self) -> np.ndarray:
        """Return each image file's size in bytes, (N,) int64; -1 of one that cannot be reached."""
        sizes = [file_size(self.path(image)) for image in range(len(self.image_ids))]
        return np.array([-1 if size is None else size for size in sizes], dtype=np.int64)

    def image_files_fingerprint(self) -> str:
        """Return a hash of the image files' sizes, by which alone a change of them is noticed."""
        return hashlib.sha256(self.image_file_sizes().tobytes()).hexdigest()

    def first_captions(self) -> np.ndarray:
        """Return each image's first caption in the file's order, (N,) int64; -1 without one."""
        first = np.full(len(self.image_ids), -1, dtype=np.int64)
        first[self.caption_image[::-1]] = np.arange(len(self.captions))[::-1]
        return first

    def without(self, images: Sequence[int]) -> "Split":
        """Return the split without the images of these indices; itself where there are none."""
        return self.keep(~np.isin(np.arange(len(self.image_ids)), images)) if images else self

    def keep(self, kept: np.ndarray) -> "Split":
        """Return the split without the images that ``kept`` (N,) bool leaves out."""
        new_index = np.cumsum(kept) - 1  # (N,) index of a kept image in the new split
        caption_kept = kept[self.caption_image]
        instances = self.instances
        if instances is not None:
            instance_kept = kept[instances.image]
            own = instances.has_own_box
            instances = replace(
                instances,
                image=new_index[instances.image[instance_kept]],
                class_index=instances.class_index[instance_kept],
                boxes=instances.boxes[instance_kept],
                has_own_box=None if own is None else own[instance_kept],
            )
        return replace(
            self,
            image_ids=self.image_ids[kept],
            file_names=self.file_names[kept],
            widths=self.widths[kept],
            heights=self.heights[kept],
            captions=tuple(
                text for text, stays in zip(self.captions, caption_kept, strict=True) if stays
            ),
            caption_image=new_index[self.caption_image[caption_kept]],
            instances=instances,
            first_index=self._first_index()[kept],
        )


@dataclass(frozen=True)
class _Naming:
    """One way to name splits and images."""

    splits: tuple[str, str]  # what SPLITS are called
    image: str | None  # file name of an image by its id, for entries that do not give it


_NAMINGS = (
    _Naming(("train2014", "val2014"), "COCO_{split}_{id:012d}.jpg"),
    _Naming(("train2017", "val2017"), "{id:012d}.jpg"),
    _Naming(("train", "val"), None),
)


def annotation_file(folder: Path, kind: str, name: str) -> Path | None:
    """Return a data set's ``<kind>_<name>.json`` (kind captions or instances); None if absent."""
    for annotations in ANNOTATION_FOLDERS:
        path = folder / annotations / f"{kind}_{name}.json"
        if path.is_file():
            return path
    return None


def load(folder: Path, split: str, *, with_instances: bool) -> Split:
    """Load a split's images and captions and, where asked for and there, its instances.

    Args:
        folder: The data set's folder, with the annotations and the image folders.
        split: One of ``SPLITS``. In the files it may be named in the way of COCO 2014
            (train2014, val2014), of COCO 2017 (train2017, val2017) or plainly (train, val); where
            several are there, the first of these that has the captions of both splits is used.
        with_instances: Whether to read the instances.

    Raises:
        UserError: the captions file is missing, an annotation file is malformed, or image files
            are missing (see ``require_files``).
    """
    naming = _choose_naming(folder, split)
    name = naming.splits[SPLITS.index(split)]
    path = annotation_file(folder, "captions", name)
    if path is None:
        other = naming.splits[1 - SPLITS.index(split)]
        raise UserError(
            f"no captions_{name}.json in {folder / ANNOTATION_FOLDERS[0]}, to go with "
            f"captions_{other}.json there; add it"
        )
    data = _read_coco(path)
    images = _by_id(data, "images", path)
    image_ids = np.array(sorted(images), dtype=np.int64)
    entries = [images[image_id] for image_id in image_ids.tolist()]
    index = {image_id: position for position, image_id in enumerate(image_ids.tolist())}

    texts, caption_image, strays = [], [], 0
    for annotation in _records(data, "annotations", path):
        position = index.get(_number(annotation, "image_id", path))
        if position is None:
            strays += 1
            continue
        texts.append(_text(annotation, "caption", path))
        caption_image.append(position)
    if strays:
        logger.warning("%s: %d captions of images it does not list are left out", path, strays)
    _note_repeated_ids(data, path)

    image_folder = folder / name
    if not image_folder.is_dir() and (folder / COMMON_IMAGE_FOLDER).is_dir():
        image_folder = folder / COMMON_IMAGE_FOLDER
    pattern = naming.image and naming.image.replace("{split}", name)
    file_names = [_file_name(entry, pattern, path) for entry in entries]
    require_files(image_folder, file_names)
    instance_file = annotation_file(folder, "instances", name)
    return Split(
        name=name,
        folder=image_folder,
        image_ids=image_ids,
        file_names=np.array(file_names, dtype=np.str_),
        widths=np.array([_side(entry, "width", path) for entry in entries], dtype=np.int64),
        heights=np.array([_side(entry, "height", path) for entry in entries], dtype=np.int64),
        captions=tuple(texts),
        caption_image=np.array(caption_image, dtype=np.int64),
        instances=_load_instances(instance_file, index)
        if with_instances and instance_file is not None
        else None,
        caption_files=(path,),
        instance_files=(
            instance_file or folder / ANNOTATION_FOLDERS[0] / f"instances_{name}.json",
        ),
    )


def _choose_naming(folder: Path, split: str) -> _Naming:
    """Return how a data set names its splits; never one way for one split, another for the other.

    It is the first naming of which both captions files are there, so that a stray file does not
    matter; where there is none, the first of which one is.

    Raises:
        UserError: there is no captions file of any name.
    """
    there = [
        naming
        for naming in _NAMINGS
        if any(annotation_file(folder, "captions", name) for name in naming.splits)
    ]
    if not there:
        files = [f"captions_{naming.splits[SPLITS.index(split)]}.json" for naming in _NAMINGS]
        raise UserError(
            f"no {', '.join(files[:-1])} or {files[-1]} in {folder / ANNOTATION_FOLDERS[0]}; put "
            "the annotations there, or name another --datasets_dir or --dataset"
        )
    whole = [
        naming
        for naming in there
        if all(annotation_file(folder, "captions", name) for name in naming.splits)
    ]
    chosen = (whole or there)[0]
    if len(there) > 1:
        logger.info(
            "%s has annotations of several kinds: %s is used, %s is not",
            folder,
            " and ".join(chosen.splits),
            ", ".join(" and ".join(naming.splits) for naming in there if naming != chosen),
        )
    return chosen


def _load_instances(path: Path, index: Mapping[int, int]) -> Instances | None:
    """Load the instances of images ``index`` (id -> position) from a file; None without any.

    Crowd regions count like other instances.
    """
    data = _read_coco(path)
    categories = {
        category_id: _text(category, "name", path)
        for category_id, category in _by_id(data, "categories", path).items()
    }
    class_ids = sorted(categories)
    class_index = {category_id: position for position, category_id in enumerate(class_ids)}
    image, classes, boxes, strays = [], [], [], 0
    records = _records(data, "annotations", path)
    for annotation in with_bar(records, f"checking {path.name}", "instance"):
        position = index.get(_number(annotation, "image_id", path))
        if position is None:
            strays += 1
            continue
        category = _number(annotation, "category_id", path)
        if category not in class_index:
            raise UserError(
                f"{path}: annotation {annotation.get('id')} has the unknown category {category}; "
                "correct the file"
            )
        image.append(position)
        classes.append(class_index[category])
        boxes.append(_box(annotation, path))
    if strays:
        logger.warning("%s: %d instances of images without entry are left out", path, strays)
    _note_repeated_ids(data, path)
    flat = sum(min(box[2:]) == 0 for box in boxes)
    if flat:
        logger.warning("%s: %d boxes have no area; they count like others", path, flat)
    if not image:
        return None
    return Instances(
        image=np.array(image, dtype=np.int64),
        class_index=np.array(classes, dtype=np.int64),
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        class_names=tuple(categories[category_id] for category_id in class_ids),
    )


def _read_coco(path: Path) -> dict[str, Any]:
    """Return the data set of a COCO file, seen through by pycocotools."""
    from pycocotools.coco import COCO

    coco = COCO()
    try:
        # COCO itself would open the file in the system's encoding, and fail at a byte-order mark
        is_large = path.is_file() and path.stat().st_size > LARGE_FILE
        (data,) = [
            parse_json(read_text(file, "the annotation file"))
            for file in with_bar([path], f"reading {path.name}", "file", at_once=is_large)
        ]
        if not isinstance(data, dict):
            raise TypeError("no JSON object")
        coco.dataset = data
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
            coco.createIndex()
        return data
    except ValueError as error:  # no JSON, numbers or depth too large
        raise UserError(f"{path} is not valid JSON ({error}); download it again") from None
    except (KeyError, TypeError, AssertionError, AttributeError) as error:
        raise UserError(
            f"{path} is not in COCO's format ({type(error).__name__}: {error}); download it again"
        ) from None


def _records(data: Mapping[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    """Return the list of objects under ``key``."""
    records = data.get(key)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UserError(f"{path} has no list of objects '{key}'; download it again")
    return records


def _by_id(data: Mapping[str, Any], key: str, path: Path) -> dict[int, dict[str, Any]]:
    """Return the objects under ``key`` by their ids; one that is listed again counts once.

    Raises:
        UserError: two different ones have the same id.
    """
    found: dict[int, dict[str, Any]] = {}
    for record in _records(data, key, path):
        if found.setdefault(_number(record, "id", path), record) != record:
            raise UserError(
                f"{path}: {_where(record)} stands twice among the {key}, and differently; correct "
                "the file"
            )
    return found


def _note_repeated_ids(data: Mapping[str, Any], path: Path) -> None:
    """Warn of annotations that have the id of another one."""
    ids = [str(record.get("id")) for record in _records(data, "annotations", path)]
    if len(set(ids)) < len(ids):
        logger.warning(
            "%s: %d annotations have the id of another one; all are used",
            path,
            len(ids) - len(set(ids)),
        )


def _number(record: Mapping[str, Any], key: str, path: Path) -> int:
    """Return a whole number of a record."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63:
        raise UserError(f"{path}: {_where(record)} has no whole number '{key}'; correct the file")
    return value


def _side(record: Mapping[str, Any], key: str, path: Path) -> int:
    """Return an image's width or height."""
    value = _number(record, key, path)
    if not 1 <= value <= LARGEST_SIDE:
        raise UserError(f"{path}: {_where(record)} has the {key} {value}; correct the file")
    return value


def _text(record: Mapping[str, Any], key: str, path: Path) -> str:
    """Return a text of a record."""
    value = record.get(key)
    try:
        if not isinstance(value, str):
            raise TypeError
        value.encode()  # which refuses halves of surrogate pairs, as JSON may hold them
    except (TypeError, UnicodeEncodeError):
        raise UserError(f"{path}: {_where(record)} has no text '{key}'; correct the file") from None
    return value


def _file_name(record: Mapping[str, Any], pattern: str | None, path: Path) -> str:
    """Return an image's file name, which must lie inside the folder of images.

    Where the record gives none, it is ``pattern`` with the id.
    """
    if pattern is not None and "file_name" not in record:
        return pattern.format(id=_number(record, "id", path))
    name = _text(record, "file_name", path)
    outside = Path(name).is_absolute() or ".." in Path(name).parts
    if outside or not Path(name).parts or "\0" in name:
        raise UserError(f"{path}: {_where(record)} has the file name {name!r}; correct the file")
    return name


def _box(record: Mapping[str, Any], path: Path) -> list[float]:
    """Return an instance's box as four finite numbers."""
    box = record.get("bbox")
    if (
        not isinstance(box, list)
        or len(box) != 4
        or not all(type(value) in (int, float) and abs(value) <= LARGEST_SIDE for value in box)
        or min(box[2:]) < 0
    ):
        raise UserError(
            f"{path}: {_where(record)} has no 'bbox' [x, y, width, height] of 4 numbers; correct "
            "the file"
        )
    return box


def _where(record: Mapping[str, Any]) -> str:
    """Name a record in an error message."""
    return f"the entry with id {record.get('id')!r}"


def require_files(folder: Path, file_names: list[str]) -> None:
    """Warn of missing image files, naming the first; training and evaluation leave them out.

    Raises:
        UserError: too many are missing (see ``are_too_many``), or all.
    """
    if not folder.is_dir():
        raise UserError(f"no image folder {folder}; unpack the images there")
    present = {entry.name for entry in os.scandir(folder)}
    missing = [
        name
        for name in file_names
        # not Path.is_file, which does not take names too long for a file
        if name not in present and not os.path.isfile(folder / name)  # noqa: PTH113
    ]
    if not missing:
        return
    count = f"{len(missing)} of {len(file_names)} images are missing in {folder}, the first "
    if are_too_many(len(missing), len(file_names)) or len(missing) == len(file_names):
        raise UserError(f"{count}{missing[0]!r}; complete the folder")
    logger.warning("%s%r; they are left out", count, missing[0])
