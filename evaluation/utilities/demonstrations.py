"""Pictures of what a model sees, on test images or on images of the user's own."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.utilities.common import (
    load_both_halves,
    single_word_classes,
    test_split,
    training_pairs,
)
from utils.errors import UserError

if TYPE_CHECKING:
    from evaluation.demonstrations import ClusterLabel
    from models_src.text_encoders.interface import TextEncoder

# Where words are not counted, the first third of the vocabulary names the clusters, but at least so
# many: vocabularies begin with the frequent words, and some third stands five times or more.
LEAST_NAMING_WORDS = 500

logger = logging.getLogger(__name__)


def heatmap_demonstration(options: argparse.Namespace) -> None:
    """Draw class activation maps over test images or the user's own."""
    _demonstrate(options, "heatmap")


def bbox_demonstration(options: argparse.Namespace) -> None:
    """Draw predicted boxes, and gold ones where known, on test images or the user's own."""
    _demonstrate(options, "bbox")


def _demonstrate(options: argparse.Namespace, kind: str) -> None:
    """Draw one PNG for each image, and show them where asked for."""
    from evaluation.demonstrations import require_window, show_pictures

    if options.show:
        require_window()
    folder = options.results_dir / options.model_name / f"{kind}_demonstration"
    if options.images is None:
        files = _draw_test_images(options, kind, folder)
    else:
        files = _draw_own_images(options, kind, folder)
    logger.info("%d picture%s: %s", len(files), "" if len(files) == 1 else "s", files[0].parent)
    if options.show:
        show_pictures(files)


def _draw_test_images(options: argparse.Namespace, kind: str, folder: Path) -> list[Path]:
    """Draw ``--num_items`` test images as ``<image id>.png`` and return the files."""
    from evaluation.demonstrations import (
        choose_images,
        cluster_labels,
        draw_demonstrations,
        gold_objects,
    )
    from evaluation.word_evaluation import words_to_clusters

    model = load_both_halves(options)
    split, _ = test_split(options)
    names = single_word_classes(split)
    labels = cluster_labels(
        _top_words_of_captions(options, model.text),
        names,
        words_to_clusters(model.text, names)[0],
    )
    images = choose_images(split, options.num_items, options.seed)
    files = [folder / f"{split.image_ids[image]}.png" for image in images]
    golds = [gold_objects(split, int(image)) for image in images]
    draw_demonstrations(kind, model.visual, split, images, golds, labels, files)
    return files


def _draw_own_images(options: argparse.Namespace, kind: str, folder: Path) -> list[Path]:
    """Draw the files of ``--images`` as ``<name>.png`` and return the pictures' files."""
    import numpy as np

    from datasets_src.images import read_image
    from datasets_src.pairs import ImageFiles
    from evaluation.demonstrations import draw_demonstrations, picture_names

    for choice in ("num_items", "seed"):
        if choice in options.given:
            raise UserError(
                f"--{choice} chooses test images and --images draws your own; give one of them"
            )
    source = ImageFiles(tuple(map(Path, options.images)))
    for file in source.files:
        read_image(file, 1)  # a file that cannot be read is told before the work
    model = load_both_halves(options)
    labels = _labels_without_need_of_data(options, model.text)
    # in a folder of their own: a file may be named like the id of a test image
    files = [folder / "own_images" / name for name in picture_names(source.files)]
    count = len(files)
    draw_demonstrations(kind, model.visual, source, np.arange(count), [None] * count, labels, files)
    return files


def _labels_without_need_of_data(
    options: argparse.Namespace, text: "TextEncoder"
) -> list["ClusterLabel"]:
    """Return labels of clusters, with class names where the data set is there."""
    from datasets_src.datasets import dataset_folder
    from evaluation.demonstrations import cluster_labels
    from evaluation.word_evaluation import words_to_clusters

    names: list[str] = []
    if dataset_folder(options.datasets_dir, options.dataset).is_dir():
        names = single_word_classes(test_split(options)[0])
    else:
        logger.info("the clusters are shown without class names: no data set is there")
    # counting the training captions' words would take minutes on full COCO
    words = _top_words_of_vocabulary(text)
    return cluster_labels(words, names, words_to_clusters(text, names)[0])


def _top_words_of_captions(options: argparse.Namespace, text: "TextEncoder") -> list[list[str]]:
    """Return each cluster's words among the frequent ones of the training captions."""
    from evaluation.cluster_tables import MIN_WORD_COUNT, top_words
    from evaluation.word_evaluation import predict_words

    found = predict_words(text, training_pairs(options).vocabulary)
    frequent = found.counts >= MIN_WORD_COUNT
    return top_words(found.words, found.clusters, found.probabilities, frequent, text.cluster_num)


def _top_words_of_vocabulary(text: "TextEncoder") -> list[list[str]]:
    """Return each cluster's words among the first of the model's vocabulary."""
    import numpy as np

    from evaluation.cluster_tables import top_words
    from evaluation.word_evaluation import words_to_clusters

    size = len(text.words)
    frequent = np.arange(size) < max(LEAST_NAMING_WORDS, size // 3)
    return top_words(text.words, *words_to_clusters(text, text.words), frequent, text.cluster_num)
