"""How many clusters the words of a model live in.

Axes: W words.
"""

import numpy as np


def cluster_counts(
    clusters: np.ndarray, probabilities: np.ndarray, threshold: float
) -> dict[str, int]:
    """Count the active words and their clusters.

    A word is active when the probability of its most probable cluster is at least ``threshold``,
    but never with probability 0: the model does not know such a word.

    Args:
        clusters: (W,) integers, the most probable cluster of each distinct training token.
        probabilities: (W,) in 0..1, the probability of that cluster given the word.
        threshold: The text encoder's. It is compared in the type of ``probabilities``, so that a
            float32 0.08 reaches the threshold 0.08.

    Source: Berger et al. 2022.
    """
    active = (probabilities >= float(threshold)) & (probabilities > 0)  # (W,)
    return {
        "active_clusters": len(np.unique(clusters[active])),
        "active_tokens": int(active.sum()),
    }
