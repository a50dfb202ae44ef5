"""The joint step: two encoders teach each other (Berger et al. 2022, section 3).

Axes: B pairs, I images (one a pair, or one for several captions of an image), L token positions,
C clusters.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional

from models_src.distributed import gather_rows, pad_to_two, share_of_rows
from models_src.hardware import autocast, descend, gradient_scaler, to_device
from models_src.text_encoders.interface import TextEncoder, random_start_scores


@dataclass(frozen=True)
class StepResult:
    """What one joint step saw, left on the device so that nothing waits for it."""

    visual_loss: Tensor  # scalar
    text_loss: Tensor | None  # scalar; None when the text encoder did not learn
    image_bits: Tensor  # (B, C) bool
    caption_bits: Tensor  # (B, C) bool


class ShareThresholds:
    """The logit of each cluster from which a set share of the images activates it.

    With one threshold for all, what two untrained encoders agree on is that a cluster is on for
    everything or for nothing. With a share of its own each cluster keeps telling images apart,
    however weakly. The thresholds follow the logits from step to step.
    """

    RATE = 0.5  # logits a threshold moves at a step, times by how much its cluster missed the share

    def __init__(self, share: float):
        self.share = share
        self.values: Tensor | None = None  # (C,), from the first step on

    def bits(self, logits: Tensor) -> Tensor:
        """Return which images pass, (I, C) bool, then move the thresholds."""
        every = gather_rows(logits)
        if self.values is None:
            self.values = torch.quantile(every, 1 - self.share, dim=0)
        bits = logits >= self.values
        passed = (every >= self.values).float().mean(dim=0)  # (C,)
        self.values = self.values + self.RATE * (passed - self.share)
        return bits


class VoteOdds:
    """The log odds with which captions vote for each cluster, followed from step to step.

    They are added to the CNN's logits while it learns (logit adjustment, Menon et al. 2021). A
    logit alone then says by how much an image changes a cluster's odds, so that one threshold
    serves frequent and rare clusters, and what images do not show passes it nowhere.
    """

    RATE = 0.05  # by which a step's votes replace those before it
    LEAST = 1e-3  # share of the captions; 1 minus it is the largest

    def __init__(self) -> None:
        self.values: Tensor | None = None  # (C,) shares of the captions, from the first step on

    def follow(self, bits: Tensor) -> Tensor:
        """Take the votes of a step, (B, C) bool, and return the log odds (C,)."""
        shares = gather_rows(bits.float()).mean(dim=0)
        self.values = shares if self.values is None else self.values.lerp(shares, self.RATE)
        return torch.logit(self.values, eps=self.LEAST)


def joint_step(
    visual: Callable[[Tensor], Tensor],
    visual_optimizer: torch.optim.Optimizer,
    text: TextEncoder,
    images: Tensor,
    image_of_caption: Tensor,
    tokens: Tensor,
    visual_threshold: float,
    text_threshold: float,
    *,
    shares: ShareThresholds | None = None,
    odds: VoteOdds | None = None,
    random_votes: bool = False,
    teach_text: bool = True,
    precision: str = "fp32",
    scaler: GradScaler | None = None,
) -> StepResult:
    """Let both encoders predict, take both bit matrices, and only then teach each the other's.

    Where several processes train together (see ``distributed.py``), each calls this with its part
    of the batch; counts are added up and gradients averaged over the whole batch.

    Args:
        visual: The visual encoder, its gradients averaged over processes where there are several.
        images: (I, 3, H, W) normalised.
        image_of_caption: (B,) position in ``images`` of each caption's image.
        tokens: (B, L) token ids, padded, on the CPU (see ``TextEncoder.score``).
        visual_threshold: bound on the raw logits.
        text_threshold: bound on the captions' scores in 0..1.
        shares: The image bits that the text encoder learns; as published (None) those of
            ``visual_threshold``.
        odds: What is added to the logits that learn; as published (None) nothing.
        random_votes: whether the captions' bits come from ``random_start_scores`` and not from
            the text encoder, as at the start of training.
        teach_text: whether the text encoder learns.
        precision: in which both encoders predict (see ``hardware.py``).
        scaler: of the visual encoder's gradients; needed for fp16.
    """
    with autocast(precision, images.device):
        image_logits = visual(pad_to_two(images))[: len(images)].float()  # (I, C)
    logits = image_logits[image_of_caption]  # (B, C)
    image_bits = logits.detach() >= visual_threshold
    image_targets = image_bits
    if shares is not None:
        image_targets = (shares.bits(image_logits.detach()) & text.voted)[image_of_caption]
    votes = text.votes(tokens)  # (B, C)
    cast = random_start_scores(tokens, text.cluster_num) if random_votes else votes
    caption_bits = to_device(cast, images.device) >= text_threshold  # (B, C)

    text_loss = text.update(tokens, votes, image_targets) if teach_text else None
    if odds is not None:
        logits = logits + odds.follow(caption_bits) * text.voted
    visual_loss = functional.binary_cross_entropy_with_logits(logits, caption_bits.to(logits))
    descend(
        visual_loss * share_of_rows(len(tokens)),
        visual_optimizer,
        scaler or gradient_scaler(precision, images.device),
    )
    return StepResult(visual_loss.detach(), text_loss, image_bits, caption_bits)
