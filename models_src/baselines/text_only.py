"""The text-only baseline: what the co-occurrence of words within captions alone knows.

Two words co-occur as often as they stand in the same captions. Words are clustered by their
co-occurrences, and a word is concrete as far as its co-occurrences resemble those of known concrete
words more than those of known abstract ones.

Axes: M captions, V words of the vocabulary, R reference words of one side.

Source: the text-only baseline of Berger et al. 2022.
"""

import logging
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.preprocessing import normalize

from datasets_src.captions import TokenizedCaptions
from datasets_src.norms import Norms
from datasets_src.pairs import TrainingPairs
from models_src.baselines.word_baseline import WordBaseline
from models_src.baselines.word_vectors import cluster_vectors

NO_CLUSTER = -1  # of a word that is not clustered
REFERENCE_WORDS = 20  # of each side, concrete and abstract
REFERENCE_MIN_COUNT = 10  # reference words occur more often than this

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextOnlyModel(WordBaseline):
    """The baseline's answers for the words of the training captions."""

    kind = "text_only"
    utility = "train_text_only_baseline"
    clusters: np.ndarray  # (V,) int64, NO_CLUSTER for words that are not clustered
    concreteness: np.ndarray  # (V,) float64 in -R..R, 0 throughout where it was not learned


def co_occurrence(captions: TokenizedCaptions, word_num: int) -> csr_matrix:
    """Count how often words stand in the same captions, (V, V) int64.

    With X the (M, V) counts of words in captions it is XᵀX: the sum over captions of the product of
    two words' counts, on the diagonal of a word's squared count. Tokens outside the vocabulary are
    left out.
    """
    ones = np.ones(len(captions.tokens), dtype=np.int64)
    counts = csr_matrix(  # (M, 1 + V), the first column of tokens outside the vocabulary
        (ones, captions.tokens + 1, captions.offsets), (len(captions), 1 + word_num)
    )[:, 1:]
    return (counts.T @ counts).tocsr()


def reference_words(counts: np.ndarray, ratings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the most concrete and most abstract of the frequent rated words, (R,) indices each.

    The most extreme come first. R is ``REFERENCE_WORDS``; where fewer than twice as many words are
    rated and frequent, each side takes half of them. Of words of equal rating the concrete side
    takes those that stand first in the vocabulary, the abstract side the last. ``ratings`` (V,) are
    NaN for words without one.
    """
    rated = np.flatnonzero((counts > REFERENCE_MIN_COUNT) & ~np.isnan(ratings))
    falling = rated[np.argsort(-ratings[rated], kind="stable")]
    number = min(REFERENCE_WORDS, len(falling) // 2)
    return falling[:number], falling[::-1][:number]


def co_occurrence_concreteness(
    rows: csr_matrix, concrete: np.ndarray, abstract: np.ndarray
) -> np.ndarray:
    """Return how much more words resemble the concrete than the abstract reference words.

    It is the sum of the cosines of a word's row to those of the concrete reference words, minus the
    sum of those to the abstract ones, (V,) in -R..R; 0 for a word without co-occurrence. ``rows``
    (V, V) are the words' co-occurrences, each row of length 1 (or zero).
    """
    # cosines add up: one product with the summed rows holds all of them
    direction = rows[concrete].sum(axis=0) - rows[abstract].sum(axis=0)  # (1, V)
    sums: np.ndarray = rows @ np.asarray(direction, dtype=np.float64).ravel()
    return sums


def train_text_only(
    pairs: TrainingPairs, norms: Norms, cluster_num: int, seed: int
) -> TextOnlyModel:
    """Learn clusters and concreteness of words from the training captions.

    The words of the category file that occur in the captions are clustered by k-means over their
    rows of the co-occurrence matrix, brought to length 1. What lacks its norms is left out.
    """
    words, counts = pairs.vocabulary.words, pairs.vocabulary.counts
    rows = normalize(co_occurrence(pairs.captions, len(words)).astype(np.float64))  # (V, V)

    clusters = np.full(len(words), NO_CLUSTER, dtype=np.int64)  # (V,)
    if norms.categories is None:
        logger.info("no words are clustered: %s", norms.absent["categorization"])
    else:
        evaluated = [words.index(word) for word in norms.evaluated_words(words)]
        clusters[evaluated] = cluster_vectors(rows[evaluated], cluster_num, seed)
        logger.info("%d words are clustered", len(evaluated))

    concreteness, references = np.zeros(len(words)), None
    if norms.concreteness is None:
        logger.info("concreteness is not learned: %s", norms.absent["concreteness"])
    else:
        ratings = np.array([norms.concreteness.get(word, np.nan) for word in words])  # (V,)
        concrete, abstract = reference_words(counts, ratings)
        if not len(concrete):
            logger.info("concreteness is 0 for all words: fewer than two frequent words are rated")
        concreteness = co_occurrence_concreteness(rows, concrete, abstract)
        sides = {"concrete": concrete, "abstract": abstract}
        references = {side: [words[word] for word in found] for side, found in sides.items()}
    settings = {
        "cluster_num": cluster_num,
        "seed": seed,
        "clustered_words": int((clusters != NO_CLUSTER).sum()),
        "reference_words": references,
        "data_fingerprint": pairs.fingerprint(),
    }
    return TextOnlyModel(words, settings, clusters, concreteness)
