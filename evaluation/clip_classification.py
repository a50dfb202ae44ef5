"""Zero-shot classification of images by CLIP, and the threshold that it needs."""

import argparse
import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_curve

from datasets_src.splits import Split
from evaluation import inputs
from evaluation.classification import classification_counts, classification_scores
from evaluation.results import results_file, save_results
from models_src.baselines.bert_and_clip import CLIP, PROMPT, clip_similarities
from utils.errors import UserError
from utils.files import read_json, reading, sha256_of_file

# Berger et al. 2022 found it on COCO's training images, with CLIP's RN50
PUBLISHED_THRESHOLD = 0.19031381607055664

logger = logging.getLogger(__name__)


def find_clip_positive_threshold(options: argparse.Namespace) -> None:
    """Find the similarity of best f1 over all pairs of a training image and a class name."""
    split = inputs.training_split(options)
    gold, similarities = _gold_and_similarities(options, split)  # (N, K), (N, K)
    best = best_f1_threshold(similarities, gold)
    data = {
        "train_images": len(split.image_ids),
        "train_images_fingerprint": split.fingerprint(),
        "filtered": split.filtered,
    }
    metrics = {"clip_positive_threshold": best | {"pair_count": gold.size}}
    save_results(options, metrics, _settings(options), data)
    logger.info(
        "for comparison: the published threshold is %.4f, of CLIP's RN50 on COCO",
        PUBLISHED_THRESHOLD,
    )


def clip_classification_evaluation(options: argparse.Namespace) -> None:
    """Predict each test image to show the classes whose names CLIP finds similar enough to it."""
    split = inputs.test_split(options)
    settings = _settings(options)
    path = results_file(options.results_dir, "find_clip_positive_threshold", options.model_name)
    if options.clip_threshold is not None:
        threshold, source = options.clip_threshold, "--clip_threshold"
    elif path.is_file():
        threshold, source = _stored_threshold(path, settings, split.filtered), path.name
    else:
        threshold, source = PUBLISHED_THRESHOLD, "published, of CLIP RN50 on COCO"
        logger.info(
            "there is no %s, so the published threshold %.4f is used; it belongs to another CLIP "
            "model, RN50, on COCO: run --utility find_clip_positive_threshold for one of this "
            "model",
            path,
            PUBLISHED_THRESHOLD,
        )
    gold, similarities = _gold_and_similarities(options, split)  # (N, K), (N, K)
    # a plain float would be rounded to the similarities' float32 first
    counts = classification_counts(similarities >= np.float64(threshold), gold)
    save_results(
        options,
        {"class_name_classification": classification_scores(counts, gold.shape[1])},
        {**settings, "clip_threshold": threshold, "threshold_source": source},
        inputs.image_data(split, split),
        by_image={"image_ids": split.image_ids, "class_name_classification": counts},
    )


def best_f1_threshold(scores: np.ndarray, gold: np.ndarray) -> dict[str, float]:
    """Find the ``threshold`` of the best f1 among all scores, the highest of equally good ones.

    ``gold``, bool of the same shape, says which are of positives, at least one. Beside the
    threshold stand ``f1``, ``precision`` and ``recall`` of predicting ``score >= threshold``.
    """
    precision, recall, thresholds = precision_recall_curve(gold.ravel(), scores.ravel())  # rising
    total = precision + recall
    f1 = 2 * precision * recall / np.where(total > 0, total, 1)
    best = int(np.flatnonzero(f1 > f1.max() - 1e-12)[-1])  # equal but for rounding
    curves = {"threshold": thresholds, "f1": f1, "precision": precision, "recall": recall}
    return {name: float(values[best]) for name, values in curves.items()}


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return what similarities depend on beside the images; the model is told by its contents."""
    folder = CLIP.folder(options.clip_dir, options.datasets_dir)
    # weights, and all settings and vocabularies of network, tokenizer and image processor
    patterns = ("model.safetensors", "pytorch_model.bin", "*.json", "*.txt")
    files = sorted(path for pattern in patterns for path in folder.glob(pattern))
    contents = "".join(path.name + sha256_of_file(path) for path in files)
    return {
        "clip_dir": str(folder),
        "clip_sha256": hashlib.sha256(contents.encode()).hexdigest(),
        "prompt": PROMPT,
        "datasets_dir": str(options.datasets_dir.resolve()),
        "dataset": options.dataset,
    }


def _gold_and_similarities(
    options: argparse.Namespace, split: Split
) -> tuple[np.ndarray, np.ndarray]:
    """Return, for N images and K single-word classes, who shows what and CLIP's similarities."""
    instances, images = split.instances, split.images(size=0)  # CLIP resizes itself
    gold = np.zeros((len(images), 0), dtype=bool)
    if instances is not None:
        gold = instances.counts(len(images))[:, instances.is_single_word()] > 0
    if not gold.any():
        raise UserError(
            f"no image of {split.name} in {options.datasets_dir} has an instance of a class whose "
            f"name is one word, which {options.utility} needs; add its instances"
        )
    return gold, clip_similarities(
        CLIP.folder(options.clip_dir, options.datasets_dir),
        images,
        inputs.single_word_classes(split),
        batch_size=options.batch_size,
        workers=options.workers,
        device=inputs.choose_device(options.device),
    )


def _stored_threshold(path: Path, settings: dict[str, Any], filtered: bool) -> float:
    """Return the threshold in a results file, if it was found with the same model and data."""
    advice = "run --utility find_clip_positive_threshold again, or give --clip_threshold"
    content = read_json(path, advice)
    with reading(path, advice):
        threshold = float(content["metrics"]["clip_positive_threshold"]["threshold"])
        found_with = {**content["settings"], "filtered": content["data"]["filtered"]}
    needed = {**settings, "filtered": filtered}
    for name in ("clip_sha256", "prompt", "dataset", "filtered"):
        if found_with.get(name) != needed[name]:
            raise UserError(
                f"{path} holds a threshold found with another {name} ({found_with.get(name)}, now "
                f"{needed[name]}); {advice}"
            )
    logger.info("threshold %.4f from %s", threshold, path)
    return threshold
