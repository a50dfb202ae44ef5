"""Captions to token ids, packed into flat arrays.

Axes: M captions, T tokens of all captions, V words of the vocabulary.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np

from utils.errors import UserError
from utils.files import write_atomically
from utils.progress import with_bar

UNKNOWN = -1  # token id of a word outside the vocabulary
PADDING = -2  # token id behind the end of a caption in a padded batch
LONGEST_CAPTION = 5_000  # characters; what follows is left out: it would make its batch as long
TOKENIZER_CACHE = 1_000_000  # pieces between blanks that are split once; spaCy's own 10,000 are few
STORED_VERSION = 1  # of the file of tokens

logger = logging.getLogger(__name__)


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
    import spacy
    from spacy.attrs import ORTH

    language = spacy.blank("en")
    # its parts are compiled, and their types unknown
    tokenizer: Any = language.tokenizer
    vocabulary: Any = language.vocab
    # a new word's shape, likeness to a number and so on take longer than splitting a text
    vocabulary.lex_attr_getters = {}
    strings = vocabulary.strings
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
    rank = np.empty(len(words), dtype=np.int32)
    rank[order] = np.arange(len(words), dtype=np.int32)
    vocabulary = Vocabulary(tuple(words[word] for word in order), counts[order].astype(np.int64))
    return vocabulary, TokenizedCaptions(rank[tokens], offsets)


def stored_vocabulary(texts: Sequence[str], path: Path) -> tuple[Vocabulary, TokenizedCaptions]:
    """Return what ``build_vocabulary`` does, from a file where it holds it, else store it there.

    The file is tied to the texts and to the tokenizer by a hash of both. One that cannot be read or
    written costs the time of tokenizing, no more.

    Args:
        texts: The training captions.
        path: The file, numpy's ``.npz``.
    """
    made_from = json.dumps([STORED_VERSION, LONGEST_CAPTION, "spacy", version("spacy"), *texts])
    identity = hashlib.sha256(made_from.encode()).hexdigest()
    stored = _read_stored(path, identity)
    if stored is not None:
        logger.debug("%s: %d captions, tokenized earlier", path, len(texts))
        return stored
    vocabulary, captions = build_vocabulary(texts)

    def write(file: IO[bytes]) -> None:
        np.savez(
            file,
            identity=np.array(identity),
            words=np.frombuffer(json.dumps(vocabulary.words).encode(), np.uint8),
            counts=vocabulary.counts,
            tokens=captions.tokens,
            offsets=captions.offsets,
        )

    try:
        write_atomically(path, write)
    except UserError as error:
        logger.info("tokenized captions are not stored: %s", error)
    return vocabulary, captions


def _read_stored(path: Path, identity: str) -> tuple[Vocabulary, TokenizedCaptions] | None:
    """Return the contents of a file of tokens, None unless it is whole and of this identity."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["identity"]) != identity:
                return None
            words = tuple(json.loads(file["words"].tobytes()))
            return (
                Vocabulary(words, file["counts"]),
                TokenizedCaptions(file["tokens"], file["offsets"]),
            )
    except Exception as error:  # zip and numpy raise many kinds for damaged files
        logger.info("%s is damaged (%s) and made anew", path, type(error).__name__)
        return None


def note_odd_captions(texts: Sequence[str], captions: TokenizedCaptions) -> None:
    """Log how many training captions have no word, or were cut."""
    empty = int((np.diff(captions.offsets) == 0).sum())
    if empty:
        logger.warning("%d of %d training captions have no word", empty, len(texts))
    cut = sum(len(text) > LONGEST_CAPTION for text in texts)
    if cut:
        logger.warning(
            "%d training captions are longer than %d characters, and cut there",
            cut,
            LONGEST_CAPTION,
        )


def encode_captions(texts: Sequence[str], words: Sequence[str]) -> TokenizedCaptions:
    """Tokenize captions with a given vocabulary; other words become ``UNKNOWN``."""
    ids = {word: index for index, word in enumerate(words)}
    return TokenizedCaptions(
        *_pack([ids.get(token, UNKNOWN) for token in caption] for caption in tokenize(texts))
    )


def _pack(captions: Iterable[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return lists of ids as tokens (T,) int32 and offsets (M+1,) int64."""
    from array import array

    tokens, offsets = array("i"), array("q", [0])
    for caption in captions:
        tokens.extend(caption)
        offsets.append(len(tokens))
    return np.array(tokens, dtype=np.int32), np.array(offsets, dtype=np.int64)
