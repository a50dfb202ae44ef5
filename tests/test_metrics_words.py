"""The word metrics against slow transcriptions of their definitions."""

import itertools
import math

import numpy as np
import pytest

from evaluation.association import association_scores
from evaluation.categorization import categorization_scores, chance_categorization_scores
from evaluation.cluster_counts import cluster_counts
from evaluation.concreteness import MIN_COUNTS, concreteness_scores

SEEDS = range(3)


def entropy(labels):
    n = len(labels)
    return -sum(
        labels.count(label) / n * math.log(labels.count(label) / n) for label in set(labels)
    )


def slow_categorization(categories, clusters):
    n = len(categories)
    by_category, by_cluster = (
        [{w for w in range(n) if labels[w] == label} for label in set(labels)]
        for labels in (categories, clusters)
    )
    purity = sum(max(len(c & k) for k in by_category) for c in by_cluster) / n
    collocation = sum(max(len(c & k) for c in by_cluster) for k in by_category) / n
    f_score = 0.0
    for category in by_category:
        best = 0.0
        for cluster in by_cluster:
            if both := len(category & cluster):
                precision, recall = both / len(cluster), both / len(category)
                best = max(best, 2 * precision * recall / (precision + recall))
        f_score += len(category) / n * best
    of_categories, of_clusters = entropy(categories), entropy(clusters)
    joint = entropy(list(zip(categories, clusters, strict=True)))
    homogeneity = 1 - (joint - of_clusters) / of_categories if of_categories else 1.0
    completeness = 1 - (joint - of_categories) / of_clusters if of_clusters else 1.0
    both = homogeneity + completeness
    return {
        "v_measure": 2 * homogeneity * completeness / both if both else 0.0,
        "purity": purity,
        "collocation": collocation,
        "purity_collocation_f1": 2 * purity * collocation / (purity + collocation),
        "f_score": f_score,
        "word_count": n,
    }


def mutual_info(a, b):
    return entropy(a) + entropy(b) - entropy(list(zip(a, b, strict=True)))


@pytest.mark.parametrize("seed", SEEDS)
def test_categorization_equals_the_definitions(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 60))
    categories = rng.integers(rng.integers(1, 9), size=n) - 2  # labels need not start at 0
    clusters = rng.integers(rng.integers(1, 40), size=n) * 7
    scores = categorization_scores(categories, clusters)
    expected = slow_categorization(categories.tolist(), clusters.tolist())
    del scores["adjusted_mutual_info"]  # tested below on small inputs
    assert scores == pytest.approx(expected, abs=1e-9)
    assert all(type(scores[name]) is float for name in scores if name != "word_count")
    assert type(scores["word_count"]) is int


@pytest.mark.parametrize("seed", SEEDS)
def test_adjusted_mutual_info_subtracts_the_mean_over_all_permutations(seed):
    rng = np.random.default_rng(seed)
    categories = [0, 0, 1, 1, 2, *rng.integers(3, size=1).tolist()]
    clusters = [0, 1, *rng.integers(3, size=4).tolist()]
    scores = categorization_scores(np.array(categories), np.array(clusters))
    orders = [list(order) for order in itertools.permutations(clusters)]
    chance = sum(mutual_info(categories, order) for order in orders) / len(orders)
    upper = (entropy(categories) + entropy(clusters)) / 2
    expected = (mutual_info(categories, clusters) - chance) / (upper - chance)
    assert scores["adjusted_mutual_info"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("labels", [[3], [3, 3, 3], [0, 1, 2, 3], [0, 0, 1, 1]])
def test_a_perfect_clustering_scores_one_throughout(labels):
    scores = categorization_scores(np.array(labels), np.array(labels) + 5)
    assert scores.pop("word_count") == len(labels)
    assert scores == pytest.approx(dict.fromkeys(scores, 1.0))


def test_categorization_without_words_is_undefined():
    empty = np.array([], dtype=int)
    for scores in (
        categorization_scores(empty, empty),
        chance_categorization_scores(empty, empty, seed=0),
    ):
        assert scores.pop("word_count") == 0
        assert len(scores) == 6
        assert set(scores.values()) == {None}


@pytest.mark.parametrize("kept_count", [0, 40, 80])
def test_chance_is_the_mean_over_uniform_clusters_of_the_same_number(kept_count):
    """Of 80 words, those in a negative cluster are not drawn, and their cluster is not drawn."""
    rng = np.random.default_rng(7)
    categories = rng.integers(5, size=80)
    clusters = rng.choice([2, 40, 41, 99], size=80)  # four distinct clusters
    kept = np.arange(80) < kept_count
    clusters[kept] = -1
    chance = chance_categorization_scores(categories, clusters, seed=3, draws=6)
    draws = np.random.default_rng(3)
    drawn = []
    for _ in range(6):
        clusters[~kept] = draws.integers(4, size=80 - kept_count)
        drawn.append(slow_categorization(categories.tolist(), clusters.tolist()))
    for name, value in chance.items():
        if name != "adjusted_mutual_info":
            assert value == pytest.approx(sum(scores[name] for scores in drawn) / 6)
            assert type(value) is (int if name == "word_count" else float)


@pytest.mark.parametrize("seed", SEEDS)
def test_concreteness_equals_the_definitions(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(20, 50))
    predicted = rng.integers(0, 8, size=n) / 7  # coarse, so that ranks tie
    ratings = np.round(rng.uniform(1, 5, size=n), 1)
    counts = np.exp(rng.uniform(0, 10, size=n)).astype(int)
    scores = concreteness_scores(predicted, ratings, counts)
    assert scores["mean_absolute_error"] == pytest.approx(np.abs(predicted - ratings).mean())
    assert scores["word_count"] == n
    for name in ("pearson", "spearman", "frequency_baseline"):
        by_count = scores[f"{name}_by_min_count"]
        assert list(by_count) == [str(k) for k in MIN_COUNTS]
        for k in MIN_COUNTS:
            kept = counts > k
            x, y = (np.log(counts) if "frequency" in name else predicted)[kept], ratings[kept]
            if name == "spearman":
                x, y = ([(sum(v < w) + sum(v <= w) + 1) / 2 for w in v] for v in (x, y))
            expected = np.corrcoef(x, y)[0, 1] if len(x) >= 10 else None
            r = by_count[str(k)]["r"]
            assert r == pytest.approx(expected, abs=1e-9)
            assert r is None or type(r) is float
            assert by_count[str(k)]["word_count"] == len(x)


def r_by_name(predicted, ratings, counts, min_count):
    scores = concreteness_scores(predicted, ratings, counts, (min_count,))
    names = ("pearson", "spearman", "frequency_baseline")
    return [scores[f"{name}_by_min_count"][str(min_count)]["r"] for name in names]


def test_fewer_than_ten_words_have_no_correlation():
    rising = np.arange(1, 11)
    assert r_by_name(rising, rising * 2, rising, 0) == pytest.approx([1, 1, 0.95], abs=0.01)
    assert r_by_name(rising, rising * 2, rising, 1) == [None] * 3  # 9 words
    empty = np.array([])
    assert r_by_name(empty, empty, empty, 0) == [None] * 3


def test_a_constant_side_has_no_correlation():
    rising, counts = np.arange(1, 13) / 10, np.full(12, 3)
    for predicted, ratings in (
        (np.full(12, 0.1), rising),
        (np.array([0.3] * 11 + [0.1 + 0.2]), rising),  # differs by rounding only
        (rising, np.full(12, 4.9)),
        (np.zeros(12), rising),
    ):
        assert r_by_name(predicted, ratings, counts, 0) == [None] * 3
    assert r_by_name(rising, 10 * rising, counts, 0) == [pytest.approx(1), pytest.approx(1), None]


@pytest.mark.parametrize("seed", SEEDS)
def test_association_equals_the_definition(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 25))
    clusters = rng.integers(rng.integers(1, 8), size=n)
    pairs = [pair for pair in itertools.combinations(range(n), 2) if rng.random() < 0.3]
    pairs = [pair[::-1] if rng.random() < 0.5 else pair for pair in pairs]  # order means nothing
    strengths = rng.random(len(pairs))
    found = [s for (i, j), s in zip(pairs, strengths, strict=True) if clusters[i] == clusters[j]]
    together = sum(clusters[i] == clusters[j] for i, j in itertools.combinations(range(n), 2))
    scores = association_scores(clusters, np.array(pairs), strengths)
    assert scores == {
        "mean_association_strength": pytest.approx(sum(found) / len(found)) if found else None,
        "pairs_found": len(found),
        "pairs_not_found": together - len(found),
    }
    assert type(scores["pairs_found"]) is type(scores["pairs_not_found"]) is int


def test_association_without_found_pairs_has_no_mean():
    assert association_scores(np.array([0, 0, 1]), np.array([[0, 2]]), np.array([3.0])) == {
        "mean_association_strength": None,
        "pairs_found": 0,
        "pairs_not_found": 1,
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_cluster_counts_equal_the_definition(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 40))
    clusters = rng.integers(12, size=n)
    probabilities = rng.integers(0, 6, size=n) / 5  # many equal the threshold, many are 0
    threshold = float(rng.integers(0, 6) / 5)
    active = [w for w in range(n) if probabilities[w] >= threshold and probabilities[w] != 0]
    counts = cluster_counts(clusters, probabilities, threshold)
    assert counts == {
        "active_clusters": len({int(clusters[w]) for w in active}),
        "active_tokens": len(active),
    }
    assert all(type(count) is int for count in counts.values())


def test_a_float32_probability_reaches_a_threshold_of_the_same_digits():
    # float32(0.08) is less than the float64 0.08; the encoder compares in float32 too.
    assert np.float64(np.float32(0.08)) < 0.08
    for threshold in (0.08, np.float64(0.08)):
        counts = cluster_counts(np.array([3]), np.array([0.08], dtype=np.float32), threshold)
        assert counts["active_tokens"] == 1
