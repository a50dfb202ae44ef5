"""Names for what is still to move: ``loading.py``, ``results.py`` and ``joint_evaluation.py``."""

import argparse

from datasets_src.pairs import TrainingPairs
from evaluation.joint_evaluation import ImageEvaluation, evaluate_images
from evaluation.loading import (
    Model,
    chance_seed,
    choose_device,
    image_data,
    load_both_halves,
    single_word_classes,
    test_split,
    training_data,
    training_pairs,
    training_split,
    unmeasured_on_images,
    warn_of_other_captions,
)
from evaluation.results import save_results as finish
from utils.files import sha256_of_file

__all__ = [
    "ImageEvaluation",
    "Model",
    "chance_seed",
    "choose_device",
    "evaluate_images",
    "finish",
    "image_data",
    "load_both_halves",
    "require_same_captions",
    "single_word_classes",
    "test_split",
    "training_data",
    "training_pairs",
    "training_split",
    "unmeasured_on_images",
    "word_list_settings",
]


def require_same_captions(
    options: argparse.Namespace, fingerprint: str | None, pairs: TrainingPairs
) -> None:
    """Say so where a model was trained on other captions."""
    warn_of_other_captions(options, fingerprint, pairs)


def word_list_settings(options: argparse.Namespace) -> dict[str, str]:
    """Return the word list that restricts an evaluation, where there is one."""
    if options.word_list is None:
        return {}
    words = options.word_list
    return {"word_list": str(words), "word_list_sha256": sha256_of_file(words)}
