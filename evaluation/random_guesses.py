"""What random boxes and points score: the level to read localisation against."""

import argparse

from evaluation.image_evaluation import random_scores, split_gold_boxes
from evaluation.inputs import image_data, test_split
from evaluation.results import save_results
from utils.errors import UserError


def random_bbox_prediction_evaluation(options: argparse.Namespace) -> None:
    """Score as many random boxes in each test image as it has gold boxes."""
    _score(options, "bounding_box")


def random_heatmap_evaluation(options: argparse.Namespace) -> None:
    """Score as many random points in each test image as it has gold boxes."""
    _score(options, "heatmap")


def _score(options: argparse.Namespace, metric: str) -> None:
    split = test_split(options)
    if split.instances is None:
        raise UserError(
            f"there are no boxes of {split.name} in {options.datasets_dir}; add its instances"
        )
    golds = split_gold_boxes(split)
    save_results(
        options,
        {metric: random_scores(metric, golds, [len(gold) for gold in golds], options.seed)},
        {"evaluation_seed": options.seed},
        image_data(split, split),
        {},
    )
