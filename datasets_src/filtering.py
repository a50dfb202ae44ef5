"""Setup's filter: which images of a data set the published system leaves out, and why."""

import argparse
import contextlib
import logging
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets_src.datasets import COCO, COCO_FOLDER, dataset_folder, load_split
from datasets_src.images import read_header
from datasets_src.loading import require_readable
from datasets_src.norms import load_norms
from datasets_src.splits import SPLITS, Split
from utils.errors import UserError
from utils.files import digest, read_json, reading, sha256_of_file, write_json
from utils.progress import with_bar

FILTER_FILE = "filtered_images.json"
FORMAT_VERSION = 1
# in the order of counting: an image is counted under the first cause that holds
CAUSES = ("no_instances", "grayscale", "multi_word_category")
UNREADABLE = "unreadable"  # a further cause, named in the result only where it holds
CACHE_FOLDER = Path("cache")  # beside main.py, where the data folder cannot be written

logger = logging.getLogger(__name__)


def filter_file(datasets_dir: Path, dataset: str, cache_dir: Path | None = None) -> Path:
    """Return where the filter's result of a data set is kept, there or not.

    COCO's stands in the datasets folder itself, any other in the data set's own. Where that folder
    cannot be written, or with ``--cache_dir``, it stands in a folder named after it.
    """
    folder = dataset_folder(datasets_dir, dataset)
    folder = datasets_dir if folder.name == COCO_FOLDER else folder
    path = folder / FILTER_FILE
    if cache_dir is None and (path.is_file() or os.access(folder, os.W_OK)):
        return path
    place = folder.resolve()
    name = f"{place.name}-{digest(str(place))[:8]}"
    return (cache_dir or CACHE_FOLDER) / name / FILTER_FILE


def filter_unwanted_coco_images(options: argparse.Namespace) -> None:
    """Filter both splits of a data set and keep the result."""
    place = (options.datasets_dir, options.dataset, options.cache_dir)
    for name, result in filter_images(*place).items():
        causes = ", ".join(
            f"{cause.replace('_', ' ')} {len(ids)}" for cause, ids in result["dropped"].items()
        )
        counts = f"{result['kept']} of {result['images']} images kept"
        logger.info("%s: %s; dropped: %s", name, counts, causes)
    logger.info("kept in %s", filter_file(*place))
    load_norms(options.datasets_dir)  # which says what is absent


def filter_images(
    datasets_dir: Path, dataset: str = COCO, cache_dir: Path | None = None
) -> dict[str, dict[str, Any]]:
    """Filter both splits of a data set and keep the result (see ``filter_file``).

    A kept result of the same source files is returned as it is. An image is counted under the first
    of ``CAUSES`` that holds; one that is missing or has no readable header is dropped, too. Returns
    for each split, under the data set's own name of it, the numbers of ``images`` and of those
    ``kept``, and the ids ``dropped`` by cause, ascending.
    """
    path = filter_file(datasets_dir, dataset, cache_dir)
    # captions alone first: they tell what the instances are compared with
    sources = {}
    for split in (load_split(datasets_dir, part, dataset=dataset) for part in SPLITS):
        images = _sizes((name, split.folder / name) for name in split.file_names.tolist())
        sources[split.name] = _source_identity(split) | {"images": images}
    results: dict[str, dict[str, Any]] = {}
    with contextlib.suppress(UserError):
        results = {name: _read_result(path, name) for name in sources}
    if sources == {name: result["source"] for name, result in results.items()}:
        logger.info("%s is of the same files: nothing is filtered anew (remove it to do so)", path)
        return results
    results = {}
    for part in SPLITS:
        split = load_split(datasets_dir, part, with_instances=True, dataset=dataset)
        dropped, count = _dropped(split), len(split.image_ids)
        counts = {"images": count, "kept": count - sum(map(len, dropped.values()))}
        results[split.name] = {"source": sources[split.name], **counts, "dropped": dropped}
    write_json(path, {"version": FORMAT_VERSION, "splits": results})
    return results


def load_filtered_split(
    datasets_dir: Path,
    part: str,
    *,
    use_all_images: bool,
    with_instances: bool = False,
    dataset: str = COCO,
    cache_dir: Path | None = None,
) -> Split:
    """Load a split without the images that setup filtered out.

    Without a filter result, or with ``use_all_images``, the split comes whole. A result of other
    captions, or of other instances where they are read, is refused.
    """
    split = load_split(datasets_dir, part, with_instances=with_instances, dataset=dataset)
    name, count = split.name, len(split.image_ids)
    path = filter_file(datasets_dir, dataset, cache_dir)
    if use_all_images or not path.is_file():
        reason = "as asked for" if use_all_images else f"setup has not filtered them in {path}"
        if not any(file.exists() for file in split.instance_files):
            reason = "without instances there is nothing to filter by"
        logger.info("%s: all %d images are used (%s)", name, count, reason)
        return split
    stored = _read_result(path, name)
    source = _source_identity(split, with_instances=with_instances)
    if source.items() - stored["source"].items():
        raise UserError(
            f"{path} was made from other files than those of {name} now in "
            f"{dataset_folder(datasets_dir, dataset)}; run setup again (--utility "
            "filter_unwanted_coco_images) or give --use_all_images"
        )
    dropped = [image_id for ids in stored["dropped"].values() for image_id in ids]
    split = replace(split.keep(~np.isin(split.image_ids, dropped)), filtered=True)
    kept = f"{len(split.image_ids)} of {count} images are used"
    logger.info("%s: %s, as setup filtered them (%s)", name, kept, path)
    return split


def _dropped(split: Split) -> dict[str, list[int]]:
    """Return the ids of the images to drop, by the first cause that holds."""
    instances, count = split.instances, len(split.image_ids)
    if instances is None:
        if not count:
            raise UserError(f"no image of {split.name} in {split.caption_files[-1]}; complete it")
        where = split.instance_files[0]
        where = where.parent if where.suffix == ".xml" else where  # one of many files
        raise UserError(
            f"no instance of the images of {split.name} in {where}, so that there is nothing to "
            "filter by; put the instances there (a data set of captions alone needs no setup)"
        )
    counts = instances.counts(count)  # (N, K)
    holds = np.zeros((count, len(CAUSES) + 1), dtype=bool)  # the last is UNREADABLE
    holds[:, 0] = counts.sum(axis=1) == 0
    holds[:, 2] = counts[:, ~instances.is_single_word()].sum(axis=1) > 0
    for image in with_bar(range(count), split.name, "image"):
        try:
            mode, _ = read_header(split.path(image))
            # with or without transparency; a palette's one channel holds colours
            holds[image, 1] = Image.getmodebase(mode) == "L"
        except UserError as error:
            holds[image, 3] = True
            logger.warning("left out: %s", error)
            require_readable(holds[:, 3].sum(), count, str(error))
    first = np.where(holds.any(axis=1), holds.argmax(axis=1), -1)  # (N,)
    causes = (*CAUSES, UNREADABLE) if (first == 3).any() else CAUSES
    return {cause: split.image_ids[first == number].tolist() for number, cause in enumerate(causes)}


def _source_identity(split: Split, *, with_instances: bool = True) -> dict[str, str]:
    """Return what ties a filter result to its source: hashes of captions and of instances.

    They are of the files' content. But the instances of Flickr30k Entities are a file an image,
    too many to be read: those count by their names and sizes in bytes.
    """
    files, hashes = split.instance_files, [sha256_of_file(path) for path in split.caption_files]
    named = zip(split.caption_files, hashes, strict=True)
    lines = "\n".join(f"{path.name}\t{content}" for path, content in named)
    identity = {"captions": hashes[0] if len(hashes) == 1 else digest(lines)}
    if with_instances and len(files) == 1:
        identity["instances"] = sha256_of_file(files[0]) if files[0].is_file() else "absent"
    elif with_instances:
        identity["instances"] = _sizes((path.name, path) for path in files)
    return identity


def _sizes(files: Iterable[tuple[str, Path]]) -> str:
    """Return a hash of the files' names and sizes in bytes."""
    lines = []
    for name, path in files:
        size: int | str = "absent"
        with contextlib.suppress(OSError, ValueError):
            size = path.stat().st_size
        lines.append(f"{name}\t{size}")
    return digest("\n".join(lines))


def _read_result(path: Path, name: str) -> dict[str, Any]:
    """Return what the filter file holds for a split."""
    hint = "run setup again (--utility filter_unwanted_coco_images)"
    content = read_json(path, hint)
    with reading(path, hint):
        stored: dict[str, Any] = content["splits"][name]
        types = {type(image_id) for ids in stored["dropped"].values() for image_id in ids}
        is_whole = set(stored["dropped"]) - {UNREADABLE} == set(CAUSES) and "source" in stored
        if content["version"] != FORMAT_VERSION or not is_whole or types - {int}:
            raise ValueError(f"no whole filter result of {name} in this version's form")
    return stored
