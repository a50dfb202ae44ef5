"""The threshold of best f1: worked examples, and brute force on scores with many ties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.thresholds import BestThreshold, best_f1_threshold


def f1_at(threshold: float, scores: np.ndarray, gold: np.ndarray) -> float:
    """Return the f1 of a threshold, counted pair by pair."""
    predicted = scores >= threshold
    hits = sum(p and g for p, g in zip(predicted, gold, strict=True))
    return 2 * hits / (predicted.sum() + gold.sum())


def brute_force(scores: np.ndarray, gold: np.ndarray) -> BestThreshold | None:
    """Try every distinct score, from the highest down."""
    if not gold.any():
        return None
    best = None
    for threshold in sorted(set(scores.tolist()), reverse=True):
        f1 = f1_at(threshold, scores, gold)
        if best is None or f1 > best.f1:
            predicted = scores >= threshold
            hits = (predicted & gold).sum()
            best = BestThreshold(threshold, f1, hits / predicted.sum(), hits / gold.sum())
    return best


def test_worked_example():
    # from the top: 1/1 found of 3, 1/2, 2/3, 3/4 (f1 6/7), 3/5
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    gold = np.array([True, False, True, True, False])
    assert best_f1_threshold(scores, gold) == BestThreshold(0.6, 6 / 7, 0.75, 1.0)


def test_equal_scores_go_together():
    """Apart, the positive of the tied pair would give f1 1."""
    found = best_f1_threshold(np.array([0.5, 0.5, 0.1]), np.array([True, False, False]))
    assert found == BestThreshold(0.5, 2 / 3, 0.5, 1.0)


def test_highest_threshold_among_equally_good_ones():
    # at 3: 1 hit of 1 and 2 positives, 2/3; at 0: 2 hits of 4, 4/6
    found = best_f1_threshold(np.array([3, 2, 1, 0]), np.array([True, False, False, True]))
    assert found == BestThreshold(3.0, 2 / 3, 1.0, 0.5)


def test_matrices_are_read_element_by_element():
    scores = np.array([[0.2, 0.9], [0.8, 0.1]], dtype=np.float32)
    found = best_f1_threshold(scores, np.array([[False, True], [True, False]]))
    assert found == BestThreshold(float(np.float32(0.8)), 1.0, 1.0, 1.0)
    assert ((scores >= found.threshold) == [[False, True], [True, False]]).all()


def test_without_positives_there_is_no_threshold():
    assert best_f1_threshold(np.array([0.1, 0.2]), np.array([False, False])) is None
    assert best_f1_threshold(np.zeros(0), np.zeros(0, dtype=bool)) is None


def test_all_positive():
    found = best_f1_threshold(np.array([-2.0, -1.0]), np.array([True, True]))
    assert found == BestThreshold(-2.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_must_be_finite(bad):
    with pytest.raises(ValueError, match="finite"):
        best_f1_threshold(np.array([0.5, bad]), np.array([True, False]))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shape"):
        best_f1_threshold(np.zeros(3), np.zeros(2, dtype=bool))


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=40))
def test_agrees_with_brute_force_on_many_ties(pairs):
    scores = np.array([score / 4 for score, _ in pairs])
    gold = np.array([label for _, label in pairs], dtype=bool)
    assert best_f1_threshold(scores, gold) == brute_force(scores, gold)


@given(
    st.lists(st.tuples(st.floats(-1, 1, width=32), st.booleans()), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
)
def test_agrees_with_brute_force_in_any_order(pairs, random):
    scores = np.array([score for score, _ in pairs], dtype=np.float32)
    gold = np.array([label for _, label in pairs], dtype=bool)
    expected = brute_force(scores, gold)
    order = list(range(len(pairs)))
    random.shuffle(order)
    assert best_f1_threshold(scores[order], gold[order]) == expected


def test_a_million_pairs_are_quick():
    """Full COCO has four times as many; a quadratic search would not end."""
    rng = np.random.default_rng(0)
    scores = rng.integers(1000, size=1_000_000) / 1000
    gold = rng.random(len(scores)) < scores**4
    found = best_f1_threshold(scores, gold)

    def f1(threshold: float) -> float:
        predicted = scores >= threshold
        return 2 * (predicted & gold).sum() / (predicted.sum() + gold.sum())

    assert found.f1 == f1(found.threshold)
    assert all(found.f1 >= f1(threshold) for threshold in np.arange(0, 1, 0.02))
    assert found.f1 > 1.2 * f1(0)
