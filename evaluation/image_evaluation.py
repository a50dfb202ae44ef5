"""Image metrics of a model: every test image goes through the CNN once, then all are scored.

Axes: N test images, C clusters, K classes, A activated (image, cluster) pairs, G gold boxes.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets_src.captions import encode_captions
from datasets_src.images import ImageFiles, normalise
from datasets_src.loading import load_images, require_readable
from datasets_src.splits import Split
from evaluation.classification import (
    classes_from_clusters,
    classification_counts,
    classification_scores,
    co_occurrence_classes,
    iou_classes,
    predicted_classes,
    summed_scores,
)
from evaluation.localization import (
    box_iou,
    boxes_and_peaks,
    class_activation_maps,
    gold_boxes,
    localization_counts,
    points_in_boxes,
    random_boxes,
    random_points,
)
from models_src.distributed import any_rank, gather_rows, own_span, rank, row_counts
from models_src.text_encoders.interface import TextEncoder
from models_src.visual_encoders import VisualEncoder
from utils.progress import with_bar

MAP_SIZE = 224  # pixels; maps, points and boxes are compared on this grid
MATCH_IOU = 0.5  # from which a predicted box matches a gold one

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImagePredictions:
    """What the visual encoder says of the test images; the last four are for activated clusters."""

    logits: np.ndarray  # (N, C) float32
    bits: np.ndarray  # (N, C) bool, where the logits reach the threshold
    image: np.ndarray  # (A,) int64, ascending
    cluster: np.ndarray  # (A,) int64
    boxes: np.ndarray  # (A, 4) int64 [left, top, right, bottom], edges inside, on MAP_SIZE
    peaks: np.ndarray  # (A, 2) int64 (x, y) of the class activation map's maximum, on MAP_SIZE


@dataclass(frozen=True)
class VisualModel:
    """A visual encoder in evaluation mode and how its images are read and its bits taken."""

    encoder: VisualEncoder
    threshold: float  # bound on the logits
    image_size: int  # pixels that images are resized to
    batch_size: int  # images in one pass
    workers: int  # processes that read images ahead
    device: str


def pixel_batches(
    model: VisualModel,
    source: Split | ImageFiles,
    images: np.ndarray,
    left_out: list[int] | None = None,
    out_of: int | None = None,
) -> Iterator[Tensor]:
    """Yield images (N,) as the CNN takes them, (B, 3, S, S); see ``load_images`` for the rest."""
    size = model.batch_size
    batches = [images[start : start + size] for start in range(0, len(images), size)]
    loading = load_images(source.images(model.image_size), batches, model.workers, left_out, out_of)
    for pixels in with_bar(loading, "looking at images", "batch", len(batches)):
        yield normalise(pixels.to(model.device), model.encoder.pixel_statistics)


@torch.inference_mode()
def image_logits(
    model: VisualModel, source: Split | ImageFiles, count: int, left_out: list[int] | None = None
) -> np.ndarray:
    """Run the visual encoder once over the first ``count`` images, (count, C) float32.

    Where ``left_out`` is given, unreadable images have no row (see ``load_images``).
    """
    logits = [np.zeros((0, model.encoder.cluster_num), dtype=np.float32)]
    for pixels in pixel_batches(model, source, np.arange(count), left_out):
        logits.append(model.encoder(pixels).cpu().numpy())
    return np.concatenate(logits)


def activated_maps(
    model: VisualModel,
    source: Split | ImageFiles,
    images: np.ndarray,
    left_out: list[int] | None = None,
    out_of: int | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, Tensor]]:
    """Run the visual encoder once over some images (N,), and yield what it finds in each batch.

    That is its logits (B, C) and, for its activated clusters, the image's position in the batch
    (A,), the cluster (A,), and the class activation maps (A, h, w) on the model's device.
    """
    with torch.inference_mode():
        for pixels in pixel_batches(model, source, images, left_out, out_of):
            logits, features = model.encoder.logits_and_features(pixels)  # (B, C), (B, D, h, w)
            image, cluster = torch.nonzero(logits >= model.threshold, as_tuple=True)  # (A,), (A,)
            maps = class_activation_maps(features, model.encoder.head.weight, image, cluster)
            yield logits.cpu().numpy(), image.cpu().numpy(), cluster.cpu().numpy(), maps


def activations_by_image(
    model: VisualModel, source: Split | ImageFiles, images: np.ndarray
) -> Iterator[tuple[int, np.ndarray, Tensor]]:
    """Yield each of some images (N,), its clusters (A,), the strongest first, and their maps."""
    seen = 0
    for logits, image, cluster, maps in activated_maps(model, source, images):
        for at, row in enumerate(logits):
            own = np.flatnonzero(image == at)
            own = own[np.argsort(-row[cluster[own]], kind="stable")]
            yield int(images[seen + at]), cluster[own], maps[own]
        seen += len(logits)


def predict_images(model: VisualModel, split: Split) -> tuple[ImagePredictions, Split]:
    """Predict the bits of a split's images, and a box and a peak per activated cluster.

    The split returned has no missing and unreadable images. Where several processes run together,
    each takes a share of the batches, and all get the same.
    """
    count, size = len(split.image_ids), model.batch_size
    own = own_span(-(-count // size))  # whole batches, as one process has them
    images = np.arange(own.start * size, min(own.stop * size, count))
    left_out: list[int] = []
    no_logits = np.zeros((0, model.encoder.cluster_num), dtype=np.float32)
    nothing = np.zeros((0, 4), dtype=np.int64)
    parts = [(no_logits, nothing[:, 0], nothing[:, 0], nothing, nothing[:, :2])]
    seen = 0
    for logits, image, cluster, maps in activated_maps(model, split, images, left_out, count):
        parts.append((logits, image + seen, cluster, *boxes_and_peaks(maps, MAP_SIZE)))
        seen += len(logits)
    if seen and maps.shape[1:] == (1, 1) and split.instances is not None:
        logger.warning(
            "class activation maps are 1 x 1 for images of %d pixels: boxes and heatmaps cannot "
            "tell where anything is; train with a larger --image_size to have them scored",
            model.image_size,
        )
    lost = np.flatnonzero(any_rank(*np.isin(np.arange(count), left_out).tolist()))
    for image in lost[~np.isin(lost, left_out)]:  # of other processes, which write no log
        logger.warning("left out: image %s is missing or damaged", split.path(image))
        require_readable(len(lost), count, str(split.path(image)))
    logits, image, *others = (np.concatenate(rows) for rows in zip(*parts, strict=True))
    image += sum(row_counts(seen)[: rank()])  # images of the processes before this one
    logits, *others = (
        gather_rows(torch.from_numpy(rows)).numpy() for rows in (logits, image, *others)
    )
    predictions = ImagePredictions(logits, logits >= model.threshold, *others)
    return predictions, split.without(lost.tolist())


@torch.inference_mode()
def caption_bits(text: TextEncoder, captions: Sequence[str], text_threshold: float) -> np.ndarray:
    """Return which clusters N captions activate, (N, C) bool."""
    tokens = encode_captions(captions, text.words).padded(np.arange(len(captions)))  # (N, L)
    bits: np.ndarray = (text.score(torch.from_numpy(tokens)) >= text_threshold).cpu().numpy()
    return bits


def image_metrics(
    predictions: ImagePredictions, split: Split, cluster_of_class: np.ndarray, seed: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Score predictions for the images of a split with instances, and random guesses beside them.

    ``cluster_of_class`` (K,) holds the most probable cluster of each class name, -1 where the text
    encoder does not know it; only single-word classes are used. ``_chance`` makes as many random
    guesses in each image as it has gold boxes (the published level), ``_equal_guess_chance`` as
    many as the model: f1 and recall depend on their number.

    Returns the metrics, and for each metric the (N, 3) int64 true positives, false
    positives and false negatives that its scores come from.
    """
    assert split.instances is not None
    single = split.instances.is_single_word()  # (K,)
    instance_counts = split.instances.counts(len(split.image_ids))[:, single]  # (N, K')
    gold = instance_counts > 0
    bits, class_count = predictions.bits, gold.shape[1]
    predicted = {"class_name_classification": predicted_classes(bits, cluster_of_class[single])}
    for name, classes in (
        ("co_occurrence", co_occurrence_classes(bits, instance_counts)),
        ("iou", iou_classes(bits, gold)),
    ):
        found = classes_from_clusters(bits, classes, class_count)
        predicted[f"cluster_classification_{name}"] = found
    counts = {name: classification_counts(classes, gold) for name, classes in predicted.items()}
    metrics = {name: classification_scores(rows, class_count) for name, rows in counts.items()}
    golds = split_gold_boxes(split)
    bounds = np.searchsorted(predictions.image, np.arange(1, len(golds)))
    for name, guesses in (("bounding_box", predictions.boxes), ("heatmap", predictions.peaks)):
        counts[name] = localization_counts(map(FITS[name], np.split(guesses, bounds), golds))
        guess_counts = counts[name][:, :2].sum(axis=1)  # (N,)
        metrics |= {
            name: summed_scores(counts[name]),
            f"{name}_chance": random_scores(name, golds, [len(gold) for gold in golds], seed),
            f"{name}_equal_guess_chance": random_scores(name, golds, guess_counts, seed),
        }
    return metrics, counts


def boxes_match(predicted: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Say which predicted boxes (P, 4) may be matched with which gold ones (G, 4), (P, G) bool."""
    return box_iou(predicted, gold) >= MATCH_IOU


# which guesses (P, 4) or (P, 2) may be matched with which gold boxes (G, 4), by metric
FITS = {"bounding_box": boxes_match, "heatmap": points_in_boxes}


def random_scores(
    metric: str, golds: Sequence[np.ndarray], guesses: Sequence[int] | np.ndarray, seed: int
) -> dict[str, Any]:
    """Score random boxes (``bounding_box``) or points (``heatmap``), ``guesses`` (N,) an image."""
    rng = np.random.default_rng(seed)
    draw = {"bounding_box": random_boxes, "heatmap": random_points}[metric]
    fits = (
        FITS[metric](draw(count, MAP_SIZE, rng), gold)
        for count, gold in zip(guesses, golds, strict=True)
    )
    return summed_scores(localization_counts(fits))


def split_gold_boxes(split: Split) -> list[np.ndarray]:
    """Return each image's gold boxes on the MAP_SIZE grid, N arrays (G, 4).

    A box that has several classes is one gold box (see ``Instances.has_own_box``).
    """
    instances = split.instances
    assert instances is not None
    own = instances.has_own_box
    image_of_box, own_boxes = instances.image[own], instances.boxes[own]
    order = np.argsort(image_of_box, kind="stable")
    bounds = np.searchsorted(image_of_box[order], np.arange(1, len(split.image_ids)))
    of_images = np.split(own_boxes[order], bounds)
    return [
        gold_boxes(boxes, int(width), int(height), MAP_SIZE)
        for boxes, (width, height) in zip(of_images, split.sizes, strict=False)
    ]
