"""What random boxes and points score: the level to read localisation against."""

import argparse
from collections.abc import Callable
from typing import Any

from evaluation.utilities.common import finish, image_data, test_split
from utils.errors import UserError


def random_bbox_prediction_evaluation(options: argparse.Namespace) -> None:
    """Score as many random boxes in each test image as it has gold boxes."""
    from evaluation.image_evaluation import random_box_scores

    _score(options, "bounding_box", random_box_scores)


def random_heatmap_evaluation(options: argparse.Namespace) -> None:
    """Score as many random points in each test image as it has gold boxes."""
    from evaluation.image_evaluation import random_point_scores

    _score(options, "heatmap", random_point_scores)


def _score(options: argparse.Namespace, metric: str, score: Callable[..., dict[str, Any]]) -> None:
    """Score random guesses against the gold boxes of the test split."""
    from evaluation.image_evaluation import split_gold_boxes

    split, filtered = test_split(options)
    if split.instances is None:
        raise UserError(
            f"there are no boxes of {split.name} in {options.datasets_dir}; add its instances"
        )
    golds = split_gold_boxes(split)
    finish(
        options,
        {metric: score(golds, [len(gold) for gold in golds], options.seed)},
        {"evaluation_seed": options.seed},
        image_data(split, split, filtered),
        {},
    )
