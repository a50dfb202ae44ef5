"""Groups of competing clusters, which keep two self-taught encoders from collapsing.

With independent clusters, "on for everything" and "off for everything" are answers on which both
encoders can agree for ever. Here the C clusters stand in groups of K neighbours. Within a group
they compete for each input (softmax), and a batch is shared out evenly: each input gets one
cluster of a group as the other encoder's target, and each cluster the same share of inputs. An
input still activates up to C / K clusters, one or more from each group.

Axes: B inputs, C clusters, K clusters of a group, G = C / K groups.

Sources: balanced assignment by Sinkhorn's iteration as in SeLa (Asano, Rupprecht, Vedaldi 2020)
and SwAV (Caron et al. 2020); several groups at once, like the several heads of SeLa.
"""

import math

import torch
from torch import Tensor

BALANCING_ITERATIONS = 5
SHARPNESS = 2.0  # by which log posteriors are multiplied before they are balanced


def group_log_ratios(scores: Tensor, size: int) -> Tensor:
    """Return by how much each cluster's share of its group exceeds an even share.

    With p = softmax of the scores within a group, the result is log(p K): 0 for an even share, at
    most log K. With groups of one the scores are returned as they are.

    Args:
        scores: (B, C) of any size.
        size: K, a divisor of C.

    Returns:
        (B, C).
    """
    if size == 1:
        return scores
    grouped = torch.log_softmax(scores.unflatten(1, (-1, size)), dim=2)  # (B, G, K)
    return (grouped + math.log(size)).flatten(1)


def group_posteriors(scores: Tensor, size: int) -> Tensor:
    """Return the softmax within each group, divided by the number of groups: rows sum to 1.

    Args:
        scores: (B, C) of any size.
        size: K, a divisor of C.

    Returns:
        (B, C) in 0..1.
    """
    grouped = torch.softmax(scores.unflatten(1, (-1, size)), dim=2)  # (B, G, K)
    return grouped.flatten(1) / grouped.shape[1]


@torch.no_grad()
def balanced_winners(scores: Tensor, size: int) -> Tensor:
    """Give each input one cluster of each group so that all clusters win about equally often.

    The posteriors within a group, sharpened, are scaled by Sinkhorn's iteration until inputs have
    equal weight and clusters nearly so; each input's largest entry wins (ties: the lowest cluster).

    Args:
        scores: (B, C) of any size.
        size: K, a divisor of C.

    Returns:
        (B, C) bool with one cluster of each group in every row.
    """
    plan = SHARPNESS * torch.log_softmax(scores.unflatten(1, (-1, size)), dim=2)  # (B, G, K)
    for _ in range(BALANCING_ITERATIONS):
        plan = plan - torch.logsumexp(plan, dim=0, keepdim=True)
        plan = plan - torch.logsumexp(plan, dim=2, keepdim=True)
    winners = torch.zeros_like(plan, dtype=torch.bool)
    return winners.scatter_(2, plan.argmax(dim=2, keepdim=True), True).flatten(1)


def group_cross_entropy(scores: Tensor, targets: Tensor, size: int) -> Tensor:
    """Return the mean cross-entropy of the groups' softmax against targets.

    Args:
        scores: (B, C) of any size.
        targets: (B, C) 0 or 1; several clusters of a group share the weight of one, and a group
            without any teaches nothing.
        size: K, a divisor of C.

    Returns:
        A scalar: the sum over groups with a target and over inputs, divided by B G.
    """
    log_posteriors = torch.log_softmax(scores.unflatten(1, (-1, size)), dim=2)  # (B, G, K)
    weights = targets.to(scores).unflatten(1, (-1, size))  # (B, G, K)
    weights = weights / weights.sum(dim=2, keepdim=True).clamp(min=1)
    loss: Tensor = -(weights * log_posteriors).sum(dim=2).mean()
    return loss
