"""What every text encoder offers, how one is built, and the voting rule that all of them share.

Axes: B captions of a batch, L token positions, T tokens of the batch without padding, C clusters,
V words of the vocabulary. Token ids run from 0 to V-1; ``UNKNOWN`` marks words outside the
vocabulary and ``PADDING`` the positions after a caption's end.
"""

import importlib
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from models_src.settings import TrainingSettings
from models_src.text_encoders import TEXT_ENCODERS


class TextEncoder(Protocol):
    """A text encoder over a fixed vocabulary."""

    words: tuple[str, ...]
    cluster_num: int
    voted: Tensor  # (C,) bool: clusters that some word votes for; the others are not learned

    def score(self, tokens: Tensor) -> Tensor:
        """Return the captions' scores, (B, C) in 0..1; bits are scores >= text_threshold.

        Args:
            tokens: (B, L), best on the CPU: where they stand is found there, and what follows
                is queued on the encoder's device without waiting for it.
        """

    def votes(self, tokens: Tensor) -> Tensor:
        """Return what the visual encoder learns of the captions, (B, C) in 0..1.

        It learns the bits votes >= text_threshold. An evaluation asks ``score``, where words may
        count that do not vote, and words that vote may count less.
        """

    def update(self, tokens: Tensor, votes: Tensor, targets: Tensor) -> Tensor:
        """Learn the clusters of the images that captions describe.

        Where several processes train together, each gives its part of the batch, captions padded
        to the same length, and all learn the same from the whole (``models_src/distributed.py``).

        Args:
            tokens: (B, L).
            votes: (B, C) what ``votes`` returned for them.
            targets: (B, C) bool.

        Returns:
            The loss before this step, a scalar without gradient.
        """

    def revise_votes(self) -> None:
        """Let each word choose its cluster anew by what was learned since the last revision."""

    def refresh_word_table(self, batches: Iterable[Tensor]) -> None:
        """Bring p(c|w) up to date from all training captions, given as batches (B, L).

        Called whenever training pauses for an evaluation or ends. Where several processes train
        together, each gives its part of the captions.
        """

    def word_posteriors(self) -> Tensor:
        """Return p(c|w) of the vocabulary's words, (V, C) float64.

        A row sums to 1; the row of a word the encoder does not know is zero. A word's most
        probable cluster is its row's argmax and its concreteness the row's maximum.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the trained model as tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""

    def training_state_dict(self) -> dict[str, Any]:
        """Return all that an exact continuation of training needs: ``state_dict()`` and more."""

    def load_training_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``training_state_dict`` returned."""


def build_text_encoder(
    settings: TrainingSettings, words: tuple[str, ...], device: str = "cpu"
) -> TextEncoder:
    """Return the untrained encoder ``settings.text_encoder`` for a vocabulary of ``words``.

    Random weights come from torch's global generator, which the caller seeds.
    """
    module = importlib.import_module(TEXT_ENCODERS[settings.text_encoder].module)
    encoder: TextEncoder = module.build(settings, words, device)
    return encoder


def caption_scores(votes: Tensor, clusters: Tensor, captions: Tensor, shape: torch.Size) -> Tensor:
    """Let each token vote for one cluster; a caption's score is the largest vote it got.

    Args:
        votes: (T,) in 0..1, how sure each token is of its cluster; 0 is no vote.
        clusters: (T,) the cluster that each token votes for.
        captions: (T,) the caption that each token stands in.
        shape: (B, C).

    Returns:
        (B, C) scores in 0..1, of the votes' type; 0 without any vote.
    """
    scores = votes.new_zeros(shape.numel())
    scores.scatter_reduce_(0, captions * shape[1] + clusters, votes, reduce="amax")
    return scores.view(shape)


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
    clusters = tokens[captions, positions] % cluster_num  # (T,)
    votes = torch.ones(len(captions), dtype=torch.float64, device=tokens.device)
    return caption_scores(votes, clusters, captions, torch.Size((len(tokens), cluster_num)))


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
    totals = cluster_totals.double()
    totals = totals.masked_fill(totals == 0, 1)
    likelihood = word_cluster_counts.double() / totals  # (W, C) p(w|c)
    return likelihood / likelihood.sum(dim=1, keepdim=True).clamp(min=torch.finfo().tiny)
