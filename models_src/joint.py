"""The joint step: two encoders teach each other (Berger et al. 2022, section 3).

Axes: B pairs, L token positions, C clusters.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models_src.text_encoders.interface import TextEncoder
from models_src.visual_encoders import VisualEncoder


@dataclass(frozen=True)
class StepResult:
    """What one joint step saw, left on the device so that nothing waits for it."""

    visual_loss: Tensor  # scalar
    text_loss: Tensor  # scalar
    image_bits: Tensor  # (B, C) bool
    caption_bits: Tensor  # (B, C) bool


def joint_step(
    visual: VisualEncoder,
    visual_optimizer: torch.optim.Optimizer,
    text: TextEncoder,
    images: Tensor,
    tokens: Tensor,
    visual_threshold: float,
    text_threshold: float,
) -> StepResult:
    """Let both encoders predict, take both bit matrices, and only then teach each the other's.

    Args:
        images: (B, 3, H, W) normalised.
        tokens: (B, L) token ids, padded.
        visual_threshold: bound on the raw logits.
        text_threshold: bound on the captions' scores in 0..1.
    """
    logits = visual(images)  # (B, C)
    reading = text.read(tokens)
    image_bits = logits.detach() >= visual_threshold
    caption_bits = reading.scores >= text_threshold

    text_loss = text.learn(reading, image_bits)
    visual_loss = functional.binary_cross_entropy_with_logits(logits, caption_bits.to(logits))
    visual_optimizer.zero_grad(set_to_none=True)
    visual_loss.backward()
    visual_optimizer.step()
    return StepResult(visual_loss.detach(), text_loss, image_bits, caption_bits)
