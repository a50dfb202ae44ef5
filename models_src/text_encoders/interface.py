"""What every text encoder offers, and the voting rule that all of them share.

Axes: B captions of a batch, L token positions, T tokens of the batch without padding, C clusters,
V words of the vocabulary. Token ids run from 0 to V-1; ``UNKNOWN`` marks words outside the
vocabulary and ``PADDING`` the positions after a caption's end.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reading:
    """What an encoder made of a batch of captions, before it learns from it."""

    tokens: Tensor  # (B, L) int64
    scores: Tensor  # (B, C) in 0..1, without gradient; bits are scores >= text_threshold
    # (B, C) of encoders that learn by gradient: what the scores are computed from, with gradient
    raw_scores: Tensor | None = None


class TextEncoder(Protocol):
    """A text encoder over a fixed vocabulary."""

    words: tuple[str, ...]
    cluster_num: int
    group_size: int  # clusters that compete with each other (see ``groups.py``), 1 where none do
    starts_at_random: bool  # whether training begins with random votes unless told otherwise

    def read(self, tokens: Tensor) -> Reading:
        """Return the scores of captions ``tokens`` (B, L); nothing in the encoder changes.

        Tokens best stay on the CPU: where they stand is then found there, and what follows from
        that is queued on the encoder's device without waiting for it.
        """

    def learn(self, reading: Reading, targets: Tensor) -> Tensor:
        """Learn the clusters (B, C) bool of the images that ``reading``'s captions describe.

        Where several processes train together, each gives its part of the batch, captions padded
        to the same length, and all learn the same from the whole (``models_src/distributed.py``).

        Returns the loss of the reading against these bits, a scalar without gradient.
        """

    def summarise(self, batches: Iterable[Tensor]) -> None:
        """Bring p(c|w) up to date from all training captions, given as batches (B, L).

        Called whenever training pauses for an evaluation or ends. Where several processes train
        together, each gives its part of the captions.
        """

    def word_posteriors(self) -> Tensor:
        """Return p(c|w) of the vocabulary's words, (V, C) float64.

        A row sums to 1; the row of a word the encoder does not know is zero. A word's most
        probable cluster is its row's argmax and its concreteness the row's maximum.
        """

    def state(self) -> dict[str, Any]:
        """Return the trained model as tensors and plain values."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what ``state()`` returned."""

    def training_state(self) -> dict[str, Any]:
        """Return all that an exact continuation of training needs: ``state()`` and more."""

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take over what ``training_state()`` returned."""


def caption_scores(token_posteriors: Tensor, captions: Tensor, caption_count: int) -> Tensor:
    """Let each token vote for its most probable cluster (ties: the lowest index).

    A caption's score for a cluster is the largest vote it got, 0 without any; a row of zeros (an
    unknown word) casts no vote.

    Args:
        token_posteriors: (T, C) p(c|token).
        captions: (T,) the caption each token stands in.
        caption_count: B.

    Returns:
        (B, C) scores in 0..1, of the posteriors' type.
    """
    cluster_num = token_posteriors.shape[1]
    scores = token_posteriors.new_zeros(caption_count * cluster_num)
    if len(captions):
        votes, clusters = token_posteriors.max(dim=1)  # (T,), (T,); max takes the first of equals
        scores.scatter_reduce_(0, captions * cluster_num + clusters, votes, reduce="amax")
    return scores.view(caption_count, cluster_num)


def random_start_scores(tokens: Tensor, cluster_num: int) -> Tensor:
    """Let each word vote for a fixed cluster of its own, with probability 1.

    This is how training starts when ``random_start_steps`` is not 0. Word ids are ranks by
    frequency, so ``id mod C`` gives the C most frequent words a cluster each.

    Args:
        tokens: (B, L) word ids, padded; unknown words cast no vote.
        cluster_num: C.

    Returns:
        (B, C) float64, each 0 or 1.
    """
    captions, positions = torch.nonzero(tokens >= 0, as_tuple=True)  # (T,), (T,)
    scores = torch.zeros(len(tokens), cluster_num, dtype=torch.float64, device=tokens.device)
    scores[captions, tokens[captions, positions] % cluster_num] = 1
    return scores


def uniform_posteriors(word_cluster_counts: Tensor, cluster_totals: Tensor) -> Tensor:
    """Return p(c|w) under a uniform cluster prior (Berger et al. 2022, section 3).

    p(w|c) = N(w,c) / N(c), and with p(c) = 1/C Bayes' rule gives p(c|w) = p(w|c) / sum_c' p(w|c').
    A cluster without counts has probability 0; a word without counts has a row of zeros.

    Args:
        word_cluster_counts: (W, C) rows of N(w,c), any numeric type.
        cluster_totals: (C,) N(c), the sum of N(w,c) over the whole vocabulary.

    Returns:
        (W, C) float64.
    """
    likelihood = word_cluster_counts.double() / cluster_totals.clamp(min=1)  # (W, C) p(w|c)
    return likelihood / likelihood.sum(dim=1, keepdim=True).clamp(min=torch.finfo().tiny)
