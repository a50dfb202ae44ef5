"""How many clusters the words of a model live in.

Axes: W words.
"""

import numpy as np


def cluster_counts(
    clusters: np.ndarray, probabilities: np.ndarray, threshold: float
) -> dict[str, int]:
    """Count the clusters in use and the words that use them.

    A word is active when the probability of its most probable cluster is at least ``threshold``.
    A word with probability 0 is unknown to the model and never active, not even at threshold 0.

    Args:
        clusters: (W,) integers, the most probable cluster of each distinct training token.
        probabilities: (W,) in 0..1, the probability of that cluster given the word.
        threshold: The text encoder's threshold, in 0..1. It is compared in the type of
            ``probabilities``, so that a float32 0.08 reaches the threshold 0.08.

    Returns:
        ``active_clusters``, the number of distinct clusters of active words, and
        ``active_tokens``, the number of active words. Both are 0 without words.

    Raises:
        ValueError: the two arrays differ in length.

    Source: Berger et al. 2022.
    """
    if len(clusters) != len(probabilities):
        raise ValueError(f"{len(clusters)} clusters for {len(probabilities)} probabilities")
    probabilities = np.asarray(probabilities)
    active = (probabilities >= float(threshold)) & (probabilities > 0)  # (W,)
    return {
        "active_clusters": len(np.unique(np.asarray(clusters)[active])),
        "active_tokens": int(active.sum()),
    }
