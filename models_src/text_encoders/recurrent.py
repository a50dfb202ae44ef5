"""Recurrent text encoders: LSTM and GRU, trained by gradient on the image's clusters.

With plain binary cross-entropy such encoders collapse, for a cluster that never fires teaches
nothing, and one that always fires is never wrong. Here the clusters stand in groups of competing
ones (see ``models_src/groups.py``).

Axes as in ``interface.py``; E embedding size, H state size.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from models_src.distributed import average_gradients, share_of_rows, sum_over_ranks
from models_src.groups import group_cross_entropy, group_posteriors
from models_src.hardware import adam, descend, gradient_scaler, to_device
from models_src.settings import TrainingSettings
from models_src.text_encoders.interface import Reading

# with an even share of every cluster, added to those of each word, so that rare words are not sure
EVEN_OCCURRENCES = 5


class _TokenClassifier(nn.Module):
    """Embedding, recurrent layers and a linear cluster head, read left to right."""

    def __init__(self, settings: TrainingSettings, vocabulary_size: int):
        super().__init__()
        # the last row stays zero: it stands for unknown words and for padding
        self.embedding = nn.Embedding(
            vocabulary_size + 1, settings.embedding_dim, padding_idx=vocabulary_size
        )
        cell = {"lstm": nn.LSTM, "gru": nn.GRU}[settings.text_encoder]
        self.recurrent = cell(
            settings.embedding_dim,
            settings.hidden_dim,
            num_layers=settings.text_layers,
            batch_first=True,
        )
        self.head = nn.Linear(settings.hidden_dim, settings.cluster_num)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return a score for each known token and cluster: (B, L) -> (T, C), row by row.

        Padding stands at the end and the reading runs left to right, so it touches no token.
        """
        device = self.head.weight.device
        captions, positions = torch.nonzero(tokens >= 0, as_tuple=True)  # (T,), (T,)
        filled = tokens.masked_fill(tokens < 0, self.embedding.num_embeddings - 1)
        embedded = self.embedding(to_device(filled, device))  # (B, L, E)
        states, _ = self.recurrent(embedded)  # (B, L, H)
        tokens_states = states[to_device(captions, device), to_device(positions, device)]  # (T, H)
        scores: Tensor = self.head(tokens_states)
        return scores


class RecurrentTextEncoder:
    """An LSTM or GRU that scores every cluster at every token.

    A caption's posterior within a group of clusters is the softmax of its tokens' mean scores, so
    that each token adds evidence. (With the maximum over tokens instead, a token that says nothing
    of the image may be as sure of a cluster as one that does, and words lose their concreteness.)

    Words are answered for by a table kept with the model: the mean of the token posteriors over a
    word's training occurrences and ``EVEN_OCCURRENCES`` more that say nothing. (A word read once is
    as sure of a cluster as its only caption; and an LSTM trained on captions has never seen a word
    alone. Both measured worse, see BENCHMARKS.md.)
    """

    starts_at_random = True

    def __init__(self, settings: TrainingSettings, words: tuple[str, ...], device: str):
        self.words = words
        self.cluster_num = settings.cluster_num
        self.group_size = settings.cluster_group_size
        self.device = device
        self.network = _TokenClassifier(settings, len(words)).to(device)
        self.optimizer = adam(self.network, settings.text_learning_rate)
        self.scaler = gradient_scaler(settings.precision, device)
        self.word_table = torch.zeros(len(words), self.cluster_num, dtype=torch.float64)

    def read(self, tokens: Tensor) -> Reading:
        """Score captions; a caption without a known word scores 0 everywhere."""
        captions, _ = torch.nonzero(tokens >= 0, as_tuple=True)  # (T,)
        lengths = torch.bincount(captions, minlength=len(tokens))[:, None]  # (B, 1)
        captions, lengths = (to_device(part, self.device) for part in (captions, lengths))
        token_scores = self.network(tokens).float()  # (T, C); training may compute in less
        raw = token_scores.new_zeros(len(tokens), self.cluster_num)
        raw = raw.index_add(0, captions, token_scores) / lengths.clamp(min=1)  # (B, C)
        scores = group_posteriors(raw.detach(), self.group_size) * (lengths > 0)
        return Reading(tokens, scores, raw)

    def learn(self, reading: Reading, targets: Tensor) -> Tensor:
        """Take one Adam step on the cross-entropy within groups; empty captions teach nothing."""
        assert reading.raw_scores is not None  # as ``read`` gives them
        has_words = to_device((reading.tokens >= 0).any(dim=1, keepdim=True), self.device)  # (B, 1)
        loss = group_cross_entropy(reading.raw_scores, targets & has_words, self.group_size)
        descend(
            loss * share_of_rows(len(reading.tokens)),
            self.optimizer,
            self.scaler,
            partial(average_gradients, self.network),
        )
        return loss.detach()

    @torch.no_grad()
    def summarise(self, batches: Iterable[Tensor]) -> None:
        """Fill the word table with the mean posterior of each word's occurrences, and even ones.

        A word that does not occur keeps a row of zeros: it is not known.
        """
        sums = torch.zeros_like(self.word_table)  # (V, C)
        occurrences = torch.zeros(len(self.words), dtype=torch.float64)
        for tokens in batches:
            words = tokens[tokens >= 0].cpu()  # (T,)
            posteriors = group_posteriors(self.network(tokens), self.group_size)  # (T, C)
            sums.index_add_(0, words, posteriors.double().cpu())
            occurrences.index_add_(0, words, torch.ones(len(words), dtype=torch.float64))
        sums, occurrences = sum_over_ranks(sums), sum_over_ranks(occurrences)
        added = EVEN_OCCURRENCES * (occurrences > 0)  # (V,)
        sums += added[:, None] / self.cluster_num
        self.word_table = sums / (occurrences + added).clamp(min=1)[:, None]

    def word_posteriors(self) -> Tensor:
        """Return the word table, (V, C) float64; zero rows before the first ``summarise``."""
        return self.word_table

    def state(self) -> dict[str, Any]:
        """Return what answers: the network's weights and the word table."""
        return {"network": self.network.state_dict(), "word_table": self.word_table.float()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what ``state()`` returned."""
        self.network.load_state_dict(state["network"])
        self.word_table = state["word_table"].double()

    def training_state(self) -> dict[str, Any]:
        """Return ``state()`` and what learns: the optimizer and fp16's gradient scale."""
        return self.state() | {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take over what ``training_state()`` returned."""
        self.load_state(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state.get("scaler", {}))  # older checkpoints are of fp32


def build(settings: TrainingSettings, words: tuple[str, ...], device: str) -> RecurrentTextEncoder:
    """Return an untrained encoder of kind ``settings.text_encoder``."""
    return RecurrentTextEncoder(settings, words, device)
