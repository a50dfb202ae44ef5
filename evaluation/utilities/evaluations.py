"""Evaluation of a joint model with every metric of its words, or of its images."""

import argparse
from typing import TYPE_CHECKING

from evaluation.utilities.common import (
    ImageEvaluation,
    Model,
    chance_seed,
    choose_device,
    evaluate_images,
    finish,
    image_data,
    load_both_halves,
    require_same_captions,
    test_split,
    training_data,
    training_pairs,
    unmeasured_on_images,
)

if TYPE_CHECKING:
    from datasets_src.splits import Split


def text_evaluation(options: argparse.Namespace) -> None:
    """Score a model's word clusters with every word metric."""
    from datasets_src.norms import load_norms
    from evaluation.word_evaluation import predict_words, word_metrics
    from models_src.model_files import load_text_model

    device = choose_device(options.device)
    text, settings, origin = load_text_model(options.models_dir, options.model_name, device)
    norms = load_norms(options.datasets_dir, options.word_list)
    pairs = training_pairs(options)
    require_same_captions(options, origin.data_fingerprint, pairs)
    threshold = options.given.get("text_threshold", settings.text_threshold)
    seed = chance_seed(options, settings.as_dict())
    metrics = word_metrics(predict_words(text, pairs.vocabulary), norms, threshold, seed)
    finish(
        options,
        metrics,
        {
            **settings.as_dict(),
            "text_threshold": threshold,
            "evaluation_seed": seed,
            "origin": vars(origin),
        },
        training_data(pairs, norms),
        norms.absent,
    )


def visual_evaluation(options: argparse.Namespace) -> None:
    """Score a model's image clusters with every image metric, on the test split.

    Started by torchrun, several processes share the images, and the first one writes.
    """
    from models_src.distributed import joined_ranks

    with joined_ranks(choose_device(options.device)):
        score_images(options, load_both_halves(options), *test_split(options))


def score_images(
    options: argparse.Namespace, model: Model, split: "Split", filtered: bool
) -> ImageEvaluation:
    """Do what ``visual_evaluation`` does with what is loaded."""
    from evaluation.reports import write_by_image
    from models_src.distributed import rank

    absent = unmeasured_on_images(split, options.datasets_dir)
    seed = chance_seed(options, model.recorded_settings)
    found = evaluate_images(model, split, seed)
    if rank() > 0:
        return found
    # before the results: where a crash lets these be of different runs, the sums tell
    write_by_image(options.results_dir, options.utility, options.model_name, found.by_image)
    finish(
        options,
        found.metrics,
        model.recorded_settings | {"evaluation_seed": seed},
        image_data(split, found.split, filtered),
        absent,
    )
    return found
