"""The threshold of best f1, by worked examples."""

import numpy as np
import pytest

from evaluation.clip_classification import best_f1_threshold


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
    assert tuple(found.values()) == pytest.approx(expected)
