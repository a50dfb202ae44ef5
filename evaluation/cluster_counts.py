"""How many clusters the words of a model live in.

Axes: W words.
"""

import numpy as np


def cluster_counts(
    clusters: np.ndarray, probabilities: np.ndarray, threshold: float
) -> dict[str, int]:
    """Count the active words of the training captions and their clusters.

    ``clusters`` (W,) are the most probable ones of the words, ``probabilities`` (W,) theirs. A word
    is active from the text encoder's ``threshold`` on, which is compared in the type of the
    probabilities (a float32 0.08 reaches 0.08), but never with 0: the model does not know it.

    Source: Berger et al. 2022.
    """
    active = (probabilities >= float(threshold)) & (probabilities > 0)  # (W,)
    return {
        "active_clusters": len(np.unique(clusters[active])),
        "active_tokens": int(active.sum()),
    }
