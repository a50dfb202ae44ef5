"""Preparation of data."""

import argparse
import logging

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
