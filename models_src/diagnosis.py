"""Is a training alive? Sums over joint steps, and what they say of clusters and agreement.

Axes: B pairs of a step, C clusters.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models_src.joint import StepResult

# a cluster is alive when its share of the inputs lies between these: below, it hardly ever fires;
# above, it fires for nearly everything and tells nothing apart
ALIVE_FROM, ALIVE_TO = 0.001, 0.9
STARVING_FROM = 0.5  # share of inputs without any cluster
COLLAPSED_BELOW = 0.05  # share of clusters alive
# of a cluster, as a share of the agreement of all clusters together; chosen on Flickr8k
LEAST_AGREEMENT = 1 / 3

_SCALARS = (
    "pairs", "pairs_text_learned", "visual_loss", "text_loss", "clusters_per_image",
    "clusters_per_caption", "images_without_cluster", "captions_without_cluster",
)  # fmt: skip


def empty_sums(cluster_num: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the sums of no step: (8 + 3 C,) float64, see ``step_sums``."""
    return torch.zeros(len(_SCALARS) + 3 * cluster_num, dtype=torch.float64, device=device)


def step_sums(result: StepResult) -> Tensor:
    """Return a step's sums over its pairs, (8 + 3 C,) float64; nothing leaves the device.

    They are those of ``_SCALARS``, a mean loss times the pairs it is of; then for each cluster the
    images, the captions, and the pairs with both that activate it.
    """
    images, captions = result.image_bits, result.caption_bits  # (B, C)
    pair_count = len(images)
    if not pair_count:  # whose mean loss is not a number
        return empty_sums(images.shape[1], images.device)
    pairs, nothing = (torch.full_like(result.visual_loss, count) for count in (pair_count, 0))
    scalars = [
        pairs,
        nothing if result.text_loss is None else pairs,
        result.visual_loss * pair_count,
        nothing if result.text_loss is None else result.text_loss * pair_count,
        images.sum(),
        captions.sum(),
        (~images.any(dim=1)).sum(),
        (~captions.any(dim=1)).sum(),
    ]
    by_cluster = [bits.sum(dim=0).double() for bits in (images, captions, images & captions)]
    return torch.cat([torch.stack([value.double() for value in scalars]), *by_cluster])


@dataclass(frozen=True)
class BatchStatistics:
    """What some joint steps saw, as means over their pairs."""

    visual_loss: float
    text_loss: float | None  # over the steps in which the text encoder learned; None without any
    clusters_per_image: float
    clusters_per_caption: float
    images_without_cluster: float  # share, 0..1
    captions_without_cluster: float  # share, 0..1
    alive_image_clusters: int  # see ALIVE_FROM, ALIVE_TO
    alive_caption_clusters: int
    agreement: float | None  # see ``bit_agreement``


def batch_statistics(sums: Tensor) -> BatchStatistics:
    """Return what sums over steps (see ``step_sums``) say; of no pairs, means are 0 or None."""
    values = sums.cpu()
    totals = dict(zip(_SCALARS, values[: len(_SCALARS)].tolist(), strict=True))
    pairs, text_pairs = max(1.0, totals.pop("pairs")), totals.pop("pairs_text_learned")
    text_total = totals.pop("text_loss")
    images, captions, both = values[len(_SCALARS) :].view(3, -1)  # (C,) each
    shares = torch.stack([images, captions]) / pairs  # (2, C)
    alive = ((shares >= ALIVE_FROM) & (shares <= ALIVE_TO)).sum(dim=1).tolist()
    return BatchStatistics(
        text_loss=text_total / text_pairs if text_pairs else None,
        **{name: total / pairs for name, total in totals.items()},
        alive_image_clusters=alive[0],
        alive_caption_clusters=alive[1],
        agreement=bit_agreement(images, captions, both, pairs),
    )


def bit_agreement(
    images: Tensor, captions: Tensor, both: Tensor, pair_count: float
) -> float | None:
    """Return how far the bits of images and of their captions agree beyond chance.

    Cohen's kappa (Cohen 1960) of the two bits, its numerators and denominators summed over
    clusters: 1 when all bits agree, 0 when they agree as often as bits drawn independently with
    each cluster's two frequencies, below 0 when less often. None when every bit is constant.

    ``images``, ``captions`` and ``both`` (C,) count the images, the captions and the pairs with
    both that activate each cluster.
    """
    above_chance, possible = (x.sum() for x in _agreement(images, captions, both, pair_count))
    if possible <= 1e-9 * pair_count:  # rounding leaves a little of what is 0
        return None
    return float(above_chance / possible)


def _agreement(
    images: Tensor, captions: Tensor, both: Tensor, pair_count: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Return numerator and denominator of each cluster's kappa, both times the pairs: 2 x (C,)."""
    expected = images * captions / pair_count  # (C,)
    return both - expected, (images + captions) / 2 - expected


def agreeing_clusters(sums: Tensor) -> Tensor:
    """Return the clusters that images and captions activate alike, (C,) bool, by ``step_sums``.

    Their kappa is at least ``LEAST_AGREEMENT`` of that of all clusters together (see
    ``bit_agreement``). A cluster whose bits are constant is among them.
    """
    images, captions, both = sums[len(_SCALARS) :].view(3, -1)  # (C,) each
    above_chance, possible = _agreement(images, captions, both, sums[0].clamp(min=1))
    return above_chance * possible.sum() >= LEAST_AGREEMENT * possible * above_chance.sum()


def trouble(seen: BatchStatistics, cluster_num: int) -> str | None:
    """Say what is wrong with a training that starves or has collapsed; None where neither is so.

    It starves when most images or captions activate no cluster; it has collapsed when hardly any
    cluster tells inputs apart.
    """
    shares = (seen.images_without_cluster, "images"), (seen.captions_without_cluster, "captions")
    empty, worst = max(shares, key=lambda side: side[0])
    if empty > STARVING_FROM:
        change = {
            "images": "a lower --visual_threshold",
            "captions": "a higher --voting_share (lstm, gru) or a lower --text_threshold (others)",
        }[worst]
        return (
            f"training is starving: {empty:.0%} of the {worst} activate no cluster; try {change}, "
            "a longer --random_start_steps, more epochs, or fewer clusters (--cluster_num)"
        )
    sides = (seen.alive_image_clusters, "images"), (seen.alive_caption_clusters, "captions")
    alive, fewest = min(sides, key=lambda side: side[0])
    if alive < max(2, COLLAPSED_BELOW * cluster_num):
        return (
            f"training has collapsed: only {alive} of {cluster_num} clusters tell {fewest} apart; "
            "try a longer --random_start_steps, a lower --visual_learning_rate, and with lstm and "
            "gru a lower --vote_distance"
        )
    return None
