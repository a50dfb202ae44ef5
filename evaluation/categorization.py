"""Agreement between clusters of words and human categories.

Axes: W words, K categories, C clusters. Labels are any integers; only equality matters.
"""

import numpy as np
from sklearn.metrics import adjusted_mutual_info_score, v_measure_score
from sklearn.metrics.cluster import contingency_matrix

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
    """Score the clusters (W,) of words against their categories (W,).

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
    words score 1 throughout. Without words every score is None.

    Source: Berger et al. 2022.
    """
    word_count = len(categories)
    if word_count == 0:
        return {**dict.fromkeys(SCORE_NAMES), "word_count": 0}
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
    """Return how well some cluster fits each category, in ascending order.

    ``f1`` is the largest F1 of the category and a cluster as sets of words: the summand of
    ``f_score``. ``word_count`` is the category's size.
    """
    if len(categories) == 0:
        return {}
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
    categories: np.ndarray, clusters: np.ndarray, seed: int, draws: int = 20
) -> dict[str, float | int | None]:
    """Return what random clusters score: the level to read ``categorization_scores`` against.

    Each draw puts every word into one of as many clusters as ``clusters`` (W,) has, uniformly and
    independently; each score is the mean over the draws. Words in negative clusters stay there, and
    these are not among those drawn: so words that a model cannot place, which share one cluster, do
    so in the chance level, too.
    """
    moved = clusters >= 0  # (W,)
    places = np.unique(clusters[moved])
    if not len(places):
        return categorization_scores(categories, clusters)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(draws):
        random = clusters.copy()
        random[moved] = places[rng.integers(len(places), size=int(moved.sum()))]
        drawn.append(categorization_scores(categories, random))
    means = {name: float(np.mean([scores[name] for scores in drawn])) for name in SCORE_NAMES}
    return {**means, "word_count": len(categories)}
