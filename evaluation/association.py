"""Human word associations within clusters of words.

Axes: W words, P associated pairs of words.
"""

import numpy as np


def association_scores(
    clusters: np.ndarray, pair_words: np.ndarray, pair_strengths: np.ndarray
) -> dict[str, float | int | None]:
    """Return how strongly people associate words that share a cluster.

    Over all unordered pairs of the W words that share a cluster; such a pair is found when it is
    one of the P associated pairs.

    Args:
        clusters: (W,) integers, the cluster of each word.
        pair_words: (P, 2) indices into the W words; the two of a row differ, and each unordered
            pair stands there at most once.
        pair_strengths: (P,) association strength of each pair (Small World of Words, De Deyne et
            al. 2019).

    Returns:
        ``mean_association_strength`` over the found pairs (in the unit of ``pair_strengths``; None
        when none is found), ``pairs_found`` and ``pairs_not_found`` (their sum is the number of
        pairs that share a cluster).

    Raises:
        ValueError: ``pair_words`` and ``pair_strengths`` differ in length.
        IndexError: an index in ``pair_words`` is not one of the W words.

    Source: Berger et al. 2022.
    """
    if len(pair_words) != len(pair_strengths):
        raise ValueError(f"{len(pair_words)} pairs for {len(pair_strengths)} strengths")
    # An empty list has neither the shape nor the type of an index array.
    pairs = np.asarray(pair_words, dtype=np.int64).reshape(-1, 2)
    clusters = np.asarray(clusters)
    found = clusters[pairs[:, 0]] == clusters[pairs[:, 1]]  # (P,)
    found_count = int(found.sum())
    sizes = np.unique(clusters, return_counts=True)[1]  # words per cluster
    sharing_count = int((sizes * (sizes - 1) // 2).sum())
    strengths = np.asarray(pair_strengths)[found]
    return {
        "mean_association_strength": float(strengths.mean()) if found_count else None,
        "pairs_found": found_count,
        "pairs_not_found": sharing_count - found_count,
    }
