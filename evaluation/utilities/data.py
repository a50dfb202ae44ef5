"""Preparation of data."""

import argparse
import logging

from utils.errors import UserError

DEMO_IMAGES = 1500
LEAST_DEMO_IMAGES = 20

logger = logging.getLogger(__name__)


def filter_unwanted_coco_images(options: argparse.Namespace) -> None:
    """Filter both splits of a data set and keep the result beside it."""
    from datasets_src.filtering import filter_file, filter_images
    from datasets_src.norms import load_norms

    results = filter_images(options.datasets_dir, dataset=options.dataset)
    for name, result in results.items():
        causes = ", ".join(
            f"{cause.replace('_', ' ')} {len(ids)}" for cause, ids in result.dropped.items()
        )
        logger.info(
            "%s: %d of %d images kept; dropped: %s", name, result.kept, result.images, causes
        )
    logger.info("kept in %s", filter_file(options.datasets_dir, options.dataset))
    load_norms(options.datasets_dir)


def make_demo_dataset(options: argparse.Namespace) -> None:
    """Write the demo world: invented images, captions and norms in COCO's layout."""
    from datasets_src.demo_world import make_demo_world

    counts = make_demo_world(options.datasets_dir, _image_count(options.images), options.seed)
    logger.info(
        "%s: %s",
        options.datasets_dir,
        ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items()),
    )


def _image_count(words: list[str] | None) -> int:
    """Read the number of training images of the demo world from ``--images``."""
    if words is None:
        return DEMO_IMAGES
    try:
        count = int(" ".join(words))
    except ValueError:
        raise UserError(
            f"--images {' '.join(words)} is no whole number; make_demo_dataset takes the number of "
            "training images"
        ) from None
    if count < LEAST_DEMO_IMAGES:
        raise UserError(f"--images {count} is too few; give at least {LEAST_DEMO_IMAGES}")
    return count
