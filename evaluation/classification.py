"""Multi-label image classification through clusters, and its scores.

Axes: N images, C clusters, K classes. Bits (N, C) bool say which clusters an image activates, gold
(N, K) bool which classes it shows.

Source: Berger et al. 2022.
"""

import numpy as np


def summed_scores(counts: np.ndarray) -> dict[str, float | int | None]:
    """Sum counts (N, 3) of true positives, false positives and false negatives, and score them.

    Returns the three sums, and in 0..1:

    - ``precision`` = tp / (tp + fp); None when nothing was predicted.
    - ``recall`` = tp / (tp + fn); None when there was nothing to find.
    - ``f1`` = 2 tp / (2 tp + fp + fn); None only when both hold.
    """
    tp, fp, fn = counts.sum(axis=0).tolist()
    return {
        "true_positives": tp,
        "false_positives": fp,
        "false_negatives": fn,
        "precision": tp / (tp + fp) if tp + fp else None,
        "recall": tp / (tp + fn) if tp + fn else None,
        "f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None,
    }


def classification_counts(predicted: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Count each image's true positives, false positives and false negatives, (N, 3) int64.

    ``predicted`` (N, K) bool says which classes images are predicted to show.
    """
    kinds = (predicted & gold, predicted & ~gold, ~predicted & gold)
    return np.stack([kind.sum(axis=1) for kind in kinds], axis=1)


def classification_scores(counts: np.ndarray, class_count: int) -> dict[str, float | int | None]:
    """Score counts (N, 3) over all pairs of an image and one of K classes (micro average).

    Beside ``summed_scores`` there are ``true_negatives``; the four counts add up to N K.
    """
    true_negatives = len(counts) * class_count - int(counts.sum())
    return {**summed_scores(counts), "true_negatives": true_negatives}


def predicted_classes(bits: np.ndarray, cluster_of_class: np.ndarray) -> np.ndarray:
    """Predict the classes (N, K) bool whose name's cluster an image activates (zero-shot).

    ``cluster_of_class`` (K,) is the most probable cluster of each class name; -1 for a name that
    the text encoder does not know, which is never predicted. Several classes may have one cluster.
    """
    return bits[:, cluster_of_class] & (cluster_of_class >= 0)  # -1 reads a column, then drops it


def co_occurrence_classes(bits: np.ndarray, instance_counts: np.ndarray) -> np.ndarray:
    """Map each cluster to the class (C,) with most instances in the images that activate it.

    ``instance_counts`` (N, K) says how many instances of each class an image shows; K >= 1. The
    class is argmax_k of the sum over images n of bits[n, c] instance_counts[n, k], ties to the
    lowest index; -1 when no image activates the cluster or none of those shows an instance.
    """
    return _best_class(_product(bits.T, instance_counts))


def iou_classes(bits: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Map each cluster to the class (C,) whose images overlap most with the cluster's images.

    It is argmax_k of the number of images with cluster and class divided by the number of images
    with either, ties to the lowest index; -1 when no image has both the cluster and any class.
    """
    both = _product(bits.T, gold)  # (C, K)
    either = bits.sum(axis=0)[:, None] + gold.sum(axis=0) - both  # (C, K)
    return _best_class(both / np.maximum(either, 1))


def classes_from_clusters(
    bits: np.ndarray, class_of_cluster: np.ndarray, class_count: int
) -> np.ndarray:
    """Predict the classes (N, K) bool that any of an image's clusters is mapped to.

    ``class_of_cluster`` (C,) is -1 for a cluster without a class.
    """
    mapped = class_of_cluster[:, None] == np.arange(class_count)  # (C, K)
    return _product(bits, mapped) > 0


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Multiply two matrices of counts; float64 is exact here and, unlike integers, uses BLAS."""
    return left.astype(np.float64) @ right.astype(np.float64)


def _best_class(scores: np.ndarray) -> np.ndarray:
    """Return the (C,) first best column of (C, K) scores >= 0, or -1 where a row is all zero."""
    return np.where(scores.any(axis=1), scores.argmax(axis=1), -1)
