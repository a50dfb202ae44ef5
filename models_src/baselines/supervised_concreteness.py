"""Concreteness predicted from features of words by support vector regression.

A model is trained on human ratings, with any of three kinds of features: the parts of speech that
WordNet gives a word, its endings, and its fastText vector. Nothing is learned from captions or
images; the training captions only say which words count.

Axes: W words, E endings, D values of a word vector, F features.

Source: Charbonnier and Wartena 2019, "Predicting word concreteness and imagery".
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models_src.baselines.files import load_baseline, save_baseline
from models_src.model_files import SUPERVISED_CONCRETENESS
from utils.errors import UserError

logger = logging.getLogger(__name__)

KIND = SUPERVISED_CONCRETENESS
FOLDS = 5
LEAST_WORDS = 10
ENDING_NUM = 200
LONGEST_ENDING = 4
PENALTY = 1.0  # C of the regression
TOLERANCE = 0.1  # epsilon of the regression, in units of the rating


@dataclass(frozen=True)
class SupervisedConcreteness:
    """Predicted concreteness of the rated words of the training captions."""

    words: tuple[str, ...]
    cross_validated: np.ndarray  # (W,) float64, each by a model that did not see the word
    on_training_words: np.ndarray  # (W,) float64, by a model fitted on all of them
    settings: dict[str, Any]


def frequent_endings(words: Sequence[str]) -> tuple[str, ...]:
    """Return the ``ENDING_NUM`` most frequent endings of 1 to 4 letters, the most frequent first.

    Each word counts once for each of its endings that is shorter than the word. Ties go by the
    alphabet. There are fewer where the words have fewer endings.
    """
    counts = Counter(ending for word in words for ending in _endings(word))
    return tuple(sorted(counts, key=lambda ending: (-counts[ending], ending))[:ENDING_NUM])


def ending_indicators(words: Sequence[str], endings: Sequence[str]) -> np.ndarray:
    """Return (W, E) float64: 1 where a word has an ending, else 0.

    A word may have several endings, since "ing" is one of "ng" too.
    """
    column = {ending: position for position, ending in enumerate(endings)}
    indicators = np.zeros((len(words), len(endings)))
    for row, word in enumerate(words):
        columns = [column[ending] for ending in _endings(word) if ending in column]
        indicators[row, columns] = 1.0
    return indicators


def _endings(word: str) -> list[str]:
    """Return a word's endings of 1 to 4 letters that are shorter than the word."""
    return [word[-length:] for length in range(1, min(LONGEST_ENDING, len(word) - 1) + 1)]


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

    The regression has a radial basis function kernel. Each kind of features is divided by one
    number so that the variances of its columns sum up to 1: kinds then weigh alike, whatever their
    number of columns, and rare endings weigh little. (Giving each column the variance 1 instead
    would make two words with different rare endings unlike in everything.) Endings and scales are
    those of the words that a model is fitted on.

    Args:
        words: W rated words.
        ratings: (W,) human concreteness.
        given_features: Kind -> (W, F) features of the words.
        use_endings: Whether the words' endings are features too.
        seed: Of the assignment of words to ``FOLDS`` folds.
        settings: Plain values to record with the model.

    Raises:
        UserError: there are fewer than ``LEAST_WORDS`` words.
        ValueError: there is no feature, or the arrays differ in length.
    """
    if len(words) < LEAST_WORDS:
        raise UserError(
            f"only {len(words)} of the training captions' words have a concreteness rating, and "
            f"{LEAST_WORDS} are the least; check the concreteness file and the captions"
        )
    if not given_features and not use_endings:
        raise ValueError("no features to predict from")
    if any(len(array) != len(words) for array in (ratings, *given_features.values())):
        raise ValueError(f"ratings or features are not those of {len(words)} words")

    from sklearn.model_selection import KFold

    words = tuple(words)
    folds = KFold(FOLDS, shuffle=True, random_state=seed)
    cross_validated = np.empty(len(words))
    for fold, (fitted, held_out) in enumerate(folds.split(words), start=1):
        # thousands of words with long vectors take minutes
        logger.info("fold %d of %d: learning from %d words", fold, FOLDS, len(fitted))
        cross_validated[held_out] = _predict(
            words, ratings, given_features, use_endings, fitted, held_out
        )
    everything = np.arange(len(words))
    on_training_words = _predict(
        words, ratings, given_features, use_endings, everything, everything
    )
    recorded = {
        **settings,
        "folds": FOLDS,
        "penalty": PENALTY,
        "tolerance": TOLERANCE,
        "seed": seed,
    }
    return SupervisedConcreteness(words, cross_validated, on_training_words, recorded)


def _predict(
    words: Sequence[str],
    ratings: np.ndarray,
    given_features: Mapping[str, np.ndarray],
    use_endings: bool,
    fitted: np.ndarray,
    asked: np.ndarray,
) -> np.ndarray:
    """Fit the regression on the words of some indices and predict those of others, (asked,)."""
    from sklearn.svm import SVR

    kinds = [(features[fitted], features[asked]) for features in given_features.values()]
    if use_endings:
        fitted_words, asked_words = ([words[word] for word in part] for part in (fitted, asked))
        endings = frequent_endings(fitted_words)
        kinds.append(
            (ending_indicators(fitted_words, endings), ending_indicators(asked_words, endings))
        )
    scales = [_scale(seen) for seen, _ in kinds]
    seen = np.hstack([seen / scale for (seen, _), scale in zip(kinds, scales, strict=True)])
    new = np.hstack([new / scale for (_, new), scale in zip(kinds, scales, strict=True)])
    regression = SVR(C=PENALTY, epsilon=TOLERANCE, gamma="scale", cache_size=500)
    predicted: np.ndarray = regression.fit(seen, ratings[fitted]).predict(new)
    return predicted


def _scale(features: np.ndarray) -> float:
    """Return the root of the summed variances of (W, F) columns; 1 where nothing varies."""
    return float(np.sqrt(features.var(axis=0).sum())) or 1.0


def save_supervised_concreteness(
    models_dir: Path, name: str, model: SupervisedConcreteness
) -> None:
    """Write the predictions, replacing those of the same name."""
    arrays = {
        "cross_validated": model.cross_validated,
        "on_training_words": model.on_training_words,
    }
    save_baseline(models_dir, KIND, name, model.words, arrays, model.settings)


def load_supervised_concreteness(models_dir: Path, name: str) -> SupervisedConcreteness:
    """Read the predictions.

    Raises:
        UserError: there are none of this name, or a file is malformed.
    """
    utility = "train_concreteness_supervised_model"
    words, (cross_validated, on_training_words), settings = load_baseline(
        models_dir, KIND, name, utility, ("cross_validated", "on_training_words")
    )
    return SupervisedConcreteness(words, cross_validated, on_training_words, settings)
