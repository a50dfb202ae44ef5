"""The joint step: two encoders teach each other (Berger et al. 2022, section 3).

Axes: B pairs, I images (one a pair, or one for several captions of an image), L token positions,
C clusters.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional

from models_src.distributed import on_all_rows, share_of_rows, two_at_least
from models_src.groups import balanced_winners, group_cross_entropy
from models_src.hardware import autocast, descend, gradient_scaler, to_device
from models_src.text_encoders.interface import TextEncoder, random_start_scores


@dataclass(frozen=True)
class StepResult:
    """What one joint step saw, left on the device so that nothing waits for it."""

    visual_loss: Tensor  # scalar
    text_loss: Tensor | None  # scalar; None when the text encoder did not learn
    image_bits: Tensor  # (B, C) bool
    caption_bits: Tensor  # (B, C) bool


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
    random_votes: bool = False,
    teach_text: bool = True,
    precision: str = "fp32",
    scaler: GradScaler | None = None,
) -> StepResult:
    """Let both encoders predict, take both bit matrices, and only then teach each the other's.

    Where clusters stand in groups (``text.group_size`` above 1), the encoders are taught not the
    bits that pass the thresholds but the batch's balanced winners (see ``groups.py``), and the
    visual loss is a cross-entropy within groups. The result holds the bits in either case.

    Where several processes train together (see ``distributed.py``), each calls this with its part
    of the batch; winners are balanced, counts added up and gradients averaged over the whole batch.

    Args:
        visual: The visual encoder, its gradients averaged over processes where there are several.
        images: (I, 3, H, W) normalised.
        image_of_caption: (B,) position in ``images`` of each caption's image.
        tokens: (B, L) token ids, padded, on the CPU (see ``TextEncoder.read``).
        visual_threshold: bound on the raw logits.
        text_threshold: bound on the captions' scores in 0..1.
        random_votes: whether the captions' bits come from ``random_start_scores`` and not from
            the text encoder, as at the start of training.
        teach_text: whether the text encoder learns.
        precision: in which both encoders predict (see ``hardware.py``).
        scaler: of the visual encoder's gradients; needed for fp16.
    """
    size = text.group_size
    with autocast(precision, images.device):
        image_logits = visual(two_at_least(images))[: len(images)]  # (I, C)
        reading = text.read(tokens)
    logits = image_logits[image_of_caption]  # (B, C)
    image_bits = logits.detach() >= visual_threshold
    scores = reading.scores
    if random_votes:
        scores = to_device(random_start_scores(tokens, text.cluster_num), images.device)
    caption_bits = scores >= text_threshold  # (B, C)
    image_targets, caption_targets = image_bits, caption_bits
    if size > 1:
        winners = on_all_rows(partial(balanced_winners, size=size), image_logits.detach())
        image_targets = winners[image_of_caption]
        if not random_votes:
            assert reading.raw_scores is not None  # encoders with groups learn by gradient
            has_words = (tokens >= 0).any(dim=1, keepdim=True)  # (B, 1)
            raw = reading.raw_scores.detach()
            winners = on_all_rows(partial(balanced_winners, size=size), raw)
            caption_targets = winners & to_device(has_words, images.device)

    text_loss = text.learn(reading, image_targets).detach() if teach_text else None
    if size > 1:
        visual_loss = group_cross_entropy(logits, caption_targets, size)
    else:
        visual_loss = functional.binary_cross_entropy_with_logits(
            logits, caption_targets.to(logits)
        )
    descend(
        visual_loss * share_of_rows(len(tokens)),
        visual_optimizer,
        scaler or gradient_scaler(precision, images.device),
    )
    return StepResult(visual_loss.detach(), text_loss, image_bits, caption_bits)
