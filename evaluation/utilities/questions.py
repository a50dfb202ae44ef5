"""Answers to a user's own questions: what a model makes of clusters, images and captions."""

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.utilities.common import (
    choose_device,
    finish,
    image_data,
    load_both_halves,
    no_instances,
    require_same_captions,
    single_word_classes,
    test_split,
    training_data,
    training_pairs,
)
from utils.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from evaluation.image_evaluation import VisualModel
    from models_src.text_encoders.interface import TextEncoder

logger = logging.getLogger(__name__)


def describe_clusters(options: argparse.Namespace) -> None:
    """Describe every cluster by its words, class names and example images, as a table and JSON."""
    from evaluation.cluster_tables import (
        class_names_by_cluster,
        cluster_rows,
        format_cluster_rows,
        living_clusters,
    )
    from evaluation.image_evaluation import image_logits
    from evaluation.word_evaluation import predict_words, words_to_clusters

    model = load_both_halves(options)
    pairs = training_pairs(options)
    require_same_captions(options, model.recorded_settings["origin"]["data_fingerprint"], pairs)
    split, filtered = test_split(options)
    not_measured = {}
    if split.instances is None:
        reason = no_instances(split, options.datasets_dir)
        not_measured["class_names"] = reason
        logger.info("clusters have no class names: %s", reason)
    left_out: list[int] = []
    logits = image_logits(model.visual, split, len(split.image_ids), left_out)
    used = split.without(left_out)
    names = single_word_classes(split)
    cluster_num = model.visual.encoder.cluster_num
    rows = cluster_rows(
        predict_words(model.text, pairs.vocabulary),
        class_names_by_cluster(names, words_to_clusters(model.text, names)[0], cluster_num),
        logits,
        [used.path(image) for image in range(len(used.image_ids))],
        text_threshold=model.text_threshold,
        visual_threshold=model.visual.threshold,
        image_count=options.num_items,
    )
    alive = living_clusters(rows)
    logger.info("%s", format_cluster_rows(alive))
    finish(
        options,
        {
            "clusters": len(rows),
            "clusters_with_words": sum(row["word_count"] > 0 for row in rows),
            "clusters_with_test_images": sum(row["test_image_count"] > 0 for row in rows),
            "clusters_with_either": len(alive),
        },
        model.recorded_settings,
        {**training_data(pairs), **image_data(split, used, filtered)},
        not_measured,
        extra={"clusters": rows},
    )


def predict(options: argparse.Namespace) -> None:
    """Print which clusters given images and captions activate, one JSON object a line.

    All are predicted before the first line, so that a mistake leaves no half answer.

    Raises:
        UserError: neither is given, an image is unreadable, or the model's half is missing.
    """
    if options.images is None and options.captions is None:
        raise UserError("predict needs --images FILE ... or --captions TEXT ...; give one or both")
    visual, text, text_threshold = _needed_halves(options)
    answers = []
    if visual is not None:
        answers += _image_answers(visual, options.images)
    if text is not None:
        answers += _caption_answers(text, text_threshold, options.captions, options.device)
    for answer in answers:
        logger.info("%s", json.dumps(answer))  # in ASCII: any terminal and pipe can take it


def _needed_halves(
    options: argparse.Namespace,
) -> tuple["VisualModel | None", "TextEncoder | None", float]:
    """Load the visual half for images, the text half for captions; None for what is not asked."""
    if options.images is not None and options.captions is not None:
        model = load_both_halves(options)
        return model.visual, model.text, model.text_threshold

    from evaluation.image_evaluation import VisualModel
    from models_src.model_files import load_text_model, load_visual_model

    device = choose_device(options.device)
    given = options.given
    if options.captions is not None:
        text, settings, _ = load_text_model(options.models_dir, options.model_name, device)
        return None, text, given.get("text_threshold", settings.text_threshold)
    encoder, settings, _ = load_visual_model(options.models_dir, options.model_name, device)
    visual = VisualModel(
        encoder,
        given.get("visual_threshold", settings.visual_threshold),
        settings.image_size,
        given.get("batch_size", settings.batch_size),
        options.workers,
        device,
    )
    return visual, None, settings.text_threshold


def _image_answers(model: "VisualModel", images: list[str]) -> list[dict[str, Any]]:
    """Return what to print for each image file."""
    from datasets_src.images import ImageFiles
    from evaluation.image_evaluation import image_logits

    source = ImageFiles(tuple(map(Path, images)))
    bits = image_logits(model, source, len(images)) >= model.threshold  # (B, C)
    return [{"image": image, **_activated(row)} for image, row in zip(images, bits, strict=True)]


def _caption_answers(
    encoder: "TextEncoder", threshold: float, captions: list[str], device: str
) -> list[dict[str, Any]]:
    """Return what to print for each caption, with its words that the encoder does not know."""
    import numpy as np

    from datasets_src.captions import LONGEST_CAPTION, encode_captions, tokenize
    from evaluation.image_evaluation import caption_bits
    from evaluation.word_evaluation import NO_CLUSTER, words_to_clusters

    longest = max(map(len, captions))
    if longest > LONGEST_CAPTION:
        raise UserError(
            f"a caption has {longest} characters; give captions of at most {LONGEST_CAPTION}"
        )
    tokens = encode_captions(captions, encoder.words).padded(np.arange(len(captions)))
    bits = caption_bits(encoder, tokens, threshold, choose_device(device))  # (B, C)
    captions_words = [list(dict.fromkeys(words)) for words in tokenize(captions)]
    distinct = list(dict.fromkeys(word for words in captions_words for word in words))
    clusters, _ = words_to_clusters(encoder, distinct)
    unknown = {word for word, at in zip(distinct, clusters, strict=True) if at == NO_CLUSTER}
    return [
        {
            "caption": caption,
            **_activated(row),
            "unknown_words": [word for word in words if word in unknown],
        }
        for caption, words, row in zip(captions, captions_words, bits, strict=True)
    ]


def _activated(bits: "np.ndarray") -> dict[str, list[int]]:
    """Return one input's bits (C,), and the clusters that are on."""
    return {"clusters": bits.nonzero()[0].tolist(), "bits": bits.astype(int).tolist()}
