"""Word vectors from files of word2vec and fastText, and k-means over word vectors.

Such files are far larger than what is wanted of them: they are read as a stream, and only the
vectors of the wanted words are kept. Both forms begin with a line ``count D``. In the text form
each further line is a word and D numbers; in the binary form each record is the word, a space, D
little-endian float32 and, in some files, a line feed.

Axes: W wanted words, K of them in the file, D values of a vector.
"""

import gzip
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from utils.errors import UserError
from utils.files import reading
from utils.progress import with_bar

LONGEST_LINE = 1 << 20  # bytes; the binary form need not have lines
STARTS = 10  # k-means runs from this many starts; the tightest result counts
SOURCES = (
    "word2vec's from code.google.com/archive/p/word2vec, fastText's from "
    "fasttext.cc/docs/en/english-vectors.html"
)


def load_word_vectors(
    path: Path, words: Sequence[str], option: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return whether a file has each word, (W,) bool, and the vectors it has, (K, D) float32.

    Words are looked up as they are written, case included; of a word's vectors the first counts.
    The file, which ``option`` names, is text or binary (told apart by the first record), and may be
    compressed as ``.gz``. Vectors are in the order of ``words``.
    """
    if not path.is_file():
        raise UserError(
            f"no file {path} of word vectors; put it there or name one with {option} ({SOURCES})"
        )
    wanted = [word.encode("utf-8", "surrogatepass") for word in words]
    missing = set(wanted)
    vectors: dict[bytes, np.ndarray] = {}
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with reading(path, "get the file again"), io.BufferedReader(opened(path, "rb")) as file:
        header = file.readline(LONGEST_LINE)
        if len(header.split()) != 2:
            raise ValueError("line 1 is no header with the numbers of words and of values")
        count, dim = map(int, header.split())
        first = _numbers(file.readline(LONGEST_LINE).partition(b" ")[2])
        is_text = len(first) > 0
        if is_text and len(first) != dim:
            raise ValueError(f"line 2 has {len(first)} numbers, line 1 says {dim}")
        file.seek(len(header))
        records = with_bar(
            (_text_records if is_text else _binary_records)(file, count, dim),
            f"reading {path.name}",
            "vector",
            count,
        )
        for number, (word, values) in enumerate(records, start=1):
            if word in missing:
                vector = _numbers(values) if is_text else np.frombuffer(values, "<f4")
                if len(vector) != dim or not np.isfinite(vector).all():
                    raise ValueError(f"record {number} has no {dim} finite numbers")
                vectors[word] = vector
                missing.remove(word)
            if not missing:
                break
    known = np.array([word in vectors for word in wanted], dtype=bool)  # (W,)
    rows = [vectors[word] for word in wanted if word in vectors]
    return known, np.array(rows, dtype=np.float32).reshape(-1, dim)  # (K, D)


def _numbers(values: bytes) -> np.ndarray:
    """Return numbers written as text, float32; none for anything else."""
    try:
        numbers = np.array([float(value) for value in values.split()])
    except ValueError:
        return np.zeros(0, np.float32)
    with np.errstate(over="ignore"):  # what is too large for float32 is not finite
        return numbers.astype(np.float32)


def _text_records(file: BinaryIO, count: int, dim: int) -> Iterator[tuple[bytes, bytes]]:
    for number in range(count):
        line = file.readline()
        if not line:
            raise ValueError(f"it ends after {number} of the {count} words that line 1 announces")
        word, _, values = line.partition(b" ")
        yield word, values


def _binary_records(file: BinaryIO, count: int, dim: int) -> Iterator[tuple[bytes, bytes]]:
    for number in range(1, count + 1):
        word = bytearray()
        while (letter := file.read(1)) not in (b" ", b""):
            word += letter
        values = file.read(4 * dim)
        if len(values) < 4 * dim:
            raise ValueError(f"record {number} of {count} is no word with {dim} numbers")
        yield bytes(word.lstrip(b"\n")), values  # the line feed ends the record before


def cluster_vectors(vectors: np.ndarray | csr_matrix, cluster_num: int, seed: int) -> np.ndarray:
    """Cluster the rows of a (W, D) matrix by k-means with Euclidean distance, (W,) int64.

    Clusters are numbered from 0. Equal rows share one; there are at most as many as rows.
    """
    row_num = vectors.shape[0]
    if not row_num:
        return np.empty(0, dtype=np.int64)
    k_means = KMeans(min(cluster_num, row_num), n_init=STARTS, random_state=seed)
    with warnings.catch_warnings():
        # fewer different rows than clusters end up in fewer clusters, which is well
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusters: np.ndarray = k_means.fit_predict(vectors)
        return clusters.astype(np.int64)
