"""A split of a data set in packed arrays, whatever files it was read from.

Axes: N images of a split, M captions, G instances (boxes), K classes.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from datasets_src.image_cache import ImageCache
from datasets_src.images import ImageSet, are_too_many
from utils.errors import UserError
from utils.files import digest

# The training and the test split, as the program calls them whatever the data set; the names are
# COCO's, whose val2014 is the test set because its own test labels are not public.
SPLITS = ("train2014", "val2014")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Instances:
    """Objects of a split."""

    image: np.ndarray  # (G,) int64 index into the split's images
    class_index: np.ndarray  # (G,) int64 index into class_names
    boxes: np.ndarray  # (G, 4) float64 [x, y, width, height] in pixels of the original image
    class_names: tuple[str, ...]  # K names by ascending category id
    # (G,) bool, False for a row that only gives a further class to the box of an earlier row of its
    # image; in COCO every row is a box of its own, though it equals another
    has_own_box: np.ndarray

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
    sizes: np.ndarray  # (N, 2) int64 width and height in pixels
    captions: tuple[str, ...]  # M texts in the file's order
    caption_image: np.ndarray  # (M,) int64 index into the images
    instances: Instances | None
    caption_files: tuple[Path, ...] = ()  # what images and captions were read from
    instance_files: tuple[Path, ...] = ()  # where instances are looked for, read and there or not
    # (N,) int64 index before images were left out, None where none were: the row in the cache
    first_index: np.ndarray | None = None
    cache: ImageCache | None = None  # where resized images are kept
    filtered: bool = False  # whether setup's filter was applied

    def path(self, image: int) -> Path:
        """Return the file of the image with this index."""
        return self.folder / str(self.file_names[image])

    def images(self, size: int) -> ImageSet:
        """Return the split's images as a data set of torch's, resized to size x size."""
        return ImageSet(
            self.folder,
            self.file_names,
            size,
            declared=self.sizes,
            cache=None if self.cache is None else (self.cache, self._rows()),
        )

    def _rows(self) -> np.ndarray:
        return np.arange(len(self.image_ids)) if self.first_index is None else self.first_index

    def fingerprint(self) -> str:
        """Return a hash of the images' ids, the captions and, where there are any, the instances.

        What the image files hold does not count.
        """
        texts, arrays = ["\n".join(self.captions)], [self.image_ids, self.caption_image]
        if self.instances is not None:
            boxes = self.instances
            texts.append("\n".join(boxes.class_names))
            arrays += [*self.sizes.T, boxes.image, boxes.class_index, boxes.boxes]
        shaped = ((f"\n{array.dtype} {array.shape}\n", array) for array in arrays)
        return digest(*texts, *(part for pair in shaped for part in pair))

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
            stays = kept[instances.image]
            instances = replace(
                instances,
                image=new_index[instances.image[stays]],
                class_index=instances.class_index[stays],
                boxes=instances.boxes[stays],
                has_own_box=instances.has_own_box[stays],
            )
        names = ("image_ids", "file_names", "sizes")
        return replace(
            self,
            **{name: getattr(self, name)[kept] for name in names},
            captions=tuple(self.captions[caption] for caption in np.flatnonzero(caption_kept)),
            caption_image=new_index[self.caption_image[caption_kept]],
            instances=instances,
            first_index=self._rows()[kept],
        )


def find_image_folder(folders: list[Path], file_names: list[str]) -> Path:
    """Return the first folder that is there; warn of images that it lacks, refuse too many."""
    folder = next(filter(Path.is_dir, folders), None)
    if folder is None:
        raise UserError(f"no image folder {folders[0]}; unpack the images there")
    others = set(file_names) - set(os.listdir(folder))  # noqa: PTH208
    is_file = os.path.isfile  # Path.is_file takes no name too long for a file
    missing = [name for name in file_names if name in others and not is_file(folder / name)]
    if missing:
        count = f"{len(missing)} of {len(file_names)} images missing in {folder}"
        told = f"{count}, the first {missing[0]!r}"
        if are_too_many(len(missing), len(file_names)):
            raise UserError(f"{told}; complete the folder")
        logger.warning("%s; left out", told)
    return folder
