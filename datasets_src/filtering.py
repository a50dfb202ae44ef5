"""Setup's filter: which images of COCO the published system leaves out, and why."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets_src.coco import SPLITS, Split, annotation_file, load_split
from utils.errors import UserError
from utils.files import read_text, sha256_of_file, write_json

FILTER_FILE = "filtered_images.json"
FORMAT_VERSION = 1
# in the order of counting: an image is counted under the first cause that holds
CAUSES = ("no_instances", "grayscale", "multi_word_category")

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


def filter_images(datasets_dir: Path, show_progress: bool = False) -> dict[str, FilterResult]:
    """Filter both splits and keep the result in ``datasets_dir``.

    Dropped are images without instances, one-channel images, and images that show a category
    whose name has several words; an image is counted under the first that holds.

    Raises:
        UserError: COCO files are missing or malformed, or have no instances to filter by.
    """
    results, sources = {}, {}
    for name in SPLITS:
        if annotation_file(datasets_dir, "instances", name) is None:
            raise UserError(
                f"no instances_{name}.json in {datasets_dir / 'COCO' / 'annotations'}; download "
                "COCO's 2014 annotations (a data set of captions alone needs no setup)"
            )
        split = load_split(datasets_dir, name, with_instances=True)
        if split.instances is None:
            raise UserError(
                f"instances_{name}.json in {datasets_dir} lists no instance, so all images would "
                "be dropped; a data set of captions alone needs no setup"
            )
        sources[name] = _source_identity(datasets_dir, split)
        causes = _causes(split, _is_grayscale(split, show_progress))
        results[name] = FilterResult(
            images=len(split.image_ids),
            dropped={
                cause: split.image_ids[causes == position].tolist()
                for position, cause in enumerate(CAUSES)
            },
        )
    write_json(
        datasets_dir / FILTER_FILE,
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


def load_filtered_split(
    datasets_dir: Path, name: str, *, use_all_images: bool, with_instances: bool = False
) -> tuple[Split, bool]:
    """Load a split without the images that setup filtered out, and say whether it was filtered.

    Without a filter result, or with ``use_all_images``, the split comes whole.

    Raises:
        UserError: the data is missing or malformed, or the filter result is of other data.
    """
    split = load_split(datasets_dir, name, with_instances=with_instances)
    path = datasets_dir / FILTER_FILE
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
    if stored["source"] != _source_identity(datasets_dir, split):
        raise UserError(
            f"{path} was made from other files than those of {name} now in {datasets_dir}; run "
            "setup again (--utility filter_unwanted_coco_images) or give --use_all_images"
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


def _causes(split: Split, is_grayscale: np.ndarray) -> np.ndarray:
    """Return for each image the index of the first cause to drop it, (N,) int64; -1 for none."""
    counts = split.instances.counts(len(split.image_ids))  # (N, K)
    holds = np.stack(
        [
            counts.sum(axis=1) == 0,
            is_grayscale,
            counts[:, ~split.instances.is_single_word()].sum(axis=1) > 0,
        ],
        axis=1,
    )  # (N, causes)
    return np.where(holds.any(axis=1), holds.argmax(axis=1), -1)


def _is_grayscale(split: Split, show_progress: bool) -> np.ndarray:
    """Return which images decode to one channel, (N,) bool, from the files' headers alone."""
    from PIL import Image
    from tqdm import tqdm

    grayscale = np.zeros(len(split.image_ids), dtype=bool)
    images = range(len(grayscale))
    for index in tqdm(
        images, desc=split.name, unit="image", disable=None if show_progress else True
    ):
        path = split.path(index)
        try:
            with Image.open(path) as image:  # reads the header
                # a palette's one channel holds colours
                grayscale[index] = len(image.getbands()) == 1 and image.mode != "P"
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"cannot read image {path}: {reason}; replace it") from None
    return grayscale


def _source_identity(datasets_dir: Path, split: Split) -> dict[str, str]:
    """Return what ties a filter result to its source: hashes of the annotations and the images.

    The images' hash is over the names and sizes in bytes of those that the annotations list,
    which is fast for full COCO; other files in the folder do not matter.
    """
    identity = {}
    for kind in ("captions", "instances"):
        path = annotation_file(datasets_dir, kind, split.name)
        identity[kind] = sha256_of_file(path) if path is not None else "absent"
    sizes = (split.path(image).stat().st_size for image in range(len(split.image_ids)))
    listing = "\n".join(
        f"{name}\t{size}" for name, size in zip(split.file_names, sizes, strict=True)
    )
    identity["images"] = hashlib.sha256(listing.encode()).hexdigest()
    return identity


def _read_result(path: Path, name: str) -> dict[str, Any]:
    """Return what the filter file holds for a split."""
    try:
        content = json.loads(read_text(path, "the filter result"))
        stored = content["splits"][name]
        is_complete = "source" in stored and set(stored["dropped"]) == set(CAUSES)
        dropped = [image_id for ids in stored["dropped"].values() for image_id in ids]
        if (
            content["version"] != FORMAT_VERSION
            or not is_complete
            or not all(type(image_id) is int for image_id in dropped)
        ):
            raise KeyError("version")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path} is no filter result of this version; run setup again (--utility "
            "filter_unwanted_coco_images)"
        ) from None
    return stored
