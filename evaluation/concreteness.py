"""Agreement between the concreteness a model gives to words and human ratings.

Axes: W words.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import pearsonr, spearmanr

MIN_COUNTS = (0, 1, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
LEAST_WORDS = 10  # of fewer, a correlation says nothing (that of two words is always 1 or -1)
ROUNDING_SPREAD = 1e-11  # values whose spread is a smaller share of their size are constant


def concreteness_scores(
    predicted: np.ndarray,
    ratings: np.ndarray,
    counts: np.ndarray,
    min_counts: Sequence[int] = MIN_COUNTS,
) -> dict[str, Any]:
    """Correlate predicted word concreteness with human ratings.

    Args:
        predicted: (W,) of a joint model in 0..1, the largest probability that any cluster gives
            each word; of other models any measure that rises with concreteness.
        ratings: (W,) in 1..5, human concreteness (Brysbaert et al. 2014).
        counts: (W,) integers, occurrences of each word in the training captions.
        min_counts: Values k >= 0; each correlation is over the words with count > k.

    Returns:
        A dict with

        - ``mean_absolute_error``: mean of abs(predicted - rating); None without words. For a joint
          model it is the published figure, which compares values in 0..1 with values in 1..5:
          read it only against other published figures.
        - ``word_count``: W.
        - ``pearson_by_min_count``: {"0": {"r": ..., "word_count": ...}, "1": ...}, Pearson's r of
          predicted concreteness and rating.
        - ``spearman_by_min_count``: the same with Spearman's rank correlation.
        - ``frequency_baseline_by_min_count``: the same with Pearson's r of log(count) and rating:
          what the words' frequency alone tells of their concreteness.

        Each r is None of fewer than ``LEAST_WORDS`` words, or where one side is constant.

    Source: Berger et al. 2022.
    """
    scores: dict[str, Any] = {
        "mean_absolute_error": float(np.abs(predicted - ratings).mean()) if len(ratings) else None,
        "word_count": len(ratings),
    }
    for name, correlation, values in (
        ("pearson", pearsonr, predicted),
        ("spearman", spearmanr, predicted),
        ("frequency_baseline", pearsonr, np.log(np.maximum(counts, 1))),
    ):
        scores[f"{name}_by_min_count"] = {
            str(min_count): {
                "r": _r(correlation, values[counts > min_count], ratings[counts > min_count]),
                "word_count": int((counts > min_count).sum()),
            }
            for min_count in min_counts
        }
    return scores


def _r(correlation: Callable[..., Any], x: np.ndarray, y: np.ndarray) -> float | None:
    """Return the correlation of two (W,) arrays, or None where it is undefined."""
    if len(x) < LEAST_WORDS or any(
        np.ptp(values) <= ROUNDING_SPREAD * np.abs(values).max() for values in (x, y)
    ):
        return None
    return float(correlation(x, y).statistic)
