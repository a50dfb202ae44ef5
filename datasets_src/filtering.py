"""Setup's filter: which images of a data set the published system leaves out, and why."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets_src.coco import SPLITS, Instances, Split
from datasets_src.datasets import COCO, COCO_FOLDER, dataset_folder, load_split
from datasets_src.images import are_too_many, read_mode
from utils.errors import UserError
from utils.files import file_size, parse_json, read_text, sha256_of_file, write_json
from utils.progress import with_bar

FILTER_FILE = "filtered_images.json"
FORMAT_VERSION = 1
# in the order of counting: an image is counted under the first cause that holds
CAUSES = ("no_instances", "grayscale", "multi_word_category")
UNREADABLE = "unreadable"  # a further cause, named in the result only where it holds

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FilterResult:
    """The images of one split that are left out."""

    images: int  # N images before filtering
    dropped: dict[str, list[int]]  # cause -> ascending image ids

    @property
    def kept(self) -> int:
        """Number of images kept."""
        return self.images - sum(map(len, self.dropped.values()))


def filter_file(datasets_dir: Path, dataset: str) -> Path:
    """Return where the filter's result of a data set is kept, there or not.

    COCO's stands in the datasets folder itself, any other in the data set's own.
    """
    folder = dataset_folder(datasets_dir, dataset)
    return (datasets_dir if folder.name == COCO_FOLDER else folder) / FILTER_FILE


def filter_images(datasets_dir: Path, *, dataset: str = COCO) -> dict[str, FilterResult]:
    """Filter both splits of a data set and keep the result (see ``filter_file``).

    A kept result of the same source files is returned as it is.

    Dropped are images without instances, one-channel images, images that show a category whose
    name has several words, and images that are missing or whose headers cannot be read; an image is
    counted under the first that holds.

    Returns:
        The result of each split, under the data set's own name of it.

    Raises:
        UserError: files are missing or malformed, too many images are unreadable (see
            ``are_too_many``), or there are no instances to filter by.
    """
    kept = _kept_results(datasets_dir, dataset)
    if kept is not None:
        logger.info(
            "%s is of the same files: nothing is filtered anew (remove it to do so)",
            filter_file(datasets_dir, dataset),
        )
        return kept
    results, sources = {}, {}
    for part in SPLITS:
        split = load_split(datasets_dir, part, with_instances=True, dataset=dataset)
        name = split.name
        if split.instances is None:
            raise UserError(_why_no_instances(split))
        sources[name] = _source_identity(split)
        causes = _causes(split.instances, *_looks(split))
        dropped = {
            cause: split.image_ids[causes == position].tolist()
            for position, cause in enumerate((*CAUSES, UNREADABLE))
        }
        if not dropped[UNREADABLE]:
            del dropped[UNREADABLE]
        results[name] = FilterResult(len(split.image_ids), dropped)
    write_json(
        filter_file(datasets_dir, dataset),
        {
            "version": FORMAT_VERSION,
            "splits": {
                name: {
                    "source": sources[name],
                    "images": result.images,
                    "kept": result.kept,
                    "dropped": result.dropped,
                }
                for name, result in results.items()
            },
        },
    )
    return results


def _kept_results(datasets_dir: Path, dataset: str) -> dict[str, FilterResult] | None:
    """Return the kept results of both splits; None unless they are whole and of the same source."""
    path = filter_file(datasets_dir, dataset)
    if not path.is_file():
        return None
    results = {}
    for part in SPLITS:
        split = load_split(datasets_dir, part, dataset=dataset)
        try:
            stored = _read_result(path, split.name)
        except UserError:
            return None
        if stored["source"] != _source_identity(split):
            return None
        results[split.name] = FilterResult(len(split.image_ids), stored["dropped"])
    return results


def load_filtered_split(
    datasets_dir: Path,
    part: str,
    *,
    use_all_images: bool,
    with_instances: bool = False,
    dataset: str = COCO,
) -> tuple[Split, bool]:
    """Load a split without the images that setup filtered out, and say whether it was filtered.

    Without a filter result, or with ``use_all_images``, the split comes whole.

    Args:
        datasets_dir: The folder of all data sets.
        part: One of ``datasets_src.coco.SPLITS``, whatever the data set itself calls it.
        use_all_images: Whether to leave the filter aside.
        with_instances: Whether to read the instances.
        dataset: Name of the data set.

    Raises:
        UserError: the data is missing or malformed, or the filter result is of other data.
    """
    split = load_split(datasets_dir, part, with_instances=with_instances, dataset=dataset)
    name = split.name
    path = filter_file(datasets_dir, dataset)
    if use_all_images:
        logger.info("%s: all %d images are used, as asked for", name, len(split.image_ids))
        return split, False
    if not path.is_file():
        logger.info(
            "%s: all %d images are used (setup has not filtered this data)",
            name,
            len(split.image_ids),
        )
        return split, False
    stored = _read_result(path, name)
    if stored["source"] != _source_identity(split):
        raise UserError(
            f"{path} was made from other files than those of {name} now in "
            f"{dataset_folder(datasets_dir, dataset)}; run setup again (--utility "
            "filter_unwanted_coco_images) or give --use_all_images"
        )
    dropped = np.array([i for ids in stored["dropped"].values() for i in ids], dtype=np.int64)
    filtered = split.keep(~np.isin(split.image_ids, dropped))
    logger.info(
        "%s: %d of %d images are used, as setup filtered them",
        name,
        len(filtered.image_ids),
        len(split.image_ids),
    )
    return filtered, True


def _causes(
    instances: Instances, is_grayscale: np.ndarray, is_unreadable: np.ndarray
) -> np.ndarray:
    """Return for each image the index of the first cause to drop it, (N,) int64; -1 for none."""
    counts = instances.counts(len(is_grayscale))  # (N, K)
    holds = np.stack(
        [
            counts.sum(axis=1) == 0,
            is_grayscale,
            counts[:, ~instances.is_single_word()].sum(axis=1) > 0,
            is_unreadable,
        ],
        axis=1,
    )  # (N, causes)
    return np.where(holds.any(axis=1), holds.argmax(axis=1), -1)


def _looks(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return which images decode to one channel and which are unreadable, from headers alone.

    Returns:
        (N,) bool each.

    Raises:
        UserError: too many are unreadable, or all.
    """
    from PIL import Image

    images = range(len(split.image_ids))
    grayscale, unreadable = np.zeros((2, len(images)), dtype=bool)
    for index in with_bar(images, split.name, "image"):
        try:
            mode = read_mode(split.path(index))
        except UserError as error:
            unreadable[index] = True
            logger.warning("left out: %s", error)
            bad = int(unreadable.sum())
            if are_too_many(bad, len(images)) or bad == len(images):
                raise UserError(
                    f"{bad} of {len(images)} images of {split.name} cannot be read; the last: "
                    f"{error}"
                ) from None
            continue
        # a palette's one channel holds colours
        grayscale[index] = Image.getmodebands(mode) == 1 and mode != "P"
    return grayscale, unreadable


def _why_no_instances(split: Split) -> str:
    """Say where a split's instances were looked for in vain."""
    absent = [path for path in split.instance_files if not path.exists()]
    if absent:
        return (
            f"no {absent[0]}, so that there are no instances to filter by; put it there (a data "
            "set of captions alone needs no setup)"
        )
    if not len(split.image_ids):
        return f"{' and '.join(map(str, split.caption_files))} list no image of {split.name}"
    first = split.instance_files[0]
    return (
        f"{first if len(split.instance_files) == 1 else first.parent} lists no instance in the "
        f"images of {split.name}, so all would be dropped; a data set of captions alone needs no "
        "setup"
    )


def _source_identity(split: Split) -> dict[str, str]:
    """Return what ties a filter result to its source: hashes of the annotations and the images.

    Captions, and instances that stand in one file, count by the files' content. Images, and
    instances in files of each image (Flickr30k Entities), are too many to be read whenever a split
    is loaded: they count by their names and sizes in bytes, so that a change within a file that
    keeps its size is not noticed. Files of images that the captions do not list do not matter.
    """
    instance_files = split.instance_files
    images = range(len(split.image_ids))
    return {
        "captions": _hash_of_files(split.caption_files),
        "instances": _hash_of_files(instance_files)
        if len(instance_files) == 1
        else _hash_of_sizes([path.name for path in instance_files], instance_files),
        "images": _hash_of_sizes(split.file_names, map(split.path, images)),
    }


def _hash_of_files(paths: Sequence[Path]) -> str:
    """Return a hash of the contents of some files; of one file, that file's own."""
    hashes = [sha256_of_file(path) if path.is_file() else "absent" for path in paths]
    if len(paths) == 1:
        return hashes[0]
    listing = "\n".join(
        f"{path.name}\t{content}" for path, content in zip(paths, hashes, strict=True)
    )
    return hashlib.sha256(listing.encode()).hexdigest()


def _hash_of_sizes(names: Iterable[str], paths: Iterable[Path]) -> str:
    """Return a hash of the names given to some files and of their sizes in bytes."""
    sizes = ("absent" if (size := file_size(path)) is None else size for path in paths)
    listing = "\n".join(f"{name}\t{size}" for name, size in zip(names, sizes, strict=True))
    return hashlib.sha256(listing.encode()).hexdigest()


def _read_result(path: Path, name: str) -> dict[str, Any]:
    """Return what the filter file holds for a split."""
    try:
        content = parse_json(read_text(path, "the filter result"))
        stored: dict[str, Any] = content["splits"][name]
        is_complete = "source" in stored and set(stored["dropped"]) - {UNREADABLE} == set(CAUSES)
        dropped = [image_id for ids in stored["dropped"].values() for image_id in ids]
        if (
            content["version"] != FORMAT_VERSION
            or not is_complete
            or not all(type(image_id) is int for image_id in dropped)
        ):
            raise KeyError("version")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path} holds no filter result of {name} in this version's form; run setup again "
            "(--utility filter_unwanted_coco_images)"
        ) from None
    return stored
