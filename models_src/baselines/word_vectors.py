"""Word vectors from files of word2vec and fastText, read as a stream.

Such files are far larger than what is wanted of them: only the vectors of the wanted words are
kept. Axes: W wanted words, K of them in the file, D values of a vector.

Both forms begin with a line ``count D``. In the text form each further line is a word and D
numbers; in the binary form each record is the word, a space, D little-endian float32 and, in some
files, a line feed.
"""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

import numpy as np

from utils.errors import UserError
from utils.progress import with_bar

BLOCK = 1 << 20  # bytes read at once
LONGEST_WORD = 4096  # bytes; a record without a space within them is no record
LONGEST_NUMBER = 64  # bytes that a number takes as text
LARGEST_DIM = 100_000  # values; beyond it a header is taken for damaged
SURELY_TEXT = 8  # so many printable characters and a line end hardly ever open binary numbers
SOURCES = (
    "word2vec's from code.google.com/archive/p/word2vec, fastText's from "
    "fasttext.cc/docs/en/english-vectors.html"
)


def load_word_vectors(
    path: Path, words: Sequence[str], option: str
) -> tuple[np.ndarray, np.ndarray]:
    """Read the vectors of some words.

    Words are looked up as they are written, case included. Where the file has a word twice, the
    first vector counts. Reading ends when all words are found, so that only what was read is
    checked.

    Args:
        path: A word2vec or fastText file, text or binary (told apart by the first record), or one
            of them compressed as ``.gz``.
        words: W words.
        option: The option that names the file, for the error message ("--w2v_file").

    Returns:
        (W,) bool, whether the file has each word, and the vectors (K, D) float32 of those it has,
        in the order of ``words``.

    Raises:
        UserError: the file is missing or malformed, naming the line or record.
    """
    if not path.is_file():
        raise UserError(
            f"no file {path} of word vectors; put it there or name one with {option} ({SOURCES})"
        )
    wanted = {word.encode("utf-8", "surrogatepass") for word in words}
    try:
        with (
            gzip.open(path) if path.suffix == ".gz" else path.open("rb", buffering=1 << 20)
        ) as file:
            # a GzipFile is an IO[bytes] in all but name
            dim, vectors = _read(cast(IO[bytes], file), path, wanted)
    except EOFError:
        raise UserError(f"{path} ends within its compressed data; get the file again") from None
    except (OSError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read word vectors {path}: {reason}; check the file") from None
    found = [vectors.get(word.encode("utf-8", "surrogatepass")) for word in words]
    known = np.array([vector is not None for vector in found], dtype=bool)  # (W,)
    rows = [vector for vector in found if vector is not None]
    return known, np.array(rows, dtype=np.float32).reshape(-1, dim)  # (K, D)


def _read(file: IO[bytes], path: Path, wanted: set[bytes]) -> tuple[int, dict[bytes, np.ndarray]]:
    """Return D and the vectors (D,) of the wanted words in an open file."""
    header = file.readline(LONGEST_WORD)
    fields = header.split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields):
        raise UserError(
            f"{path}, line 1: no header with the number of words and the size of their vectors; "
            "use a file of word2vec or fastText"
        )
    count, dim = map(int, fields)
    if not 1 <= dim <= LARGEST_DIM:
        raise UserError(f"{path}, line 1: vectors of {dim} values; use another file")
    if not wanted or not count:
        return dim, {}
    sample = file.read(LONGEST_WORD + LONGEST_NUMBER * dim)  # holds the first record
    file.seek(len(header))
    read = _read_text if _is_text(sample, dim) else _read_binary
    return dim, read(file, path, count, dim, wanted)


def _is_text(sample: bytes, dim: int) -> bool:
    """Tell from the first record whether a file's numbers are written as text.

    They are when the first line reads as a word and D numbers. A first line that is printable
    throughout is text too, though malformed: binary numbers do not look like that.
    """
    line = sample.partition(b"\n")[0] if b"\n" in sample else b""
    values = line.partition(b" ")[2].rstrip()
    if _numbers(values, dim) is not None:
        return True
    return len(values) >= SURELY_TEXT and values.isascii() and values.decode().isprintable()


def _numbers(values: bytes, dim: int) -> np.ndarray | None:
    """Return D finite numbers separated by spaces as (D,) float32, or None for anything else."""
    fields = values.split()
    if len(fields) != dim:
        return None
    try:
        with np.errstate(over="ignore"):  # what is too large is refused below
            vector = np.array([float(field) for field in fields]).astype(np.float32)
    except ValueError:
        return None
    return vector if np.isfinite(vector).all() else None


def _read_text(
    file: IO[bytes], path: Path, count: int, dim: int, wanted: set[bytes]
) -> dict[bytes, np.ndarray]:
    """Read lines of a word and D numbers; of unwanted words only the first line is checked."""
    vectors: dict[bytes, np.ndarray] = {}
    number = 1
    lines = with_bar(file, f"reading {path.name}", "vector", count)
    for number, line in enumerate(lines, start=2):
        word = line[: line.find(b" ")]
        if word not in wanted and number > 2:
            continue
        vector = _numbers(line[len(word) :], dim)
        if vector is None:
            raise UserError(
                f"{path}, line {number}: no word with {dim} finite numbers; correct the line or "
                "get the file again"
            )
        if word in wanted:
            vectors.setdefault(word, vector)
            if len(vectors) == len(wanted):
                return vectors
    if number - 1 < count:
        raise UserError(
            f"{path} ends after {number - 1} of the {count} words that line 1 announces; get the "
            "file again or correct the number"
        )
    return vectors


def _read_binary(
    file: IO[bytes], path: Path, count: int, dim: int, wanted: set[bytes]
) -> dict[bytes, np.ndarray]:
    """Read records of a word and D little-endian float32."""
    vectors: dict[bytes, np.ndarray] = {}
    width = 4 * dim
    block, start = b"", 0  # the next record begins at start
    for number in with_bar(range(1, count + 1), f"reading {path.name}", "vector"):
        space = block.find(b" ", start, start + LONGEST_WORD)
        if space < 0 or space + 1 + width > len(block):
            block, start = block[start:] + file.read(BLOCK), 0
            space = block.find(b" ", 0, LONGEST_WORD)
            if space < 0 or space + 1 + width > len(block):
                raise UserError(
                    f"{path}, record {number} of {count}: no word with {dim} numbers; the file is "
                    "cut off or damaged, get it again"
                )
        word = block[start:space].lstrip(b"\n")  # the line feed of the record before
        start = space + 1 + width
        if word in wanted and word not in vectors:
            vector = np.frombuffer(block, "<f4", dim, space + 1).astype(np.float32)
            if not np.isfinite(vector).all():
                raise UserError(
                    f"{path}, record {number}: the vector of '{word.decode('utf-8', 'replace')}' "
                    "has a value that is not finite; get the file again"
                )
            vectors[word] = vector
            if len(vectors) == len(wanted):
                return vectors
    if (block[start:] + file.read(LONGEST_WORD)).strip():
        raise UserError(
            f"{path} goes on after the {count} words of {dim} numbers that line 1 announces; get "
            "the file again"
        )
    return vectors
