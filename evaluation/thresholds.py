"""The threshold of a score that separates positives from negatives best.

Axes: P pairs of a score and its gold label.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import precision_recall_curve


@dataclass(frozen=True)
class BestThreshold:
    """A threshold and what predicting ``score >= threshold`` reaches with it."""

    threshold: float  # one of the scores
    f1: float
    precision: float
    recall: float


def best_f1_threshold(scores: np.ndarray, gold: np.ndarray) -> BestThreshold | None:
    """Find the threshold of the best f1 among all P scores, the highest of equally good ones.

    ``gold`` (bool) says which pairs are positive. None when no pair is: all f1 are 0 then.
    """
    if not gold.any():
        return None
    precision, recall, thresholds = precision_recall_curve(gold.ravel(), scores.ravel())  # rising
    total = precision + recall
    f1 = 2 * precision * recall / np.where(total > 0, total, 1)
    best = int(np.flatnonzero(f1 > f1.max() - 1e-12)[-1])  # equal but for rounding
    return BestThreshold(*map(float, (thresholds[best], f1[best], precision[best], recall[best])))
