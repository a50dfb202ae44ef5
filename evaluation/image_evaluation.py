"""Image metrics of a model: every test image goes through the CNN once, then all are scored.

Axes: N test images, C clusters, K classes, A activated (image, cluster) pairs, G gold boxes.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets_src.coco import Split
from datasets_src.images import normalise
from datasets_src.pairs import ImageSource, load_images, require_readable
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
from utils.progress import with_bar

if TYPE_CHECKING:
    from torch import Tensor

    from models_src.text_encoders.interface import TextEncoder
    from models_src.visual_encoders import VisualEncoder

MAP_SIZE = 224  # pixels; maps, points and boxes are compared on this grid
MATCH_IOU = 0.5  # from which a predicted box matches a gold one
CAPTION_BATCH = 1000
# metrics that are true and false positives and negatives of each image
COUNTED_METRICS = (
    "class_name_classification",
    "cluster_classification_co_occurrence",
    "cluster_classification_iou",
    "bounding_box",
    "heatmap",
)
INSTANCE_METRICS = (
    "class_name_classification",
    "cluster_classification_co_occurrence",
    "cluster_classification_iou",
    "bounding_box",
    "bounding_box_chance",
    "bounding_box_equal_guess_chance",
    "heatmap",
    "heatmap_chance",
    "heatmap_equal_guess_chance",
)

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

    encoder: "VisualEncoder"
    threshold: float  # bound on the logits
    image_size: int  # pixels that images are resized to
    batch_size: int  # images in one pass
    workers: int  # processes that read images ahead
    device: str


def image_logits(
    model: VisualModel, source: ImageSource, count: int, left_out: list[int] | None = None
) -> np.ndarray:
    """Run the visual encoder once over the first ``count`` images, batch by batch.

    Args:
        model: The encoder.
        source: Where the images are.
        count: Number of images.
        left_out: Where given, unreadable images have no row (see ``pairs.load_images``).

    Returns:
        (count, C) float32; a cluster is activated where they reach the model's threshold.

    Raises:
        UserError: as ``pairs.load_images`` does.
    """
    import torch

    logits = np.zeros((count, model.encoder.cluster_num), dtype=np.float32)
    bounds = [*range(0, count, model.batch_size), count]
    batches = [np.arange(start, stop) for start, stop in pairwise(bounds)]
    loading = load_images(source, batches, model.image_size, model.workers, left_out)
    done = 0
    with torch.inference_mode():
        for pixels in with_bar(loading, "looking at images", "batch", len(batches)):
            batch = slice(done, done + len(pixels))
            logits[batch] = model.encoder(normalise(pixels.to(model.device))).cpu().numpy()
            done += len(pixels)
    return logits[:done]


def activated_maps(
    model: VisualModel,
    source: ImageSource,
    images: np.ndarray,
    left_out: list[int] | None = None,
    out_of: int | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, "Tensor"]]:
    """Run the visual encoder once over some images, batch by batch.

    Args:
        model: The encoder.
        source: Where the images are.
        images: (N,) indices of images.
        left_out: Where given, unreadable images are left out (see ``pairs.load_images``).
        out_of: See ``pairs.load_images``.

    Yields:
        For each batch its logits (B, C) and, for its activated clusters, the image's position in
        the batch (A,), the cluster (A,), and the class activation maps (A, h, w), neither
        normalised nor upsampled, on the model's device.
    """
    import torch

    size = model.batch_size
    batches = [images[start : start + size] for start in range(0, len(images), size)]
    loading = load_images(source, batches, model.image_size, model.workers, left_out, out_of)
    with torch.inference_mode():
        for pixels in with_bar(loading, "looking at images", "batch", len(batches)):
            logits, features = model.encoder.logits_and_features(
                normalise(pixels.to(model.device))
            )  # (B, C), (B, D, h, w)
            image, cluster = torch.nonzero(logits >= model.threshold, as_tuple=True)  # (A,), (A,)
            maps = class_activation_maps(features, model.encoder.head.weight, image, cluster)
            yield logits.cpu().numpy(), image.cpu().numpy(), cluster.cpu().numpy(), maps


def predict_images(model: VisualModel, split: Split) -> tuple[ImagePredictions, Split]:
    """Predict the bits of all images of a split, and a box and a peak per activated cluster.

    Where several processes run together, each takes a share of the batches, and all get the same.

    Returns:
        The predictions, and the split that they are of: without missing and unreadable images.

    Raises:
        UserError: there are too many of these.
    """
    from models_src.distributed import any_rank, own_span

    count, size = len(split.image_ids), model.batch_size
    own = own_span(-(-count // size))  # whole batches, as one process has them
    images = np.arange(own.start * size, min(own.stop * size, count))
    left_out: list[int] = []
    predictions = _predict(model, split, images, left_out)
    lost = np.flatnonzero(any_rank(*(image in left_out for image in range(count))))
    for image in lost[~np.isin(lost, left_out)]:  # of other processes
        logger.warning("left out: image %s is missing or damaged", split.path(image))
        require_readable(len(lost), count, str(split.path(image)))
    return _of_all_ranks(predictions), split.without(lost.tolist())


def _predict(
    model: VisualModel, split: Split, images: np.ndarray, left_out: list[int]
) -> ImagePredictions:
    """Predict what ``predict_images`` does of some images (N,), in this process."""
    all_logits = np.zeros((len(images), model.encoder.cluster_num), dtype=np.float32)
    # an empty part each, so that no images have predictions, too
    image_parts, cluster_parts = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    box_parts, peak_parts = [np.zeros((0, 4), np.int64)], [np.zeros((0, 2), np.int64)]
    start = 0
    batches = activated_maps(model, split, images, left_out, out_of=len(split.image_ids))
    for logits, image, cluster, maps in batches:
        all_logits[start : start + len(logits)] = logits
        boxes, peaks = boxes_and_peaks(maps, MAP_SIZE)
        image_parts.append(image + start)
        cluster_parts.append(cluster)
        box_parts.append(boxes)
        peak_parts.append(peaks)
        start += len(logits)
    if start and maps.shape[1:] == (1, 1) and split.instances is not None:
        logger.warning(
            "class activation maps are 1 x 1 for images of %d pixels: boxes and heatmaps cannot "
            "tell where anything is; train with a larger --image_size to have them scored",
            model.image_size,
        )
    all_logits = all_logits[:start]
    return ImagePredictions(
        logits=all_logits,
        bits=all_logits >= model.threshold,
        image=np.concatenate(image_parts),
        cluster=np.concatenate(cluster_parts),
        boxes=np.concatenate(box_parts),
        peaks=np.concatenate(peak_parts),
    )


def _of_all_ranks(own: ImagePredictions) -> ImagePredictions:
    """Return the predictions of all processes, one's images after the other's."""
    import torch

    from models_src.distributed import gather_rows, rank, row_counts

    before = sum(row_counts(len(own.logits))[: rank()])  # images of the processes before this one
    of_own = vars(own) | {"image": own.image + before}
    return ImagePredictions(
        **{name: gather_rows(torch.from_numpy(rows)).numpy() for name, rows in of_own.items()}
    )


def caption_bits(
    text: "TextEncoder", tokens: np.ndarray, text_threshold: float, device: str
) -> np.ndarray:
    """Return which clusters captions (N, L) of token ids activate, (N, C) bool."""
    import torch

    bits = np.zeros((len(tokens), text.cluster_num), dtype=bool)
    with torch.inference_mode():
        for start in range(0, len(tokens), CAPTION_BATCH):
            chunk = torch.from_numpy(tokens[start : start + CAPTION_BATCH]).to(device)
            bits[start : start + len(chunk)] = (
                (text.read(chunk).scores >= text_threshold).cpu().numpy()
            )
    return bits


def image_counts(
    predictions: ImagePredictions, split: Split, cluster_of_class: np.ndarray
) -> dict[str, np.ndarray]:
    """Compare predictions for each image of a split with its instances.

    Args:
        predictions: Of all N images of the split, in order.
        split: With instances.
        cluster_of_class: (K,) most probable cluster of each class name, -1 where the text encoder
            does not know it; only single-word classes are used.

    Returns:
        For each of ``COUNTED_METRICS`` the (N, 3) int64 true positives, false positives and false
        negatives of each image.
    """
    assert split.instances is not None
    single = split.instances.is_single_word()  # (K,)
    instance_counts = split.instances.counts(len(split.image_ids))[:, single]  # (N, K')
    gold = instance_counts > 0
    bits = predictions.bits
    by_co_occurrence = co_occurrence_classes(bits, instance_counts)
    by_iou = iou_classes(bits, gold)
    class_count = gold.shape[1]
    golds = split_gold_boxes(split)
    bounds = np.searchsorted(predictions.image, np.arange(len(golds) + 1))
    spans = [slice(*bounds[image : image + 2]) for image in range(len(golds))]
    return {
        "class_name_classification": classification_counts(
            predicted_classes(bits, cluster_of_class[single]), gold
        ),
        "cluster_classification_co_occurrence": classification_counts(
            classes_from_clusters(bits, by_co_occurrence, class_count), gold
        ),
        "cluster_classification_iou": classification_counts(
            classes_from_clusters(bits, by_iou, class_count), gold
        ),
        "bounding_box": localization_counts(
            box_iou(predictions.boxes[span], gold_boxes_) >= MATCH_IOU
            for span, gold_boxes_ in zip(spans, golds, strict=True)
        ),
        "heatmap": localization_counts(
            points_in_boxes(predictions.peaks[span], gold_boxes_)
            for span, gold_boxes_ in zip(spans, golds, strict=True)
        ),
    }


def image_metrics(
    counts: Mapping[str, np.ndarray] | None, split: Split, seed: int
) -> dict[str, Any]:
    """Score the counts of all images of a split, and random boxes and points beside them.

    ``_chance`` makes as many random guesses in each image as it has gold boxes (the published
    level), ``_equal_guess_chance`` as many as the model: f1 and recall depend on their number.

    Args:
        counts: Of ``image_counts``; None of a split without instances.
        split: What they are of.
        seed: Of the random boxes and points.

    Returns:
        ``INSTANCE_METRICS``, each a dict of scores or None.
    """
    if counts is None or split.instances is None:
        return dict.fromkeys(INSTANCE_METRICS)
    golds = split_gold_boxes(split)
    gold_counts = np.array([len(gold) for gold in golds])  # (N,)
    guesses = counts["bounding_box"][:, :2].sum(axis=1)  # (N,), as many boxes as peaks
    class_count = int(split.instances.is_single_word().sum())
    return {
        **{
            name: classification_scores(counts[name], class_count)
            for name in COUNTED_METRICS
            if "classification" in name
        },
        "bounding_box": summed_scores(counts["bounding_box"]),
        "bounding_box_chance": random_box_scores(golds, gold_counts, seed),
        "bounding_box_equal_guess_chance": random_box_scores(golds, guesses, seed),
        "heatmap": summed_scores(counts["heatmap"]),
        "heatmap_chance": random_point_scores(golds, gold_counts, seed),
        "heatmap_equal_guess_chance": random_point_scores(golds, guesses, seed),
    }


def random_box_scores(
    golds: Sequence[np.ndarray], guesses: np.ndarray, seed: int
) -> dict[str, Any]:
    """Score random boxes, ``guesses`` (N,) of them in the images with gold boxes (G, 4)."""
    rng = np.random.default_rng(seed)
    return summed_scores(
        localization_counts(
            box_iou(random_boxes(count, MAP_SIZE, rng), gold) >= MATCH_IOU
            for gold, count in zip(golds, guesses, strict=True)
        )
    )


def random_point_scores(
    golds: Sequence[np.ndarray], guesses: np.ndarray, seed: int
) -> dict[str, Any]:
    """Score random points, ``guesses`` (N,) of them in the images with gold boxes (G, 4)."""
    rng = np.random.default_rng(seed)
    return summed_scores(
        localization_counts(
            points_in_boxes(random_points(count, MAP_SIZE, rng), gold)
            for gold, count in zip(golds, guesses, strict=True)
        )
    )


def split_gold_boxes(split: Split) -> list[np.ndarray]:
    """Return each image's gold boxes on the MAP_SIZE grid, N arrays (G, 4).

    A box that has several classes is one gold box (see ``Instances.has_own_box``).
    """
    instances = split.instances
    assert instances is not None  # as the caller has seen
    own = slice(None) if instances.has_own_box is None else instances.has_own_box
    image_of_box, own_boxes = instances.image[own], instances.boxes[own]
    order = np.argsort(image_of_box, kind="stable")
    bounds = np.searchsorted(image_of_box[order], np.arange(len(split.image_ids) + 1))
    return [
        gold_boxes(
            own_boxes[order[bounds[image] : bounds[image + 1]]],
            int(split.widths[image]),
            int(split.heights[image]),
            MAP_SIZE,
        )
        for image in range(len(split.image_ids))
    ]
