"""Text encoders: one file each, behind the interface of ``interface.py``.

A new encoder is one new file with a ``build`` function and one line in the table below.
"""

from typing import NamedTuple


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
