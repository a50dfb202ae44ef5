"""Human word associations within clusters of words.

Axes: W words, P associated pairs of words.
"""

import numpy as np


def association_scores(
    clusters: np.ndarray, pair_words: np.ndarray, pair_strengths: np.ndarray
) -> dict[str, float | int | None]:
    """Return how strongly people associate words that share a cluster.

    Args:
        clusters: (W,) integers, the cluster of each word.
        pair_words: (P, 2) indices of two different words; each unordered pair at most once.
        pair_strengths: (P,) association strengths (Small World of Words, De Deyne et al. 2019).

    Returns:
        Over all unordered pairs of words that share a cluster, ``pairs_found`` among the P and
        ``pairs_not_found``, and ``mean_association_strength`` over the found ones, None without.

    Source: Berger et al. 2022.
    """
    found = clusters[pair_words[:, 0]] == clusters[pair_words[:, 1]]  # (P,)
    sizes = np.unique(clusters, return_counts=True)[1]  # words per cluster
    sharing_count = int((sizes * (sizes - 1) // 2).sum())
    strengths = pair_strengths[found]
    return {
        "mean_association_strength": float(strengths.mean()) if found.any() else None,
        "pairs_found": len(strengths),
        "pairs_not_found": sharing_count - len(strengths),
    }
