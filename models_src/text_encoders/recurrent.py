"""Recurrent text encoders: LSTM and GRU, trained by gradient on the image bits.

Plain binary cross-entropy makes such encoders collapse: a rare cluster never passes the
threshold, so it never teaches the CNN and dies. Three things keep the clusters alive here:

- clusters compete per token (softmax), and a caption's bits come from the count model's voting;
- the cluster prior is handled inside the loss by logit adjustment (Menon et al. 2021, "Long-tail
  learning via logit adjustment"): the loss sees softmax(z + log pi), so softmax(z) alone is the
  posterior under a uniform cluster prior, what the generative count model gets by counting;
- in the first steps the votes come from counts, which give every cluster a chance, and then pass
  to the recurrent encoder.

Axes as in ``interface.py``; E embedding size, H state size.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from models_src.settings import TrainingSettings
from models_src.text_encoders.count import CountTextEncoder
from models_src.text_encoders.interface import Reading, caption_scores

PRIOR_MOMENTUM = 0.99  # of the running mean of targets: a memory of some hundred steps
PRIOR_FLOOR = 1e-5  # keeps log(prior) finite for clusters that no image activates


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
        """Return a logit for each token and cluster: (B, L) -> (B, L, C).

        Padding stands at the end and the reading runs left to right, so it touches no token.
        """
        zero_row = self.embedding.num_embeddings - 1
        embedded = self.embedding(tokens.masked_fill(tokens < 0, zero_row))  # (B, L, E)
        states, _ = self.recurrent(embedded)  # (B, L, H)
        return self.head(states)


class RecurrentTextEncoder:
    """An LSTM or GRU whose tokens vote for clusters.

    Words are answered for by a table kept with the model: the mean of the token posteriors over a
    word's training occurrences. (An LSTM trained on captions has never seen a word alone.)
    """

    def __init__(self, settings: TrainingSettings, words: tuple[str, ...], device: str):
        self.words = words
        self.cluster_num = settings.cluster_num
        self.device = device
        self.network = _TokenClassifier(settings, len(words)).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.text_learning_rate)
        # (C,) running mean of the normalised image bits
        self.prior = torch.full((self.cluster_num,), 1 / self.cluster_num, device=device)
        self.word_table = torch.zeros(len(words), self.cluster_num, dtype=torch.float64)
        self.start_steps = settings.count_start_steps
        self.blend_steps = settings.count_blend_steps
        self.steps = 0
        self.memory = CountTextEncoder("generative", words, self.cluster_num, device)

    @property
    def own_share(self) -> float:
        """The encoder's share of the votes: 0 at the start of training, later 1."""
        if self.steps < self.start_steps:
            return 0.0
        if self.steps >= self.start_steps + self.blend_steps:
            return 1.0
        return (self.steps - self.start_steps) / self.blend_steps

    def _token_posteriors(self, tokens: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return p(c|token) (T, C) of the known tokens and the caption (T,) of each."""
        captions, positions = torch.nonzero(tokens >= 0, as_tuple=True)  # (T,), (T,)
        own = self.own_share
        posteriors = torch.softmax(logits[captions, positions].detach().double(), dim=1)
        if own < 1:
            counted = self.memory.posteriors(tokens[captions, positions])
            posteriors = own * posteriors + (1 - own) * counted
        return posteriors, captions

    def read(self, tokens: Tensor) -> Reading:
        """Score captions by the votes of their tokens (see ``interface.caption_scores``)."""
        logits = self.network(tokens)  # (B, L, C)
        posteriors, captions = self._token_posteriors(tokens, logits)
        return Reading(tokens, caption_scores(posteriors, captions, len(tokens)), logits)

    def learn(self, reading: Reading, image_bits: Tensor) -> Tensor:
        """Take one Adam step on the logit-adjusted cross-entropy of every token.

        The target of all tokens of a caption is its image's bits divided by their number;
        captions whose image has no bit are passed over (the loss is 0 if that holds for all).
        """
        if self.own_share < 1:
            self.memory.learn(reading, image_bits)
        self.steps += 1
        taught = image_bits.any(dim=1)  # (B,)
        if not taught.any():
            return reading.scores.new_zeros(())
        targets = image_bits[taught].float()  # (B', C)
        targets = targets / targets.sum(dim=1, keepdim=True)
        self.prior = PRIOR_MOMENTUM * self.prior + (1 - PRIOR_MOMENTUM) * targets.mean(dim=0)
        captions, positions = torch.nonzero(reading.tokens[taught] >= 0, as_tuple=True)
        logits = reading.token_logits[taught][captions, positions].float()  # (T, C)
        adjusted = logits + self.prior.clamp(min=PRIOR_FLOOR).log()
        losses = -(targets[captions] * torch.log_softmax(adjusted, dim=1)).sum(dim=1)  # (T,)
        loss = losses.sum() / max(1, len(losses))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def summarise(self, batches: Iterable[Tensor]) -> None:
        """Fill the word table with the mean posterior of each word's occurrences."""
        sums = torch.zeros_like(self.word_table)  # (V, C)
        occurrences = torch.zeros(len(self.words), dtype=torch.float64)
        for tokens in batches:
            posteriors, _ = self._token_posteriors(tokens, self.network(tokens))
            words = tokens[tokens >= 0].cpu()  # (T,) in the same row-major order
            sums.index_add_(0, words, posteriors.cpu())
            occurrences.index_add_(0, words, torch.ones(len(words), dtype=torch.float64))
        self.word_table = sums / occurrences.clamp(min=1)[:, None]

    def word_posteriors(self) -> Tensor:
        """Return the word table, (V, C) float64; zero rows before the first ``summarise``."""
        return self.word_table

    def state(self) -> dict[str, Any]:
        """Return weights, step count, counts while they still vote, and the word table."""
        state = {
            "network": self.network.state_dict(),
            "prior": self.prior,
            "word_table": self.word_table.float(),
            "steps": self.steps,
        }
        if self.own_share < 1:
            state["memory"] = self.memory.state()
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what ``state()`` returned."""
        self.network.load_state_dict(state["network"])
        self.prior = state["prior"].to(self.device)
        self.word_table = state["word_table"].double()
        self.steps = state["steps"]
        if "memory" in state:
            self.memory.load_state(state["memory"])

    def training_state(self) -> dict[str, Any]:
        """Return ``state()`` and the optimizer's."""
        return self.state() | {"optimizer": self.optimizer.state_dict()}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take over what ``training_state()`` returned."""
        self.load_state(state)
        self.optimizer.load_state_dict(state["optimizer"])


def build(settings: TrainingSettings, words: tuple[str, ...], device: str) -> RecurrentTextEncoder:
    """Return an untrained encoder of kind ``settings.text_encoder``."""
    return RecurrentTextEncoder(settings, words, device)
