"""Evaluation of a joint model with every metric of its words, or of its images."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.utilities.common import (
    Model,
    choose_device,
    finish,
    load_both_halves,
    test_split,
    training_pairs,
)

if TYPE_CHECKING:
    from datasets_src.coco import Split

logger = logging.getLogger(__name__)


def text_evaluation(options: argparse.Namespace) -> None:
    """Score a model's word clusters with every word metric."""
    from datasets_src.norms import load_norms
    from evaluation.word_evaluation import predict_words, word_metrics
    from models_src.model_files import load_text_model

    device = choose_device(options.device)
    text, settings, origin = load_text_model(options.models_dir, options.model_name, device)
    norms = load_norms(options.datasets_dir, options.word_list)
    pairs = training_pairs(options)
    threshold = options.given.get("text_threshold", settings.text_threshold)
    metrics = word_metrics(predict_words(text, pairs.vocabulary), norms, threshold, options.seed)
    finish(
        options,
        metrics,
        {
            **settings.as_dict(),
            "text_threshold": threshold,
            "evaluation_seed": options.seed,
            "origin": vars(origin),
        },
        {
            "train_images": len(pairs.split.image_ids),
            "train_captions": len(pairs),
            "filtered": pairs.filtered,
        },
        norms.absent,
    )


def visual_evaluation(options: argparse.Namespace) -> None:
    """Score a model's image clusters with every image metric, on the test split."""
    model = load_both_halves(options)
    split, filtered = test_split(options)
    absent = unmeasured_on_images(split, options.datasets_dir)
    finish(
        options,
        evaluate_images(model, split, options.seed),
        model.recorded_settings | {"evaluation_seed": options.seed},
        {"test_images": len(split.image_ids), "filtered": filtered},
        absent,
    )


def unmeasured_on_images(split: "Split", datasets_dir: Path) -> dict[str, str]:
    """Return the metrics that a split has no data for, each with the reason, and log it."""
    from evaluation.image_evaluation import INSTANCE_METRICS

    if split.instances is not None:
        return {}
    reason = f"no instances of {split.name} in {datasets_dir}"
    logger.info("classes, boxes and heatmaps are not measured: %s", reason)
    return dict.fromkeys(INSTANCE_METRICS, reason)


def evaluate_images(model: Model, split: "Split", seed: int) -> dict[str, Any]:
    """Score a model on the images of a split, and on the first caption of each.

    Args:
        model: Both halves.
        split: N images, at least one; without instances, the metrics of classes, boxes and
            heatmaps are None.
        seed: Of the random boxes and points.

    Raises:
        UserError: an image is unreadable.
    """
    import numpy as np

    from datasets_src.captions import encode_captions
    from evaluation.image_evaluation import caption_bits, image_metrics, predict_images
    from evaluation.sentence_image_matching import matching_scores
    from evaluation.word_evaluation import words_to_clusters

    predictions = predict_images(model.visual, split)
    cluster_of_class = None
    if split.instances is not None:
        cluster_of_class, _ = words_to_clusters(model.text, split.instances.class_names)
    metrics = image_metrics(predictions, split, cluster_of_class, seed)

    first = split.first_captions()
    captioned = np.flatnonzero(first >= 0)
    texts = [split.captions[caption] for caption in first[captioned]]
    tokens = encode_captions(texts, model.text.words).padded(np.arange(len(texts)))
    bits = caption_bits(model.text, tokens, model.text_threshold, model.visual.device)
    metrics["sentence_image_matching"] = matching_scores(predictions.bits[captioned], bits)
    metrics["activation"] = {
        "clusters_per_image": float(predictions.bits.sum(axis=1).mean()),
        "clusters_per_caption": float(bits.sum(axis=1).mean()) if len(bits) else None,
    }
    return metrics
