"""Text encoders: one file each, behind the interface of ``interface.py``.

A new encoder is one new file with a ``build`` function and one line in the table below.
"""

import importlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from models_src.settings import TrainingSettings
    from models_src.text_encoders.interface import TextEncoder


class TextEncoderKind(NamedTuple):
    """A row of the table of text encoders."""

    module: str  # whose build(settings, words, device) makes the encoder
    # learns by gradient; others count
    by_gradient: bool = False


TEXT_ENCODERS = {
    "lstm": TextEncoderKind("models_src.text_encoders.recurrent", by_gradient=True),
    "gru": TextEncoderKind("models_src.text_encoders.recurrent", by_gradient=True),
    "generative": TextEncoderKind("models_src.text_encoders.count"),
    "discriminative": TextEncoderKind("models_src.text_encoders.count"),
}


def build_text_encoder(
    settings: "TrainingSettings", words: tuple[str, ...], device: str = "cpu"
) -> "TextEncoder":
    """Return the untrained encoder ``settings.text_encoder`` for a vocabulary of ``words``.

    Random weights come from torch's global generator, which the caller seeds.
    """
    module = importlib.import_module(TEXT_ENCODERS[settings.text_encoder].module)
    encoder: TextEncoder = module.build(settings, words, device)
    return encoder
