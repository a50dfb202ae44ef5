"""Multi-label image classification through clusters, and its scores.

Axes: N images, C clusters, K classes. Bits say which clusters an image activates.
"""

import numpy as np


def detection_scores(
    true_positives: int, false_positives: int, false_negatives: int
) -> dict[str, float | int | None]:
    """Return the three counts with precision, recall and f1, each in 0..1.

    - ``precision`` = tp / (tp + fp); None when nothing was predicted.
    - ``recall`` = tp / (tp + fn); None when there was nothing to find.
    - ``f1`` = 2 tp / (2 tp + fp + fn); None only when both hold.
    """

    def ratio(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    return {
        "true_positives": true_positives,
        "false_positives": false_positives,
        "false_negatives": false_negatives,
        "precision": ratio(true_positives, true_positives + false_positives),
        "recall": ratio(true_positives, true_positives + false_negatives),
        "f1": ratio(2 * true_positives, 2 * true_positives + false_positives + false_negatives),
    }


def classification_counts(predicted: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Compare the classes each image is predicted to show with those it shows.

    Args:
        predicted: (N, K) bool, the classes each image is predicted to show.
        gold: (N, K) bool, the classes it shows.

    Returns:
        (N, 3) int64, the true positives, false positives and false negatives of each image.

    Raises:
        ValueError: the shapes differ.
    """
    predicted, gold = np.asarray(predicted, dtype=bool), np.asarray(gold, dtype=bool)
    if predicted.shape != gold.shape:
        raise ValueError(f"predictions of shape {predicted.shape} for gold of shape {gold.shape}")
    kinds = (predicted & gold, predicted & ~gold, ~predicted & gold)
    return np.stack([kind.sum(axis=1) for kind in kinds], axis=1)


def classification_scores(counts: np.ndarray, class_count: int) -> dict[str, float | int | None]:
    """Score multi-label predictions over all pairs of an image and a class (micro average).

    Args:
        counts: (N, 3), see ``classification_counts``.
        class_count: K, the classes that were predicted or not.

    Returns:
        The keys of ``detection_scores`` and ``true_negatives``; the four counts add up to N K.

    Source: Berger et al. 2022.
    """
    return {
        **summed_scores(counts),
        "true_negatives": len(counts) * class_count - int(counts.sum()),
    }


def summed_scores(counts: np.ndarray) -> dict[str, float | int | None]:
    """Return the ``detection_scores`` of the sums of counts (N, 3) by image, in their order."""
    return detection_scores(*counts.sum(axis=0).tolist())


def predicted_classes(bits: np.ndarray, cluster_of_class: np.ndarray) -> np.ndarray:
    """Predict the classes whose name's cluster an image activates (zero-shot).

    Args:
        bits: (N, C) bool.
        cluster_of_class: (K,) integers, the most probable cluster of each class name; -1 for a
            name that the text encoder does not know, which is never predicted. Several classes
            may have one cluster.

    Returns:
        (N, K) bool, class k where ``bits[:, cluster_of_class[k]]``.

    Raises:
        IndexError: a cluster is C or more.

    Source: Berger et al. 2022.
    """
    bits = np.asarray(bits, dtype=bool)
    cluster_of_class = np.asarray(cluster_of_class, dtype=np.int64)
    return bits[:, cluster_of_class] & (cluster_of_class >= 0)  # -1 reads a column, then drops it


def co_occurrence_classes(bits: np.ndarray, instance_counts: np.ndarray) -> np.ndarray:
    """Map each cluster to the class with most instances in the images that activate it.

    Args:
        bits: (N, C) bool.
        instance_counts: (N, K) integers, how many instances of each class an image shows; K >= 1.

    Returns:
        (C,) integers, the class of each cluster: argmax_k sum over images n of
        bits[n, c] instance_counts[n, k], ties to the lowest index; -1 when no image activates the
        cluster or none of those shows an instance.

    Raises:
        ValueError: the arrays have different numbers of images.

    Source: Berger et al. 2022.
    """
    return _best_class(_product(np.transpose(bits), instance_counts))


def iou_classes(bits: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Map each cluster to the class whose images overlap most with the cluster's images.

    Args:
        bits: (N, C) bool.
        gold: (N, K) bool, the classes each image shows; K >= 1.

    Returns:
        (C,) integers, the class of each cluster: argmax_k of the number of images with cluster and
        class divided by the number of images with either, ties to the lowest index; -1 when no
        image has both the cluster and any class.

    Raises:
        ValueError: the arrays have different numbers of images.

    Source: Berger et al. 2022.
    """
    both = _product(np.transpose(bits), gold)  # (C, K)
    either = np.sum(bits, axis=0)[:, None] + np.sum(gold, axis=0) - both  # (C, K)
    return _best_class(both / np.maximum(either, 1))


def classes_from_clusters(
    bits: np.ndarray, class_of_cluster: np.ndarray, class_count: int
) -> np.ndarray:
    """Predict the classes that an image's clusters are mapped to.

    Args:
        bits: (N, C) bool.
        class_of_cluster: (C,) integers in 0..K-1, or -1 for a cluster without a class.
        class_count: K.

    Returns:
        (N, K) bool, true where any active cluster is mapped to the class.

    Raises:
        ValueError: ``bits`` and ``class_of_cluster`` have different numbers of clusters.
    """
    mapped = np.asarray(class_of_cluster)[:, None] == np.arange(class_count)  # (C, K)
    return _product(bits, mapped) > 0


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Multiply two matrices of counts; float64 is exact here and, unlike integers, uses BLAS."""
    return np.asarray(left, dtype=np.float64) @ np.asarray(right, dtype=np.float64)


def _best_class(scores: np.ndarray) -> np.ndarray:
    """Return the (C,) first best column of (C, K) scores >= 0, or -1 where a row is all zero."""
    return np.where(scores.any(axis=1), scores.argmax(axis=1), -1)
