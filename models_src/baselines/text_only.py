"""The text-only baseline: what the co-occurrence of words within captions alone knows.

Two words co-occur as often as they stand in the same captions. Words are clustered by their
co-occurrences, and a word is concrete as far as its co-occurrences resemble those of known concrete
words more than those of known abstract ones.

Axes: M captions, V words of the vocabulary, R reference words of one side.

Source: the text-only baseline of Berger et al. 2022.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.preprocessing import normalize

from datasets_src.captions import TokenizedCaptions
from datasets_src.norms import Norms
from datasets_src.pairs import TrainingPairs
from models_src.baselines.clustering import cluster_vectors
from models_src.baselines.files import load_baseline, save_baseline
from models_src.model_files import TEXT_ONLY
from utils.errors import UserError

KIND = TEXT_ONLY
NO_CLUSTER = -1  # of a word that is not clustered
REFERENCE_WORDS = 20  # of each side, concrete and abstract
REFERENCE_MIN_COUNT = 10  # reference words occur more often than this

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextOnlyModel:
    """The baseline's answers for the words of the training captions."""

    words: tuple[str, ...]
    clusters: np.ndarray  # (V,) int64, NO_CLUSTER for words that are not clustered
    concreteness: np.ndarray  # (V,) float64 in -R..R, 0 throughout where it was not learned
    settings: dict[str, Any]


def co_occurrence(captions: TokenizedCaptions, word_num: int) -> csr_matrix:
    """Count how often words stand in the same captions.

    With X the (M, V) counts of words in captions the result is XᵀX: the sum over captions of the
    product of two words' counts, on the diagonal of a word's squared count. Tokens outside the
    vocabulary are left out.

    Args:
        captions: M captions.
        word_num: V.

    Returns:
        (V, V) sparse int64, symmetric; V x V values are never held at once.
    """
    caption = np.repeat(np.arange(len(captions)), np.diff(captions.offsets))  # (T,)
    known = captions.tokens >= 0  # (T,)
    ones = np.ones(known.sum(), dtype=np.int64)
    counts = csr_matrix(  # (M, V); equal positions are added up
        (ones, (caption[known], captions.tokens[known])), shape=(len(captions), word_num)
    )
    return (counts.T @ counts).tocsr()


def reference_words(counts: np.ndarray, ratings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Choose the most concrete and the most abstract of the frequent words with a rating.

    These are ``REFERENCE_WORDS`` each; of fewer than twice as many words with a rating and a count
    above ``REFERENCE_MIN_COUNT``, one half each (rounded down), so that no word is on both sides.
    Words of equal rating stand in the order of the vocabulary: the concrete side takes the first
    of them, the abstract side the last.

    Args:
        counts: (V,) occurrences.
        ratings: (V,) human concreteness, NaN for words without a rating.

    Returns:
        (R,) int64 indices of the most concrete words, the most concrete first, and (R,) of the
        most abstract, the most abstract first.
    """
    rated = np.flatnonzero((counts > REFERENCE_MIN_COUNT) & ~np.isnan(ratings))
    falling = rated[np.argsort(-ratings[rated], kind="stable")]
    number = min(REFERENCE_WORDS, len(falling) // 2)
    return falling[:number], falling[::-1][:number]


def co_occurrence_concreteness(
    rows: csr_matrix, concrete: np.ndarray, abstract: np.ndarray
) -> np.ndarray:
    """Return how much more words resemble the concrete than the abstract reference words.

    It is the sum of the cosines of a word's row to those of the concrete reference words, minus
    the sum of those to the abstract ones.

    Args:
        rows: (V, V) sparse, the words' co-occurrences, each row of length 1 (or zero).
        concrete: (R,) indices of reference words.
        abstract: (R,) indices of reference words.

    Returns:
        (V,) float64 in -R..R; 0 for a word without co-occurrence, and for all without reference
        words.
    """
    # cosines add up: one product with the summed rows holds all of them
    direction = rows[concrete].sum(axis=0) - rows[abstract].sum(axis=0)  # (1, V)
    sums: np.ndarray = rows @ np.asarray(direction, dtype=np.float64).ravel()
    return sums


def require_norms(norms: Norms) -> None:
    """Raise a UserError where the baseline can learn neither clusters nor concreteness."""
    if norms.categories is None and norms.concreteness is None:
        raise UserError(
            f"{norms.absent['categorization']} and {norms.absent['concreteness']}, and the "
            "text-only baseline needs at least one; put it there"
        )


def train_text_only(
    pairs: TrainingPairs, norms: Norms, cluster_num: int, seed: int
) -> TextOnlyModel:
    """Learn clusters and concreteness of words from the training captions.

    Clustered are the words of the category file that occur in the captions (and stand in the word
    list, where there is one), by k-means over their rows of the co-occurrence matrix, brought to
    length 1. Concreteness is learned for all words. What lacks its norms is left out, and the log
    says so.

    Args:
        pairs: The training captions; the images are not looked at.
        norms: Human norms.
        cluster_num: Number of clusters, at least 1; with fewer words, as many as there are words.
        seed: Of k-means.

    Raises:
        UserError: there are neither categories nor concreteness ratings.
    """
    require_norms(norms)
    words, counts = pairs.vocabulary.words, pairs.vocabulary.counts
    rows = normalize(co_occurrence(pairs.captions, len(words)).astype(np.float64))  # (V, V)

    clusters = np.full(len(words), NO_CLUSTER, dtype=np.int64)  # (V,)
    if norms.categories is None:
        logger.info("no words are clustered: %s", norms.absent["categorization"])
    else:
        evaluated = _evaluated_words(words, norms)
        clusters[evaluated] = cluster_vectors(rows[evaluated], cluster_num, seed)
        logger.info("%d words are clustered", len(evaluated))

    concreteness, references = np.zeros(len(words)), None
    if norms.concreteness is None:
        logger.info("concreteness is not learned: %s", norms.absent["concreteness"])
    else:
        ratings = np.array([norms.concreteness.get(word, np.nan) for word in words])  # (V,)
        concrete, abstract = reference_words(counts, ratings)
        if not len(concrete):
            logger.info(
                "concreteness is 0 for all words: fewer than two words with a rating occur more "
                "than %d times",
                REFERENCE_MIN_COUNT,
            )
        concreteness = co_occurrence_concreteness(rows, concrete, abstract)
        references = {
            "concrete": [words[word] for word in concrete],
            "abstract": [words[word] for word in abstract],
        }
    settings = {
        "cluster_num": cluster_num,
        "seed": seed,
        "clustered_words": int((clusters != NO_CLUSTER).sum()),
        "reference_words": references,
        "data_fingerprint": pairs.fingerprint(),
    }
    return TextOnlyModel(words, clusters, concreteness, settings)


def _evaluated_words(words: tuple[str, ...], norms: Norms) -> np.ndarray:
    """Return the indices of the words to cluster, in the order of the category file."""
    index = {word: position for position, word in enumerate(words)}
    return np.array([index[word] for word in norms.evaluated_words(words)], dtype=np.int64)


def save_text_only_model(models_dir: Path, name: str, model: TextOnlyModel) -> None:
    """Write a model, replacing one of the same name."""
    arrays = {"clusters": model.clusters, "concreteness": model.concreteness}
    save_baseline(models_dir, KIND, name, model.words, arrays, model.settings)


def load_text_only_model(models_dir: Path, name: str) -> TextOnlyModel:
    """Read a model.

    Raises:
        UserError: there is no such model, or a file is malformed.
    """
    words, (clusters, concreteness), settings = load_baseline(
        models_dir, KIND, name, "train_text_only_baseline", ("clusters", "concreteness")
    )
    return TextOnlyModel(words, clusters, concreteness, settings)
