"""The word-cluster count models (Berger et al. 2022, section 3): generative and discriminative.

Axes as in ``interface.py``.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from models_src.distributed import gather_rows
from models_src.hardware import to_device
from models_src.settings import TrainingSettings
from models_src.text_encoders.interface import caption_scores, uniform_posteriors


class CountTextEncoder:
    """Counts how often each word stands in captions whose image activates each cluster.

    ``generative`` turns the counts N(w,c) into p(c|w) through p(w|c) = N(w,c)/N(c) and a uniform
    cluster prior; ``discriminative`` takes p(c|w) = N(w,c)/N(w) with N(w) = sum_c N(w,c).
    """

    def __init__(self, mode: str, words: tuple[str, ...], cluster_num: int, device: str = "cpu"):
        self.mode = mode
        self.words = words
        self.cluster_num = cluster_num
        self.voted = torch.ones(cluster_num, dtype=torch.bool, device=device)
        # whole numbers: exact at any size, and their sum does not depend on the order of adding
        self.counts = torch.zeros(len(words), cluster_num, dtype=torch.int64, device=device)
        self.totals = torch.zeros(cluster_num, dtype=torch.int64, device=device)  # N(c)

    def posteriors(self, word_ids: Tensor) -> Tensor:
        """Return the rows p(c|w) of some words: (W,) ids -> (W, C) float64."""
        rows = self.counts[word_ids]  # (W, C)
        if self.mode == "generative":
            return uniform_posteriors(rows, self.totals)
        return rows.double() / rows.sum(dim=1, keepdim=True).clamp(min=1)

    def score(self, tokens: Tensor) -> Tensor:
        """Let each word vote for its most probable cluster (ties: the lowest index)."""
        device = self.counts.device
        captions, positions = torch.nonzero(tokens >= 0, as_tuple=True)  # (T,), (T,)
        words, token_words = torch.unique(tokens[captions, positions], return_inverse=True)
        # max takes the first of equals
        votes, clusters = self.posteriors(to_device(words, device)).max(dim=1)  # (W,), (W,)
        token_words, captions = to_device(token_words, device), to_device(captions, device)
        shape = torch.Size((len(tokens), self.cluster_num))
        return caption_scores(votes[token_words], clusters[token_words], captions, shape)

    votes = score

    def update(self, tokens: Tensor, votes: Tensor, targets: Tensor) -> Tensor:
        """Add a batch to the counts: N += TᵀL for token counts T (B, V) and bits L (B, C)."""
        loss = functional.binary_cross_entropy(votes.clamp(max=1), targets.to(votes))
        tokens, targets = gather_rows(tokens), gather_rows(targets)  # of all processes
        captions, positions = torch.nonzero(tokens >= 0, as_tuple=True)  # (T,), (T,)
        device = self.counts.device
        added = targets[to_device(captions, device)].long()  # (T, C)
        words = to_device(tokens[captions, positions], device)  # (T,)
        self.counts.index_add_(0, words, added)
        self.totals += added.sum(dim=0)
        return loss

    def revise_votes(self) -> None:
        """Words vote by the counts as they are at any time."""

    def refresh_word_table(self, batches: Iterable[Tensor]) -> None:
        """Counts are always up to date."""

    def word_posteriors(self) -> Tensor:
        """Return p(c|w) of the whole vocabulary, (V, C) float64."""
        return self.posteriors(torch.arange(len(self.words), device=self.counts.device))

    def state_dict(self) -> dict[str, Any]:
        """Return the counts, (V, C) int64; all else follows from them."""
        return {"word_cluster_counts": self.counts.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.counts.copy_(state["word_cluster_counts"])
        self.totals.copy_(self.counts.sum(dim=0))

    training_state_dict = state_dict
    load_training_state_dict = load_state_dict


def build(settings: TrainingSettings, words: tuple[str, ...], device: str) -> CountTextEncoder:
    """Return an empty count model of mode ``settings.text_encoder``."""
    return CountTextEncoder(settings.text_encoder, words, settings.cluster_num, device)
