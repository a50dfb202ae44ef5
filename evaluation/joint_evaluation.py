"""Evaluation of a joint model with every metric of its words, or of its images."""

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets_src.norms import load_norms
from datasets_src.splits import Split
from evaluation import inputs
from evaluation.image_evaluation import caption_bits, image_metrics, predict_images
from evaluation.metrics_table import INSTANCE_SECTIONS
from evaluation.results import save_results
from evaluation.sentence_image_matching import matching_outcomes, matching_scores
from evaluation.word_evaluation import predict_words, word_metrics, words_to_clusters
from models_src.distributed import joined_ranks, rank


def text_evaluation(options: argparse.Namespace) -> None:
    """Score a model's word clusters with every word metric."""
    encoder, settings = inputs.load_text_half(options)
    norms = load_norms(options.datasets_dir, options.word_list)
    vocabulary, data = inputs.training_vocabulary(options, settings, norms)
    seed = inputs.chance_seed(options, settings)
    predictions = predict_words(encoder, vocabulary)
    metrics = word_metrics(predictions, norms, settings["text_threshold"], seed)
    save_results(options, metrics, settings | {"evaluation_seed": seed}, data, norms.absent)


def visual_evaluation(options: argparse.Namespace) -> None:
    """Score a model's image clusters with every image metric, on the test split.

    Started by torchrun, several processes share the images, and the first one writes.
    """
    with joined_ranks(inputs.choose_device(options.device)):
        model = inputs.load_both_halves(options)
        split = inputs.test_split(options)
        absent = inputs.unmeasured_on_images(split, options.datasets_dir)
        seed = inputs.chance_seed(options, model.recorded_settings)
        found = evaluate_images(model, split, seed)
        if rank() == 0:
            save_results(
                options,
                found.metrics,
                model.recorded_settings | {"evaluation_seed": seed},
                inputs.image_data(split, found.split),
                absent,
                by_image=found.by_image,
            )


@dataclass(frozen=True)
class ImageEvaluation:
    """What a model makes of the images of a split."""

    split: Split  # without missing and unreadable images
    metrics: dict[str, Any]
    by_image: dict[str, np.ndarray]  # what metrics are sums of, see ``save_results``
    logits: np.ndarray  # (N, C) float32


def evaluate_images(model: inputs.Model, split: Split, seed: int) -> ImageEvaluation:
    """Score a model on the images of a split, at least one, and on the first caption of each.

    Without instances, the metrics of classes, boxes and heatmaps are None. ``seed`` is that of
    random boxes and points.
    """
    predictions, split = predict_images(model.visual, split)
    metrics: dict[str, Any] = dict.fromkeys(INSTANCE_SECTIONS)
    counts: dict[str, np.ndarray] = {}
    if split.instances is not None:
        cluster_of_class, _ = words_to_clusters(model.text, split.instances.class_names)
        metrics, counts = image_metrics(predictions, split, cluster_of_class, seed)

    first = split.first_captions()
    captioned = np.flatnonzero(first >= 0)
    texts = [split.captions[caption] for caption in first[captioned]]
    bits = caption_bits(model.text, texts, model.text_threshold)
    outcomes = matching_outcomes(predictions.bits[captioned], bits)
    metrics["sentence_image_matching"] = matching_scores(outcomes)
    metrics["activation"] = {
        "clusters_per_image": float(predictions.bits.sum(axis=1).mean()),
        "clusters_per_caption": float(bits.sum(axis=1).mean()) if len(bits) else None,
    }
    by_image = {
        "image_ids": split.image_ids,
        **counts,
        "matching_image_ids": split.image_ids[captioned][: outcomes.size].reshape(-1, 2),
        "sentence_image_matching": outcomes,
    }
    return ImageEvaluation(split, metrics, by_image, predictions.logits)
