"""Groups of competing clusters, against plain loops."""

import math

import numpy as np
import pytest
import torch

from models_src.groups import (
    balanced_winners,
    group_cross_entropy,
    group_log_ratios,
    group_posteriors,
)


def softmax(z):
    return np.exp(z) / np.exp(z).sum()


@pytest.mark.parametrize(("groups", "size"), [(1, 2), (3, 4), (5, 3)])
def test_posteriors_and_log_ratios_are_softmaxes_within_groups(groups, size):
    scores = torch.randn(6, groups * size, dtype=torch.float64, generator=torch.manual_seed(0))
    posteriors, ratios = group_posteriors(scores, size), group_log_ratios(scores, size)
    for row in range(6):
        for group in range(groups):
            own = slice(group * size, (group + 1) * size)
            expected = softmax(scores[row, own].numpy())
            np.testing.assert_allclose(posteriors[row, own] * groups, expected, rtol=1e-12)
            np.testing.assert_allclose(ratios[row, own], np.log(expected * size), rtol=1e-9)
    torch.testing.assert_close(posteriors.sum(dim=1), torch.ones(6, dtype=torch.float64))


def test_an_even_share_has_ratio_zero_and_groups_of_one_change_nothing():
    assert group_log_ratios(torch.full((2, 6), 7.0), 3).abs().max() < 1e-6
    scores = torch.randn(2, 6)
    assert torch.equal(group_log_ratios(scores, 1), scores)


@pytest.mark.parametrize("offset", [0.0, 8.0])
def test_winners_are_one_of_each_group_and_shared_out_evenly(offset):
    scores = torch.randn(200, 12, generator=torch.manual_seed(1))
    scores[:, [0, 5]] += offset  # clusters that every input would choose
    winners = balanced_winners(scores, 4)
    assert (winners.unflatten(1, (3, 4)).sum(dim=2) == 1).all()
    shares = winners.float().mean(dim=0)
    assert shares.min() > 0.15
    assert shares.max() < 0.35


def test_clear_cases_win_their_own_cluster():
    kinds = torch.arange(4).repeat(10)
    scores = 6.0 * torch.eye(4)[kinds].repeat(1, 2)
    assert torch.equal(balanced_winners(scores, 4), scores > 0)


def test_winners_carry_no_gradient():
    assert not balanced_winners(torch.randn(4, 6, requires_grad=True), 3).requires_grad


def test_cross_entropy_shares_weight_within_groups_and_skips_groups_without_target():
    scores = torch.randn(3, 6, dtype=torch.float64, generator=torch.manual_seed(2))
    targets = torch.tensor(
        [[1, 0, 1, 0, 0, 1], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.bool
    )
    first, second = (scores.numpy()[:, own] for own in (slice(0, 3), slice(3, 6)))
    expected = -(
        (math.log(softmax(first[0])[0]) + math.log(softmax(first[0])[2])) / 2
        + math.log(softmax(second[0])[2])
        + math.log(softmax(second[1])[1])
    )
    loss = group_cross_entropy(scores, targets, 3)
    assert loss.item() == pytest.approx(expected / 6, rel=1e-12)
    assert group_cross_entropy(scores, torch.zeros_like(targets), 3) == 0
