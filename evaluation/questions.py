"""Answers to a user's own questions: what a model makes of clusters, images and captions."""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from datasets_src.captions import LONGEST_CAPTION, tokenize
from datasets_src.images import ImageFiles
from evaluation import inputs
from evaluation.cluster_tables import (
    class_names_by_cluster,
    cluster_rows,
    format_cluster_rows,
    living_clusters,
)
from evaluation.image_evaluation import caption_bits, image_logits
from evaluation.results import save_results
from evaluation.word_evaluation import NO_CLUSTER, predict_words, words_to_clusters
from utils.errors import UserError

logger = logging.getLogger(__name__)


def describe_clusters(options: argparse.Namespace) -> None:
    """Describe every cluster by its words, class names and example images, as a table and JSON."""
    model = inputs.load_both_halves(options)
    vocabulary, data = inputs.training_vocabulary(options, model.recorded_settings)
    split = inputs.test_split(options)
    not_measured = {}
    if split.instances is None:
        not_measured["class_names"] = f"no instances of {split.name}"
        logger.info("clusters have no class names: there are no instances of %s", split.name)
    left_out: list[int] = []
    logits = image_logits(model.visual, split, len(split.image_ids), left_out)
    used = split.without(left_out)
    rows = cluster_rows(
        predict_words(model.text, vocabulary),
        class_names_by_cluster(model.text, inputs.single_word_classes(split)),
        logits,
        [used.path(image) for image in range(len(logits))],
        text_threshold=model.text_threshold,
        visual_threshold=model.visual.threshold,
        image_count=options.num_items,
    )
    alive = living_clusters(rows)
    with_words = [row for row in alive if row["word_count"]]
    if with_words:
        logger.info("%s", format_cluster_rows(with_words))
    logger.info("%d of %d clusters have no words", len(rows) - len(with_words), len(rows))
    save_results(
        options,
        {
            "clusters": len(rows),
            "clusters_with_words": len(with_words),
            "clusters_with_test_images": sum(row["test_image_count"] > 0 for row in rows),
            "clusters_with_either": len(alive),
        },
        model.recorded_settings,
        data | inputs.image_data(split, used),
        not_measured,
        extra={"clusters": rows},
    )


def predict(options: argparse.Namespace) -> None:
    """Print which clusters given images and captions activate, one JSON object a line.

    All are predicted before the first line, so that a mistake leaves no half answer.
    """
    images, captions = options.images, options.captions
    if images is None and captions is None:
        raise UserError("predict needs --images FILE ... or --captions TEXT ...; give one or both")
    if images is not None and captions is not None:
        inputs.load_both_halves(options)  # sees that they belong together
    answers = []
    if images is not None:
        model, _ = inputs.load_visual_half(options)
        source = ImageFiles(tuple(map(Path, images)))
        bits = image_logits(model, source, len(images)) >= model.threshold  # (B, C)
        answers += [
            {"image": image, **_activated(row)} for image, row in zip(images, bits, strict=True)
        ]
    if captions is not None:
        answers += _caption_answers(options)
    for answer in answers:
        logger.info("%s", json.dumps(answer, ensure_ascii=False))


def _caption_answers(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return what to print for each caption, with its words that the encoder does not know."""
    captions = options.captions
    longest = max(map(len, captions))
    if longest > LONGEST_CAPTION:
        raise UserError(
            f"a caption has {longest} characters; give captions of at most {LONGEST_CAPTION}"
        )
    text, settings = inputs.load_text_half(options)
    bits = caption_bits(text, captions, settings["text_threshold"])  # (B, C)
    tokenized = list(tokenize(captions))
    spoken = list(dict.fromkeys(word for words in tokenized for word in words))
    clusters, _ = words_to_clusters(text, spoken)
    unknown = {word for word, at in zip(spoken, clusters, strict=True) if at == NO_CLUSTER}
    return [
        {
            "caption": caption,
            **_activated(row),
            "unknown_words": [word for word in dict.fromkeys(words) if word in unknown],
        }
        for caption, words, row in zip(captions, tokenized, bits, strict=True)
    ]


def _activated(bits: np.ndarray) -> dict[str, list[int]]:
    """Return one input's bits (C,), and the clusters that are on."""
    return {"clusters": bits.nonzero()[0].tolist(), "bits": bits.astype(int).tolist()}
