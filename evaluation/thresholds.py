"""The threshold of a score that separates positives from negatives best.

Axes: P pairs of a score and its gold label.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BestThreshold:
    """A threshold and what predicting ``score >= threshold`` reaches with it."""

    threshold: float  # one of the scores
    f1: float  # in 0..1, above 0
    precision: float  # in 0..1, above 0
    recall: float  # in 0..1, above 0


def best_f1_threshold(scores: np.ndarray, gold: np.ndarray) -> BestThreshold | None:
    """Find the threshold of the best f1, where ``score >= threshold`` predicts a positive.

    Every distinct score is tried, so the result is exact; equal scores are always predicted alike.
    Sorting takes the most time: O(P log P).

    Args:
        scores: Of any shape with P elements, finite; higher means more likely positive.
        gold: Of the same shape, bool, whether a pair is positive.

    Returns:
        The best threshold, the highest of those with the same f1; None when no pair is positive,
        since every threshold then has f1 0. With any positive pair the f1 is above 0.

    Raises:
        ValueError: the shapes differ, or a score is not finite.
    """
    scores, gold = np.asarray(scores), np.asarray(gold, dtype=bool)
    if scores.shape != gold.shape:
        raise ValueError(f"scores of shape {scores.shape} for gold of shape {gold.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    if not gold.any():
        return None
    order = np.argsort(scores, axis=None)[::-1]  # (P,) from the highest score down
    falling = scores.ravel()[order]  # (P,)
    # a threshold admits all pairs of its score: count at the last of each run of equal scores
    last = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(falling) - 1)  # (T,)
    predicted = last + 1  # (T,) pairs predicted positive
    true_positives = np.cumsum(gold.ravel()[order])[last]  # (T,)
    positives = true_positives[-1]
    f1 = 2 * true_positives / (predicted + positives)  # (T,)
    best = int(f1.argmax())  # the first, so the highest threshold
    return BestThreshold(
        threshold=float(falling[last[best]]),
        f1=float(f1[best]),
        precision=float(true_positives[best] / predicted[best]),
        recall=float(true_positives[best] / positives),
    )
