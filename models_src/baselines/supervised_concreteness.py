"""Concreteness predicted from features of words by support vector regression on human ratings.

Features are of three kinds: the parts of speech that WordNet gives a word, its endings, and its
fastText vector. The training captions only say which words count.

Axes: W words, F features.

Source: Charbonnier and Wartena 2019, "Predicting word concreteness and imagery".
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVR

from models_src.baselines.word_baseline import WordBaseline
from utils.errors import UserError

FOLDS = 5
LEAST_WORDS = 10
ENDING_NUM = 200
LONGEST_ENDING = 4
PENALTY = 1.0  # C of the regression
TOLERANCE = 0.1  # epsilon of the regression, in units of the rating


@dataclass(frozen=True)
class SupervisedConcreteness(WordBaseline):
    """Predicted concreteness of the rated words of the training captions."""

    kind = "supervised_concreteness"
    utility = "train_concreteness_supervised_model"
    cross_validated: np.ndarray  # (W,) float64, each by a model that did not see the word
    on_training_words: np.ndarray  # (W,) float64, by a model fitted on all of them


def endings(word: str) -> list[str]:
    """Return a word's endings of 1 to 4 letters that are shorter than the word."""
    return [word[-length:] for length in range(1, min(LONGEST_ENDING, len(word) - 1) + 1)]


def frequent_endings(words: Sequence[str]) -> list[str]:
    """Return the ``ENDING_NUM`` endings of the most words, those first; ties by alphabet."""
    counts = Counter(ending for word in words for ending in endings(word))
    return sorted(counts, key=lambda ending: (-counts[ending], ending))[:ENDING_NUM]


class WordFeatures(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no type hints
    """Features (W, F) of words that are told by their indices.

    Each kind of features is divided by one number so that the variances of its columns sum up to 1:
    kinds then weigh alike, whatever their number of columns, and rare endings weigh little. Endings
    and scales are those of the words that it is fitted on.
    """

    def __init__(
        self, words: Sequence[str], given_features: Mapping[str, np.ndarray], use_endings: bool
    ):
        self.words = words
        self.given_features = given_features
        self.use_endings = use_endings

    def fit(self, indices: np.ndarray, ratings: np.ndarray) -> "WordFeatures":
        """Choose the endings, and scale each kind of features."""
        self.endings_ = frequent_endings([self.words[index] for index in indices])
        self.scales_ = [np.sqrt(kind.var(axis=0).sum()) or 1.0 for kind in self._kinds(indices)]
        return self

    def transform(self, indices: np.ndarray) -> np.ndarray:
        """Return the features of some words, (len(indices), F)."""
        kinds = zip(self._kinds(indices), self.scales_, strict=True)
        return np.hstack([kind / scale for kind, scale in kinds])

    def _kinds(self, indices: np.ndarray) -> list[np.ndarray]:
        kinds = [features[indices] for features in self.given_features.values()]
        if self.use_endings:
            counter = CountVectorizer(analyzer=endings, vocabulary=self.endings_)
            kinds.append(counter.transform([self.words[index] for index in indices]).toarray())
        return kinds


def train_supervised_concreteness(
    words: Sequence[str],
    ratings: np.ndarray,
    *,
    given_features: Mapping[str, np.ndarray],
    use_endings: bool,
    seed: int,
    settings: Mapping[str, Any],
) -> SupervisedConcreteness:
    """Predict the concreteness of rated words, by cross-validation and on the training words.

    ``given_features`` are (W, F) by kind, and ``settings`` are recorded with the model.
    """
    if len(words) < LEAST_WORDS:
        raise UserError(
            f"only {len(words)} of the training captions' words have a concreteness rating, and "
            f"{LEAST_WORDS} are the least; check the concreteness file and the captions"
        )
    model = make_pipeline(
        WordFeatures(words, given_features, use_endings),
        SVR(C=PENALTY, epsilon=TOLERANCE, gamma="scale", cache_size=500),
    )
    indices = np.arange(len(words))
    folds = KFold(FOLDS, shuffle=True, random_state=seed)
    return SupervisedConcreteness(
        tuple(words),
        {**settings, "folds": FOLDS, "penalty": PENALTY, "tolerance": TOLERANCE, "seed": seed},
        cross_val_predict(model, indices, ratings, cv=folds),
        model.fit(indices, ratings).predict(indices),
    )
