"""A training's metrics by step, dense at first: how words and clusters are acquired.

The rows are part of the run, so that a continued training has each row once. Measuring draws no
random numbers and teaches nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets_src.captions import TokenizedCaptions
from models_src.diagnosis import batch_statistics
from models_src.distributed import rank
from models_src.text_encoders.interface import TextEncoder
from models_src.visual_encoders import VisualEncoder

# kind of thing (the model, a category, a word) -> its name -> metric -> value
Values = dict[str, dict[str, dict[str, float | None]]]


@dataclass(frozen=True)
class Plan:
    """What is to be measured while training, and when."""

    every: int  # joint steps between two rows, once they are no longer denser
    evaluate: Callable[[TextEncoder], Values]
    report: Callable[[Sequence["Moment"]], None]  # takes all rows so far, after each new one
    # measures what both encoders make of images; all ranks call it
    evaluate_images: Callable[[VisualEncoder, TextEncoder], dict[str, float | None]] = lambda *_: {}


@dataclass(frozen=True)
class Moment:
    """What was measured after a joint step."""

    step: int  # joint steps so far
    pairs: int  # image-caption pairs learnt from so far, repetitions included
    tokens: int  # words in their captions, punctuation included
    values: Values

    def flat(self) -> dict[str, float | None]:
        """Return the values by one name each, such as ``word.dog.probability``."""
        return {
            ".".join(filter(None, (kind, name, metric))): value
            for kind, names in self.values.items()
            for name, metrics in names.items()
            for metric, value in metrics.items()
        }


@dataclass
class Development:
    """The rows of a run so far, and what has been seen since the last one."""

    plan: Plan
    last_step: int  # of the run
    sums: Tensor  # since the last row, see ``diagnosis.step_sums``
    pairs: int = 0
    tokens: int = 0
    moments: list[Moment] = field(default_factory=list)

    def add(self, sums: Tensor, all_captions: TokenizedCaptions, captions: np.ndarray) -> None:
        """Add a joint step: its sums, and the indices (B,) of its captions."""
        self.sums = self.sums + sums
        self.pairs += len(captions)
        lengths = all_captions.offsets[captions + 1] - all_captions.offsets[captions]  # (B,)
        self.tokens += int(lengths.sum())

    def measure(self, step: int, visual: VisualEncoder, text: TextEncoder) -> None:
        """Add the row of a step, whose p(c|w) is up to date; the CNN stays in training mode."""
        visual.eval()
        of_images = self.plan.evaluate_images(visual, text)
        visual.train()
        values = self.plan.evaluate(text) if rank() == 0 else {}
        of_words = values.get("model", {}).get("", {})
        values["model"] = {"": vars(batch_statistics(self.sums)) | of_words | of_images}
        self.moments.append(Moment(step, self.pairs, self.tokens, values))
        self.sums = torch.zeros_like(self.sums)
        if rank() == 0:
            self.plan.report(self.moments)

    def is_due(self, step: int) -> bool:
        """Say whether a row belongs behind this step."""
        return step == self.last_step or is_measured(step, self.plan.every)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows as tensors and plain values."""
        moments = [vars(moment) for moment in self.moments]
        return {"sums": self.sums, "pairs": self.pairs, "tokens": self.tokens, "moments": moments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict`` returned."""
        self.sums = state["sums"].to(self.sums)
        self.pairs, self.tokens = state["pairs"], state["tokens"]
        self.moments = [Moment(**moment) for moment in state["moments"]]
        if rank() == 0:
            self.plan.report(self.moments)  # rows after the checkpoint will be measured again


def is_measured(step: int, every: int) -> bool:
    """Say whether a step has a row: 1, 2, 5, 10, 20, ... below ``every``, then its multiples."""
    if step >= every:
        return step % every == 0
    return str(step).rstrip("0") in ("1", "2", "5")
