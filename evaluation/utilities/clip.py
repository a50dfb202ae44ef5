"""Zero-shot classification of images by CLIP, and the threshold that it needs."""

import argparse
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.utilities.common import (
    choose_device,
    finish,
    image_data,
    single_word_classes,
    test_split,
    training_split,
)
from utils.errors import UserError
from utils.files import parse_json, read_text, sha256_of_file

if TYPE_CHECKING:
    from datasets_src.splits import Split

# Berger et al. 2022 found it on COCO's training images, with CLIP's RN50
PUBLISHED_THRESHOLD = 0.19031381607055664
# what a threshold was found with must be what it is used with
SAME_FOR_THRESHOLD = {
    "clip_files_sha256": "CLIP model",
    "prompt": "prompt",
    "dataset": "data set",
    "data_files_sha256": "version or filter of the data set",
}
# annotations in all layouts of data sets, of both splits
ANNOTATION_PATTERNS = ("captions_*.json", "instances_*.json", "*.token", "train.txt", "test.txt")

logger = logging.getLogger(__name__)


def find_clip_positive_threshold(options: argparse.Namespace) -> None:
    """Find the similarity of best f1 over all pairs of a training image and a class name."""
    from evaluation.thresholds import best_f1_threshold

    folder = _clip_folder(options)
    split, filtered = training_split(options)
    gold = _gold_classes(options, split)  # (N, K)
    best = best_f1_threshold(_similarities(options, folder, split), gold)
    finish(
        options,
        {"clip_positive_threshold": {**vars(best), "pair_count": gold.size}},
        _settings(options, folder),
        {
            "train_images": len(split.image_ids),
            "train_images_fingerprint": split.fingerprint(),
            "filtered": filtered,
        },
        {},
    )
    logger.info(
        "for comparison: the published threshold is %.4f, of CLIP's RN50 on COCO",
        PUBLISHED_THRESHOLD,
    )


def clip_classification_evaluation(options: argparse.Namespace) -> None:
    """Predict each test image to show the classes whose names CLIP finds similar enough to it."""
    from evaluation.classification import classification_counts, classification_scores
    from evaluation.reports import write_by_image

    folder = _clip_folder(options)
    split, filtered = test_split(options)
    settings = _settings(options, folder)
    threshold, source = _threshold(options, settings)
    gold = _gold_classes(options, split)  # (N, K)
    # a plain float would be rounded to the similarities' float32 first
    predicted = _similarities(options, folder, split) >= np.float64(threshold)  # (N, K)
    counts = classification_counts(predicted, gold)
    write_by_image(
        options.results_dir,
        options.utility,
        options.model_name,
        {"image_ids": split.image_ids, "class_name_classification": counts},
    )
    finish(
        options,
        {"class_name_classification": classification_scores(counts, gold.shape[1])},
        {**settings, "clip_threshold": threshold, "threshold_source": source},
        image_data(split, split, filtered),
        {},
    )


def _clip_folder(options: argparse.Namespace) -> Path:
    """Return CLIP's folder, found complete before the data is read."""
    from models_src.baselines.clip import CLIP
    from models_src.baselines.transformers_models import require_folder

    folder = CLIP.folder(options.clip_dir, options.datasets_dir)
    require_folder(folder, CLIP)
    return folder


def _settings(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return what the similarities depend on, as it is recorded with results.

    Files are told by their contents, so that folders can be moved.
    """
    from models_src.baselines.clip import PROMPT
    from models_src.baselines.transformers_models import model_files

    return {
        "clip_dir": str(folder),
        "clip_files_sha256": _sha256_by_name(model_files(folder)),
        "prompt": PROMPT,
        "datasets_dir": str(options.datasets_dir.resolve()),
        "dataset": options.dataset,
        "data_files_sha256": _sha256_by_name(_data_files(options)),
    }


def _data_files(options: argparse.Namespace) -> list[Path]:
    """Return the files that tell one version of a data set from another, as far as they exist.

    They are the annotations of both splits, whichever is used, and the filter if it is in use; the
    boxes of Flickr30k Entities and the images are not among them.
    """
    from datasets_src.coco import ANNOTATION_FOLDERS
    from datasets_src.datasets import dataset_folder
    from datasets_src.filtering import filter_file

    folder = dataset_folder(options.datasets_dir, options.dataset)
    places = [folder, *(folder / name for name in ANNOTATION_FOLDERS)]
    files = [path for place in places for name in ANNOTATION_PATTERNS for path in place.glob(name)]
    if not options.use_all_images:
        files.append(filter_file(options.datasets_dir, options.dataset, options.cache_dir))
    return sorted(path for path in files if path.is_file())


def _sha256_by_name(paths: Sequence[Path]) -> dict[str, str]:
    """Return the hash of each file's contents by the file's name; of equal names, the first's."""
    return {path.name: sha256_of_file(path) for path in reversed(paths)}


def _gold_classes(options: argparse.Namespace, split: "Split") -> np.ndarray:
    """Return the single-word classes that each image of a split shows, (N, K) bool.

    Raises:
        UserError: no image shows any.
    """
    instances = split.instances
    gold = np.zeros((len(split.image_ids), 0), dtype=bool)
    if instances is not None:
        gold = instances.counts(len(split.image_ids))[:, instances.is_single_word()] > 0
    if not gold.any():
        raise UserError(
            f"no image of {split.name} in {options.datasets_dir} has an instance of a class whose "
            f"name is one word, which {options.utility} needs; add its instances"
        )
    return gold


def _similarities(options: argparse.Namespace, folder: Path, split: "Split") -> np.ndarray:
    """Return the similarity of each image and each single-word class name, (N, K) float32."""
    from models_src.baselines.clip import PROMPT, image_text_similarities

    return image_text_similarities(
        folder,
        [split.path(image) for image in range(len(split.image_ids))],
        [PROMPT.format(name) for name in single_word_classes(split)],
        batch_size=options.batch_size,
        workers=options.workers,
        device=choose_device(options.device),
    )


def _threshold(options: argparse.Namespace, settings: dict[str, Any]) -> tuple[float, str]:
    """Return the threshold and where it comes from: the option, a results file, or the paper.

    Args:
        options: All options.
        settings: What the similarities to be thresholded depend on.

    Raises:
        UserError: the results file is malformed, or of another model, data set or filter.
    """
    if options.clip_threshold is not None:
        return options.clip_threshold, "--clip_threshold"
    path = options.results_dir / f"find_clip_positive_threshold_{options.model_name}.json"
    if not path.is_file():
        logger.info(
            "there is no %s, so the published threshold %.4f is used; it belongs to another CLIP "
            "model, RN50, on COCO: run --utility find_clip_positive_threshold for one of this "
            "model",
            path,
            PUBLISHED_THRESHOLD,
        )
        return PUBLISHED_THRESHOLD, "published, of CLIP RN50 on COCO"
    threshold, found_with = _read_threshold(path)
    for name, meaning in SAME_FOR_THRESHOLD.items():
        if found_with.get(name) != settings[name]:
            raise UserError(
                f"{path} holds a threshold found with another {meaning}; run --utility "
                "find_clip_positive_threshold again, or give --clip_threshold"
            )
    logger.info("threshold %.4f from %s", threshold, path)
    return threshold, path.name


def _read_threshold(path: Path) -> tuple[float, dict[str, Any]]:
    """Return the threshold that a results file holds, and the settings it was found with."""
    try:
        content = parse_json(read_text(path, "the results of find_clip_positive_threshold"))
        threshold = content["metrics"]["clip_positive_threshold"]["threshold"]
        settings = content["settings"]
        if type(threshold) is not float or not math.isfinite(threshold):
            raise ValueError("threshold")
        if not isinstance(settings, dict):
            raise ValueError("settings")
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{path} holds no threshold; run --utility find_clip_positive_threshold again, or give "
            "--clip_threshold"
        ) from None
    return threshold, settings
