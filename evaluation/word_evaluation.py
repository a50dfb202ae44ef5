"""Word metrics of a text encoder: it answers once for all training words, then all are scored.

Axes: W words of the training captions, C clusters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from datasets_src.captions import Vocabulary
from datasets_src.norms import Norms, load_associations
from evaluation.association import association_scores
from evaluation.categorization import categorization_scores, chance_categorization_scores
from evaluation.cluster_counts import cluster_counts
from evaluation.concreteness import concreteness_scores
from models_src.text_encoders.interface import TextEncoder

NO_CLUSTER = -1  # of a word the encoder does not know


@dataclass(frozen=True)
class WordPredictions:
    """A text encoder's answers for the words of the training captions."""

    words: tuple[str, ...]
    counts: np.ndarray  # (W,) int64 occurrences in the training captions
    clusters: np.ndarray  # (W,) int64 most probable cluster, NO_CLUSTER for unknown words
    # (W,) float64 of that cluster, 0 for unknown words: the concreteness (of the co-occurrence
    # baseline, which has no probabilities, its own measure of it)
    probabilities: np.ndarray


def words_to_clusters(encoder: TextEncoder, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the most probable cluster (W,) of each word, ties to the lowest, and its probability.

    They are ``NO_CLUSTER`` and 0 for words that the encoder does not know.
    """
    posteriors = posterior_rows(encoder, words)  # (W, C)
    probabilities = posteriors.max(axis=1)
    return np.where(probabilities > 0, posteriors.argmax(axis=1), NO_CLUSTER), probabilities


def posterior_rows(encoder: TextEncoder, words: Sequence[str]) -> np.ndarray:
    """Return p(c|w) of some words, (W, C) float64; zeros for words the encoder does not know."""
    posteriors = encoder.word_posteriors().cpu().numpy().astype(np.float64)  # (V, C)
    index = pd.Index(encoder.words).get_indexer(list(words))  # (W,), -1 for unknown ones
    return np.where(index[:, None] >= 0, posteriors[index], 0.0)


def predict_words(encoder: TextEncoder, vocabulary: Vocabulary) -> WordPredictions:
    """Ask the encoder for every word of the training captions."""
    words = vocabulary.words
    return WordPredictions(words, vocabulary.counts, *words_to_clusters(encoder, words))


def word_metrics(
    predictions: WordPredictions, norms: Norms, text_threshold: float, seed: int
) -> dict[str, Any]:
    """Score a text encoder's answers with every word metric; None where a norm is absent.

    ``text_threshold`` is the probability from which a word activates its cluster, ``seed`` that of
    the chance level's random clusters.
    """
    metrics: dict[str, Any] = {"categorization": None, "categorization_chance": None}
    if norms.categories is not None:
        metrics |= categorization_metrics(predictions, norms, seed)
    clusters, probabilities = predictions.clusters, predictions.probabilities
    return metrics | {
        "concreteness": norms.concreteness and concreteness_metrics(predictions, norms),
        "word_association": norms.association_file and association_metrics(predictions, norms),
        "cluster_counts": cluster_counts(clusters, probabilities, text_threshold),
    }


def known_evaluated_words(
    predictions: WordPredictions, norms: Norms
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions of the known evaluated words in the category file and in predictions."""
    assert norms.categories is not None
    words = norms.evaluated_words(predictions.words)
    in_file = pd.Index(norms.categories.words).get_indexer(words)
    in_predictions = pd.Index(predictions.words).get_indexer(words)
    known = predictions.clusters[in_predictions] != NO_CLUSTER
    return in_file[known], in_predictions[known]


def categorization_metrics(predictions: WordPredictions, norms: Norms, seed: int) -> dict[str, Any]:
    """Return the scores of the known words and of all words of the category file, with chance."""
    assert norms.categories is not None
    category = norms.categories.category
    in_file, in_predictions = known_evaluated_words(predictions, norms)
    # every word the encoder cannot place goes into one extra cluster, NO_CLUSTER
    all_clusters = np.full(len(category), NO_CLUSTER)
    all_clusters[in_file] = predictions.clusters[in_predictions]
    labels = {
        "known_words": (category[in_file], all_clusters[in_file]),
        "all_words": (category, all_clusters),
    }
    return {
        "categorization": {name: categorization_scores(*pair) for name, pair in labels.items()},
        "categorization_chance": {
            name: chance_categorization_scores(*pair, seed) for name, pair in labels.items()
        },
    }


def concreteness_metrics(predictions: WordPredictions, norms: Norms) -> dict[str, Any]:
    """Score the predicted concreteness of the words with a rating, but for NaN."""
    ratings_of = norms.concreteness or {}
    ratings = np.array([ratings_of.get(word, np.nan) for word in predictions.words])  # (W,)
    predicted = predictions.probabilities
    rated = ~np.isnan(ratings + predicted)
    return concreteness_scores(predicted[rated], ratings[rated], predictions.counts[rated])


def text_only_concreteness_metrics(
    predictions: WordPredictions, reference_words: Mapping[str, Sequence[str]], norms: Norms
) -> dict[str, Any]:
    """Score the co-occurrence baseline's concreteness.

    The ratings of its reference words, the most concrete and the most abstract ones by side, went
    into it: how it scores without them stands beside the published figure. There is no mean
    absolute error, since the measure is a sum of cosines.
    """
    references = {word for side in reference_words.values() for word in side}
    is_reference = [word in references for word in predictions.words]
    others = np.where(is_reference, np.nan, predictions.probabilities)
    scores = concreteness_metrics(predictions, norms)
    without = concreteness_metrics(replace(predictions, probabilities=others), norms)
    return {
        "concreteness": scores | {"mean_absolute_error": None},
        "concreteness_without_reference_words": {
            name: without[name] for name in ("word_count", "pearson_by_min_count")
        },
    }


def association_metrics(predictions: WordPredictions, norms: Norms) -> dict[str, Any]:
    """Return the association scores of the known evaluated words."""
    assert norms.association_file is not None
    _, known = known_evaluated_words(predictions, norms)
    words = [predictions.words[position] for position in known]
    return association_scores(
        predictions.clusters[known], *load_associations(norms.association_file, words)
    )
