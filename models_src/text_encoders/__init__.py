"""Text encoders: one file each, behind the interface of ``interface.py``.

A new encoder is one new file with a ``build`` function and one line in the table below.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models_src.settings import TrainingSettings
    from models_src.text_encoders.interface import TextEncoder

# name of the encoder -> module whose build(settings, words, device) makes it
TEXT_ENCODERS = {
    "lstm": "models_src.text_encoders.recurrent",
    "gru": "models_src.text_encoders.recurrent",
    "generative": "models_src.text_encoders.count",
    "discriminative": "models_src.text_encoders.count",
}


def build_text_encoder(
    settings: "TrainingSettings", words: tuple[str, ...], device: str = "cpu"
) -> "TextEncoder":
    """Return the untrained encoder ``settings.text_encoder`` for a vocabulary of ``words``.

    Random weights come from torch's global generator, which the caller seeds.
    """
    module = importlib.import_module(TEXT_ENCODERS[settings.text_encoder])
    return module.build(settings, words, device)
