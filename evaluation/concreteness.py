"""Agreement between the concreteness a model gives to words and human ratings.

Axes: W words.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

MIN_COUNTS = (0, 1, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)

# Values whose spread is below this share of their size differ by rounding only.
ROUNDING_SPREAD = 1e-11


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
        min_counts: Values k, none negative; each correlation is over the words with count > k.

    Returns:
        A dict with

        - ``mean_absolute_error``: mean of abs(predicted - rating) over all W words; None without
          words. For a joint model it is the published figure, which compares values in 0..1 with
          values in 1..5: read it only against other published figures.
        - ``word_count``: W.
        - ``pearson_by_min_count``: {"0": {"r": ..., "word_count": ...}, "1": ...}, Pearson's r of
          predicted concreteness and rating.
        - ``spearman_by_min_count``: the same with Spearman's rank correlation, ties given their
          mean rank.
        - ``frequency_baseline_by_min_count``: the same with Pearson's r of log(count) and rating:
          what the words' frequency alone tells of their concreteness.

        Each r is in -1..1 and None where it is undefined: fewer than two words, or one side
        constant (up to rounding).

    Raises:
        ValueError: the arrays differ in length, or a value of ``min_counts`` is negative.

    Source: Berger et al. 2022.
    """
    predicted = np.asarray(predicted, dtype=np.float64)
    ratings = np.asarray(ratings, dtype=np.float64)
    counts = np.asarray(counts)
    if not len(predicted) == len(ratings) == len(counts):
        raise ValueError(
            f"{len(predicted)} predictions, {len(ratings)} ratings and {len(counts)} counts"
        )
    if any(min_count < 0 for min_count in min_counts):
        raise ValueError(f"min_counts must not be negative: {list(min_counts)}")

    from scipy.stats import rankdata

    pearson, spearman, frequency = {}, {}, {}
    for min_count in min_counts:
        kept = counts > min_count  # (W,)
        x, y = predicted[kept], ratings[kept]
        key, word_count = str(min_count), int(kept.sum())
        pearson[key] = {"r": _pearson(x, y), "word_count": word_count}
        # A side that is constant up to rounding has no ranks worth comparing.
        ranked = (v if _is_constant(v) else rankdata(v) for v in (x, y))
        spearman[key] = {"r": _pearson(*ranked), "word_count": word_count}
        frequency[key] = {"r": _pearson(np.log(counts[kept]), y), "word_count": word_count}
    return {
        "mean_absolute_error": float(np.abs(predicted - ratings).mean()) if len(ratings) else None,
        "word_count": len(ratings),
        "pearson_by_min_count": pearson,
        "spearman_by_min_count": spearman,
        "frequency_baseline_by_min_count": frequency,
    }


def _pearson(x: np.ndarray, y: np.ndarray) -> float | None:
    """Return Pearson's r of two (W,) arrays, or None where it is undefined."""
    if _is_constant(x) or _is_constant(y):
        return None

    from scipy.stats import pearsonr

    return float(pearsonr(x, y).statistic)


def _is_constant(values: np.ndarray) -> bool:
    """Say whether (W,) values do not vary, or by rounding only; fewer than two never do."""
    return len(values) < 2 or bool(np.ptp(values) <= ROUNDING_SPREAD * np.abs(values).max())
