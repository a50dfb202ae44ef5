"""Agreement between clusters of words and human categories.

Axes: W words, K categories, C clusters. Labels are any integers; only equality matters.
"""

import numpy as np

SCORE_NAMES = (
    "v_measure",
    "purity",
    "collocation",
    "purity_collocation_f1",
    "f_score",
    "adjusted_mutual_info",
)


def categorization_scores(
    categories: np.ndarray, clusters: np.ndarray
) -> dict[str, float | int | None]:
    """Score a clustering of words against their categories.

    With n_kc the number of words of category k in cluster c, n_k and n_c its row and column
    sums, and n = W:

    - ``v_measure``: harmonic mean of homogeneity and completeness (Rosenberg & Hirschberg 2007).
      It rises with the number of clusters even for random ones.
    - ``purity``: sum over c of max_k n_kc / n.
    - ``collocation``: sum over k of max_c n_kc / n.
    - ``purity_collocation_f1``: harmonic mean of the two.
    - ``f_score``: sum over k of n_k / n * max_c 2 n_kc / (n_k + n_c) (SemEval-2007 task 2,
      Agirre & Soroa 2007).
    - ``adjusted_mutual_info``: mutual information corrected for chance (Vinh et al. 2010).
    - ``word_count``: n.

    All lie in 0..1 and 1 is a perfect match, except ``adjusted_mutual_info``: 0 is the expected
    value of random clusters, so it may be slightly negative. One category and one cluster for all
    words score 1 throughout.

    Args:
        categories: (W,) integers, the category of each word.
        clusters: (W,) integers, the cluster of each word.

    Returns:
        The seven values above; without words every score is None and ``word_count`` is 0.

    Raises:
        ValueError: the two arrays differ in length.

    Source: Berger et al. 2022.
    """
    if len(categories) != len(clusters):
        raise ValueError(f"{len(categories)} categories for {len(clusters)} clusters")
    word_count = len(categories)
    if word_count == 0:
        return {**dict.fromkeys(SCORE_NAMES), "word_count": 0}

    from sklearn.metrics import adjusted_mutual_info_score, v_measure_score
    from sklearn.metrics.cluster import contingency_matrix

    overlap = contingency_matrix(categories, clusters)  # (K, C)
    category_sizes = overlap.sum(axis=1)  # (K,)
    purity = overlap.max(axis=0).sum() / word_count
    collocation = overlap.max(axis=1).sum() / word_count
    scores = {
        "v_measure": v_measure_score(categories, clusters),
        "purity": purity,
        "collocation": collocation,
        "purity_collocation_f1": 2 * purity * collocation / (purity + collocation),
        "f_score": category_sizes @ _best_f1(overlap) / word_count,
        "adjusted_mutual_info": adjusted_mutual_info_score(categories, clusters),
    }
    return {**{name: float(score) for name, score in scores.items()}, "word_count": word_count}


def category_scores(
    categories: np.ndarray, clusters: np.ndarray
) -> dict[int, dict[str, float | int]]:
    """Return how well some cluster fits each category: the summands of ``f_score``.

    Args:
        categories: (W,) integers, the category of each word.
        clusters: (W,) integers, the cluster of each word.

    Returns:
        For each category with words, in ascending order, ``f1``, the largest F1 of the category
        and a cluster as sets of words, in 0..1, and ``word_count``.
    """
    if len(categories) == 0:
        return {}
    from sklearn.metrics.cluster import contingency_matrix

    overlap = contingency_matrix(categories, clusters)  # (K, C)
    return {
        int(category): {"f1": float(f1), "word_count": int(count)}
        for category, f1, count in zip(
            np.unique(categories), _best_f1(overlap), overlap.sum(axis=1), strict=True
        )
    }


def _best_f1(overlap: np.ndarray) -> np.ndarray:
    """Return the largest F1 of each category and a cluster, (K,), from their overlaps (K, C)."""
    sizes = overlap.sum(axis=1, keepdims=True) + overlap.sum(axis=0)  # (K, C)
    best: np.ndarray = (2 * overlap / sizes).max(axis=1)
    return best


def chance_categorization_scores(
    categories: np.ndarray,
    clusters: np.ndarray,
    seed: int,
    draws: int = 20,
    kept: np.ndarray | None = None,
) -> dict[str, float | int | None]:
    """Return what random clusters score: the level to read ``categorization_scores`` against.

    Each draw puts every word into one of C clusters, uniformly and independently, where C is the
    number of distinct values in ``clusters``; each score is the mean over the draws. A draw may
    leave some of the C clusters empty. Words in ``kept`` stay where they are, and their clusters
    are not among the C: so words that a model cannot place, which share one cluster, do so in the
    chance level, too.

    Args:
        categories: (W,) integers, the category of each word.
        clusters: (W,) integers, the clusters of the model; only their number is used.
        seed: Seed of the draws; the same seed gives the same values.
        draws: Number of draws, at least 1.
        kept: (W,) bool, or None for none.

    Returns:
        The keys and ranges of ``categorization_scores``; without words every score is None.

    Raises:
        ValueError: the two arrays differ in length, or ``draws`` is less than 1.
    """
    if len(categories) != len(clusters):
        raise ValueError(f"{len(categories)} categories for {len(clusters)} clusters")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    word_count = len(categories)
    if word_count == 0:
        return categorization_scores(categories, clusters)
    rng = np.random.default_rng(seed)
    clusters = np.asarray(clusters)
    moved = np.ones(word_count, dtype=bool) if kept is None else ~kept  # (W,)
    cluster_count = len(np.unique(clusters[moved]))
    # behind all clusters that stay, so that the two do not mix
    first = 0 if moved.all() else int(clusters[~moved].max()) + 1
    drawn = []
    for _ in range(draws):
        random = clusters.copy()
        if moved.any():
            random[moved] = first + rng.integers(cluster_count, size=int(moved.sum()))
        drawn.append(categorization_scores(categories, random))
    means = {name: float(np.mean([scores[name] for scores in drawn])) for name in SCORE_NAMES}
    return {**means, "word_count": word_count}
