"""Recurrent text encoders: LSTM and GRU, trained by gradient on the image's clusters.

A memory counts the clusters of the images that each word was said of, as the count models do. It
gives a word its posterior over the clusters, which the network corrects by the context of the
caption. The memory also decides, a few times in a training, which cluster each word votes for (see
``word_votes.py``): by what the network says at the moment, two fresh encoders would agree on
anything.

Axes as in ``interface.py``; E embedding size, H state size.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models_src.distributed import average_gradients, share_of_rows, sum_over_ranks
from models_src.hardware import adam, autocast, descend, gradient_scaler, to_device
from models_src.settings import TrainingSettings
from models_src.text_encoders.interface import caption_scores
from models_src.text_encoders.word_votes import (
    FEWEST_OCCURRENCES,
    Votes,
    certainties,
    choose_votes,
    cluster_shares,
    nearest_clusters,
    smoothed_posteriors,
    word_profiles,
)

MEMORY_DECAY = 0.3  # what a revision leaves of the memory before it
RAREST = 1e-6  # probability below which a word's cluster is as good as ruled out


class _TokenClassifier(nn.Module):
    """Embedding, recurrent layers and a linear cluster head, added to what each word says alone.

    Where the network has to learn the words, too, context leaks into words that say nothing of the
    image, and rare words are learned slowly. The head begins at 0, with what the words say.
    """

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
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor, word_logits: Tensor) -> Tensor:
        """Return logits of each known token, row by row: (B, L) and (T, C) -> (T, C).

        ``word_logits`` are those of the tokens' words without context. Padding stands at the end
        and the reading runs left to right, so it touches no token.
        """
        device = self.head.weight.device
        captions, positions = torch.nonzero(tokens >= 0, as_tuple=True)  # (T,), (T,)
        filled = tokens.masked_fill(tokens < 0, self.embedding.num_embeddings - 1)
        embedded = self.embedding(to_device(filled, device))  # (B, L, E)
        states, _ = self.recurrent(embedded)  # (B, L, H)
        token_states = states[to_device(captions, device), to_device(positions, device)]  # (T, H)
        logits: Tensor = self.head(token_states) + word_logits
        return logits


class RecurrentTextEncoder:
    """An LSTM or GRU on top of counted words, and the votes of those words.

    Words are answered for by a table kept with the model, from the mean of the token posteriors
    over a word's training occurrences (see ``refresh_word_table``).
    """

    def __init__(self, settings: TrainingSettings, words: tuple[str, ...], device: str):
        self.words = words
        self.cluster_num = settings.cluster_num
        self.settings = settings
        self.device = device
        self.network = _TokenClassifier(settings, len(words)).to(device)
        self.optimizer = adam(self.network, settings.text_learning_rate)
        # on CPUs without AVX-512 torch has no LSTM of 16 bits
        self.precision = "fp32" if torch.device(device).type == "cpu" else settings.precision
        self.scaler = gradient_scaler(settings.precision, device)
        size = (len(words), self.cluster_num)
        self.memory = torch.zeros(size, device=device)  # (V, C) shares of images' clusters
        self.occurrences = torch.zeros(len(words), device=device)  # (V,) their sums
        self.word_table = torch.zeros(size)  # (V, C) p(c|w), on the CPU
        # before the first revision words vote as in ``random_start_scores``
        self.vote_clusters = torch.arange(len(words), device=device) % self.cluster_num  # (V,)
        self.voting = torch.ones(len(words), dtype=torch.bool, device=device)  # (V,)
        self.voted = torch.ones(self.cluster_num, dtype=torch.bool, device=device)  # (C,)

    def score(self, tokens: Tensor) -> Tensor:
        """Let each word vote for its most probable cluster in the word table."""
        probabilities, clusters = self.word_table.max(dim=1)  # (V,), (V,)
        return self._cast(tokens, probabilities, clusters)

    def votes(self, tokens: Tensor) -> Tensor:
        """Let each word that votes cast the vote of the last revision, with probability 1."""
        return self._cast(tokens, self.voting.float(), self.vote_clusters)

    def _cast(self, tokens: Tensor, probabilities: Tensor, clusters: Tensor) -> Tensor:
        captions, positions = torch.nonzero(tokens >= 0, as_tuple=True)  # (T,), (T,)
        words = to_device(tokens[captions, positions], probabilities.device)  # (T,)
        return caption_scores(
            probabilities[words],
            clusters[words],
            to_device(captions, probabilities.device),
            torch.Size((len(tokens), self.cluster_num)),
        )

    def update(self, tokens: Tensor, votes: Tensor, targets: Tensor) -> Tensor:
        """Take one Adam step on the tokens' cross-entropy with their image's clusters.

        A token's target is an even share of each cluster of its image; tokens of images without
        any teach nothing. The loss is the mean over captions of their tokens' mean. The memory
        takes the targets after the step, so that no token is told its own.
        """
        captions, positions = torch.nonzero(tokens >= 0, as_tuple=True)  # (T,), (T,)
        lengths = torch.bincount(captions, minlength=len(tokens))  # (B,)
        words = to_device(tokens[captions, positions], self.device)
        captions, lengths = to_device(captions, self.device), to_device(lengths, self.device)
        shares = targets.float() / targets.sum(dim=1, keepdim=True).clamp(min=1)  # (B, C)
        with autocast(self.precision, self.device):
            logits = self.network(tokens, self.word_logits(words))
        log_posteriors = torch.log_softmax(logits.float(), dim=1)  # (T, C)
        token_losses = -(shares[captions] * log_posteriors).sum(dim=1)  # (T,)
        loss = (token_losses / lengths[captions]).sum() / max(1, len(tokens))
        descend(
            loss * share_of_rows(len(tokens)),
            self.optimizer,
            self.scaler,
            partial(average_gradients, self.network),
        )
        counts = torch.zeros_like(self.memory).index_add_(0, words, shares[captions])
        counts = sum_over_ranks(counts)
        self.memory += counts
        self.occurrences += counts.sum(dim=1)
        return loss.detach()

    def word_logits(self, words: Tensor) -> Tensor:
        """Return the log posteriors that the memory gives to words (T,) alone, (T, C)."""
        counts = self.memory[words], self.occurrences[words]
        posteriors = smoothed_posteriors(*counts, cluster_shares(self.memory))
        return posteriors.clamp(min=RAREST).log()

    @torch.no_grad()
    def revise_votes(self) -> None:
        """Choose votes by the memory (see ``word_votes.choose_votes``), and let it fade."""
        if bool(self.occurrences.any()):
            sums, occurrences = self.memory.double().cpu(), self.occurrences.double().cpu()
            votes = choose_votes(
                sums,
                occurrences,
                Votes(
                    self.vote_clusters.cpu().numpy(),
                    self.voting.cpu().numpy(),
                    self.voted.cpu().numpy(),
                ),
                self.settings.voting_share,
                self.settings.vote_distance,
            )
            self.vote_clusters = torch.from_numpy(votes.clusters).to(self.device)
            self.voting = torch.from_numpy(votes.voting).to(self.device)
            self.voted = torch.from_numpy(votes.voted).to(self.device)
        self.memory *= MEMORY_DECAY
        self.occurrences *= MEMORY_DECAY

    @torch.no_grad()
    def refresh_word_table(self, batches: Iterable[Tensor]) -> None:
        """Average the network's posteriors over each word's occurrences, and read the clusters off.

        A word stands with its certainty for the cluster whose words have the nearest profiles, and
        else for what its images show. A word that does not occur keeps a row of zeros: it is not
        known.
        """
        sums = torch.zeros_like(self.word_table, dtype=torch.float64)  # (V, C)
        occurrences = torch.zeros(len(self.words), dtype=torch.float64)
        for tokens in batches:
            words = tokens[tokens >= 0].cpu()  # (T,)
            logits = self.network(tokens, self.word_logits(to_device(words, self.device)))
            posteriors = torch.softmax(logits, dim=1)  # (T, C)
            sums.index_add_(0, words, posteriors.double().cpu())
            occurrences.index_add_(0, words, torch.ones(len(words), dtype=torch.float64))
        sums, occurrences = sum_over_ranks(sums), sum_over_ranks(occurrences)
        prior = cluster_shares(sums)
        means = smoothed_posteriors(sums, occurrences, prior).numpy()
        counts = occurrences.numpy()
        members = np.flatnonzero(self.voting.cpu().numpy() & (counts >= FEWEST_OCCURRENCES))
        profiles = word_profiles(means, prior.numpy(), self.voted.cpu().numpy())
        votes = self.vote_clusters.cpu().numpy()[members]
        clusters = nearest_clusters(profiles, members, votes, counts[members])
        certain = certainties(means, prior.numpy())  # (V,)
        table = (1 - certain[:, None]) * means  # (V, C)
        table[np.arange(len(table)), clusters] += certain
        self.word_table = torch.from_numpy(table * (counts > 0)[:, None]).float()

    def word_posteriors(self) -> Tensor:
        """Return the word table, (V, C) float64; zero rows before the first refresh."""
        return self.word_table.double()

    _TENSORS = ("memory", "occurrences", "vote_clusters", "voting", "voted")

    def state_dict(self) -> dict[str, Any]:
        """Return what answers: the network's weights, the word table, the memory and the votes."""
        return {
            "network": self.network.state_dict(),
            "word_table": self.word_table,
            **{name: getattr(self, name) for name in self._TENSORS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.network.load_state_dict(state["network"])
        self.word_table = state["word_table"]
        for name in self._TENSORS:
            getattr(self, name).copy_(state[name])

    def training_state_dict(self) -> dict[str, Any]:
        """Return ``state_dict()`` and what learns."""
        return self.state_dict() | {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_training_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``training_state_dict`` returned."""
        self.load_state_dict(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


def build(settings: TrainingSettings, words: tuple[str, ...], device: str) -> RecurrentTextEncoder:
    """Return an untrained encoder of kind ``settings.text_encoder``."""
    return RecurrentTextEncoder(settings, words, device)
