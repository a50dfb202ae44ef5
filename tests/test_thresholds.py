"""The threshold of best f1: worked examples, and brute force on scores with many ties."""

from dataclasses import astuple

import numpy as np
import pytest

from evaluation.thresholds import best_f1_threshold


def brute_force(scores: np.ndarray, gold: np.ndarray) -> tuple[float, ...]:
    """Try every distinct score, from the highest down."""
    best = (0.0, 0.0, 0.0, 0.0)
    for threshold in sorted(set(scores.tolist()), reverse=True):
        predicted = scores >= threshold
        hits = sum(p and g for p, g in zip(predicted, gold, strict=True))
        f1 = 2 * hits / (predicted.sum() + gold.sum())
        if f1 > best[1]:
            best = (threshold, f1, hits / predicted.sum(), hits / gold.sum())
    return best


@pytest.mark.parametrize("steps", [3, 20, 10**6])
@pytest.mark.parametrize("seed", range(5))
def test_equals_brute_force(steps, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-steps, steps, size=40) / steps
    gold = rng.random(40) < rng.choice([0.05, 0.4, 1])
    gold[0] = True
    found = best_f1_threshold(scores.astype(np.float32).reshape(8, 5), gold.reshape(8, 5))
    assert astuple(found) == pytest.approx(brute_force(scores, gold))


@pytest.mark.parametrize(
    ("scores", "gold", "expected"),
    [
        # from the top: 1/1 found of 3, 1/2, 2/3, 3/4 (f1 6/7), 3/5
        ([0.9, 0.8, 0.7, 0.6, 0.5], [1, 0, 1, 1, 0], (0.6, 6 / 7, 0.75, 1.0)),
        # equal scores go together: apart, the positive of the tied pair would give f1 1
        ([0.5, 0.5, 0.1], [1, 0, 0], (0.5, 2 / 3, 0.5, 1.0)),
        # the highest of equally good ones: at 3, 1 hit of 1 and 2 positives; at 0, 2 hits of 4
        ([3, 2, 1, 0], [1, 0, 0, 1], (3.0, 2 / 3, 1.0, 0.5)),
        ([-2, -1], [1, 1], (-2.0, 1.0, 1.0, 1.0)),
    ],
)
def test_by_hand(scores, gold, expected):
    found = best_f1_threshold(np.array(scores), np.array(gold, dtype=bool))
    assert astuple(found) == pytest.approx(expected)


def test_without_positives_there_is_no_threshold():
    assert best_f1_threshold(np.array([0.1, 0.2]), np.array([False, False])) is None
