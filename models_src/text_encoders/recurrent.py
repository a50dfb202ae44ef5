"""Recurrent text encoders: LSTM and GRU, trained by gradient on the image bits.

With plain binary cross-entropy such encoders collapse: a rare cluster never passes the threshold,
so it never teaches the CNN and dies. Here the clusters live because

- they compete for each token (softmax), and a caption's bits come from the count model's voting;
- a token votes with its posterior under a uniform cluster prior, p(c|token) proportional to
  q(c|token) / m(c), where q is the network's softmax and m its own mean over tokens. That is what
  the generative count model gets from p(w|c), and as q and m come from the same weights, a cluster
  does not gain votes just because it grows;
- the votes come from a slow average of the network's weights (a mean teacher: Tarvainen and
  Valpola 2017), the counterpart of the count model's long memory;
- training starts with random votes (see ``interface.random_start_scores``), which give every
  cluster a chance; then a count model, kept beside the network, votes until the image bits are
  clean enough for the network to have learned them. In the end the network votes alone.

Axes as in ``interface.py``; E embedding size, H state size.
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from models_src.settings import TrainingSettings
from models_src.text_encoders.count import CountTextEncoder
from models_src.text_encoders.interface import Reading, caption_scores

TEACHER_MOMENTUM = 0.99  # a memory of some hundred steps
BLEND_STEPS = 100  # the last of memory_steps, in which the votes pass to the network
# part of an even share (1/C) that is added to q and m: clusters without tokens come out neutral
# (q/m = 1), and rare ones do not win by rounding
SMOOTHING = 0.5


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
        """Return a logit for each known token and cluster: (B, L) -> (T, C), row by row.

        Padding stands at the end and the reading runs left to right, so it touches no token.
        """
        zero_row = self.embedding.num_embeddings - 1
        embedded = self.embedding(tokens.masked_fill(tokens < 0, zero_row))  # (B, L, E)
        states, _ = self.recurrent(embedded)  # (B, L, H)
        return self.head(states[tokens >= 0])


class RecurrentTextEncoder:
    """An LSTM or GRU whose tokens vote for clusters.

    Words are answered for by a table kept with the model: the mean of the token posteriors over a
    word's training occurrences. (An LSTM trained on captions has never seen a word alone.)
    """

    starts_at_random = True

    def __init__(self, settings: TrainingSettings, words: tuple[str, ...], device: str):
        self.words = words
        self.cluster_num = settings.cluster_num
        self.device = device
        self.network = _TokenClassifier(settings, len(words)).to(device)
        self.teacher = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.text_learning_rate)
        # (C,) running mean of the teacher's softmax over tokens
        self.marginal = torch.full(
            (self.cluster_num,), 1 / self.cluster_num, dtype=torch.float64, device=device
        )
        self.word_table = torch.zeros(len(words), self.cluster_num, dtype=torch.float64)
        self.memory = CountTextEncoder("generative", words, self.cluster_num, device)
        self.memory_steps = settings.memory_steps
        self.steps = 0  # batches learned

    @property
    def own_share(self) -> float:
        """The network's share of the votes; the rest is the count memory's."""
        return min(1.0, max(0.0, 1 - (self.memory_steps - self.steps) / BLEND_STEPS))

    @torch.no_grad()
    def _posteriors(self, tokens: Tensor) -> Tensor:
        """Return p(c|token) of the known tokens, (T, C) float64, from memory and network."""
        own = self.own_share
        if own == 0:
            return self.memory.posteriors(tokens[tokens >= 0])
        if own == 1:
            return self._network_posteriors(tokens)
        counted = self.memory.posteriors(tokens[tokens >= 0])
        return own * self._network_posteriors(tokens) + (1 - own) * counted

    def _network_posteriors(self, tokens: Tensor) -> Tensor:
        """Return the network's p(c|token) under a uniform cluster prior, (T, C) float64."""
        softmax = torch.softmax(self.teacher(tokens).double(), dim=1)  # (T, C)
        smoothing = SMOOTHING / self.cluster_num
        ratio = (softmax + smoothing) / (self.marginal + smoothing)
        return ratio / ratio.sum(dim=1, keepdim=True)

    def read(self, tokens: Tensor) -> Reading:
        """Score captions by the votes of their tokens (see ``interface.caption_scores``)."""
        captions, _ = torch.nonzero(tokens >= 0, as_tuple=True)  # (T,)
        return Reading(tokens, caption_scores(self._posteriors(tokens), captions, len(tokens)))

    def learn(self, reading: Reading, image_bits: Tensor) -> Tensor:
        """Take one Adam step on every token's cross-entropy, and let the teacher follow.

        The target of all tokens of a caption is its image's bits divided by their number;
        captions whose image has no bit are passed over (the loss is 0 if that holds for all).
        """
        if self.own_share < 1:
            self.memory.learn(reading, image_bits)
        self.steps += 1
        taught = image_bits.any(dim=1) & (reading.tokens >= 0).any(dim=1)  # (B,)
        if not taught.any():
            return reading.scores.new_zeros(())
        tokens = reading.tokens[taught]  # (B', L)
        targets = image_bits[taught].float()  # (B', C)
        targets = targets / targets.sum(dim=1, keepdim=True)
        captions, _ = torch.nonzero(tokens >= 0, as_tuple=True)  # (T,)
        loss = nn.functional.cross_entropy(self.network(tokens), targets[captions])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self._follow(tokens)
        return loss.detach()

    @torch.no_grad()
    def _follow(self, tokens: Tensor) -> None:
        """Move the teacher towards the network, and the marginal towards the teacher's."""
        for slow, fast in zip(self.teacher.parameters(), self.network.parameters(), strict=True):
            slow.lerp_(fast, 1 - TEACHER_MOMENTUM)
        mean = torch.softmax(self.teacher(tokens).double(), dim=1).mean(dim=0)  # (C,)
        self.marginal.lerp_(mean, 1 - TEACHER_MOMENTUM)

    def summarise(self, batches: Iterable[Tensor]) -> None:
        """Fill the word table with the mean posterior of each word's occurrences."""
        sums = torch.zeros_like(self.word_table)  # (V, C)
        occurrences = torch.zeros(len(self.words), dtype=torch.float64)
        for tokens in batches:
            words = tokens[tokens >= 0].cpu()  # (T,)
            sums.index_add_(0, words, self._posteriors(tokens).cpu())
            occurrences.index_add_(0, words, torch.ones(len(words), dtype=torch.float64))
        self.word_table = sums / occurrences.clamp(min=1)[:, None]

    def word_posteriors(self) -> Tensor:
        """Return the word table, (V, C) float64; zero rows before the first ``summarise``."""
        return self.word_table

    def state(self) -> dict[str, Any]:
        """Return what answers: the teacher, the marginal, the word table, the votes' memory."""
        state = {
            "teacher": self.teacher.state_dict(),
            "marginal": self.marginal,
            "word_table": self.word_table.float(),
            "steps": self.steps,
        }
        if self.own_share < 1:
            state["memory"] = self.memory.state()
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what ``state()`` returned."""
        self.teacher.load_state_dict(state["teacher"])
        self.marginal = state["marginal"].to(self.device)
        self.word_table = state["word_table"].double()
        self.steps = state["steps"]
        if "memory" in state:
            self.memory.load_state(state["memory"])

    def training_state(self) -> dict[str, Any]:
        """Return ``state()`` and what learns: the network's weights and the optimizer."""
        return self.state() | {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take over what ``training_state()`` returned."""
        self.load_state(state)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


def build(settings: TrainingSettings, words: tuple[str, ...], device: str) -> RecurrentTextEncoder:
    """Return an untrained encoder of kind ``settings.text_encoder``."""
    return RecurrentTextEncoder(settings, words, device)
