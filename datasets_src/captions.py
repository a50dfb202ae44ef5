"""Captions to token ids, packed into flat arrays.

Axes: M captions, T tokens of all captions, V words of the vocabulary.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.progress import with_bar

UNKNOWN = -1  # token id of a word outside the vocabulary
PADDING = -2  # token id behind the end of a caption in a padded batch
LONGEST_CAPTION = 5_000  # characters; what follows is left out: it would make its batch as long
TOKENIZER_CACHE = 1_000_000  # pieces between blanks that are split once; spaCy's own 10,000 are few


@dataclass(frozen=True)
class Vocabulary:
    """The words of the training captions, by falling count and then by alphabet."""

    words: tuple[str, ...]
    counts: np.ndarray  # (V,) int64 occurrences in the training captions


@dataclass(frozen=True)
class TokenizedCaptions:
    """Captions as token ids in one flat array."""

    tokens: np.ndarray  # (T,) int32 word ids, UNKNOWN where the vocabulary lacks the word
    offsets: np.ndarray  # (M+1,) int64: caption m is tokens[offsets[m]:offsets[m+1]]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def padded(self, captions: np.ndarray) -> np.ndarray:
        """Return the captions of some indices (B,) as (B, L) int64, padded to the longest.

        L is at least 1, so that a batch of empty captions is still a batch.
        """
        starts = self.offsets[captions]
        lengths = self.offsets[captions + 1] - starts  # (B,)
        positions = np.arange(max(1, lengths.max(initial=0)))  # (L,)
        inside = positions < lengths[:, None]  # (B, L)
        where = np.where(inside, starts[:, None] + positions, 0)
        padded = np.full(where.shape, PADDING, dtype=np.int64)
        padded[inside] = self.tokens[where[inside]]
        return padded


def tokenize(texts: Iterable[str]) -> Iterator[list[str]]:
    """Split texts into tokens: lower case, spaCy's rules for English, no white space.

    Punctuation stays. No model is needed or downloaded. Of a text only the first
    ``LONGEST_CAPTION`` characters are read.
    """
    # for its tokenizer alone: the vocabularies of published models are split by its rules. Late,
    # for it takes a second to load
    import spacy
    from spacy.attrs import ORTH

    language: Any = spacy.blank("en")  # its parts are compiled, and their types unknown
    tokenizer, strings = language.tokenizer, language.vocab.strings
    # a new word's shape, likeness to a number and so on take longer than splitting a text
    language.vocab.lex_attr_getters = {}
    tokenizer.max_cache_size = TOKENIZER_CACHE
    for text in with_bar(texts, "splitting captions", "caption"):
        words = [
            strings[orth]
            for orth in tokenizer(text[:LONGEST_CAPTION].lower()).to_array(ORTH).tolist()
        ]
        yield [word for word in words if not word.isspace()]


def build_vocabulary(texts: Sequence[str]) -> tuple[Vocabulary, TokenizedCaptions]:
    """Tokenize training captions and collect their words."""
    first_seen: dict[str, int] = {}
    tokens, offsets = _pack(
        [first_seen.setdefault(token, len(first_seen)) for token in caption]
        for caption in tokenize(texts)
    )
    counts = np.bincount(tokens, minlength=len(first_seen))
    words = list(first_seen)
    order = sorted(range(len(words)), key=lambda word: (-counts[word], words[word]))
    rank = np.argsort(order).astype(np.int32)  # (V,) the place of each word in that order
    vocabulary = Vocabulary(tuple(words[word] for word in order), counts[order].astype(np.int64))
    return vocabulary, TokenizedCaptions(rank[tokens], offsets)


def encode_captions(texts: Sequence[str], words: Sequence[str]) -> TokenizedCaptions:
    """Tokenize captions with a given vocabulary; other words become ``UNKNOWN``."""
    ids = {word: index for index, word in enumerate(words)}
    return TokenizedCaptions(
        *_pack([ids.get(token, UNKNOWN) for token in caption] for caption in tokenize(texts))
    )


def _pack(captions: Iterable[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return lists of ids as tokens (T,) int32 and offsets (M+1,) int64."""
    tokens, offsets = array("i"), array("q", [0])
    for caption in captions:
        tokens.extend(caption)
        offsets.append(len(tokens))
    return np.array(tokens, dtype=np.int32), np.array(offsets, dtype=np.int64)
