"""Single word metrics, and the table of all words, of a joint model or of a baseline.

``--model_type`` chooses what answers for the words; every metric is the one of
``evaluation/word_evaluation.py``.
"""

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.utilities.common import (
    chance_seed,
    choose_device,
    finish,
    require_same_captions,
    training_data,
    training_pairs,
)
from utils.errors import UserError
from utils.files import write_text

if TYPE_CHECKING:
    from datasets_src.norms import Norms
    from datasets_src.pairs import TrainingPairs
    from evaluation.word_evaluation import WordPredictions
    from models_src.text_encoders.interface import TextEncoder

SHOWN_ROWS = 20  # of words on the screen; the file holds all

logger = logging.getLogger(__name__)

Settings = dict[str, Any]  # recorded beside the results


@dataclass(frozen=True)
class _Question:
    """What a source of answers may look at."""

    options: argparse.Namespace
    pairs: "TrainingPairs"
    norms: "Norms"


def categorization_evaluation(options: argparse.Namespace) -> None:
    """Score word clusters against human categories."""
    from evaluation.word_evaluation import categorization_metrics

    question = _question(options, "categorization", _CLUSTER_TYPES)
    predictions, settings = _SOURCES[options.model_type](question)
    seed = chance_seed(options, settings)
    _report(question, categorization_metrics(predictions, question.norms, seed), settings)


def association_evaluation(options: argparse.Namespace) -> None:
    """Score word clusters against human word associations."""
    from evaluation.word_evaluation import association_metrics

    question = _question(options, "word_association", _CLUSTER_TYPES)
    predictions, settings = _SOURCES[options.model_type](question)
    scores = association_metrics(predictions, question.norms)
    _report(question, {"word_association": scores}, settings)


def concreteness_evaluation(options: argparse.Namespace) -> None:
    """Compare predicted concreteness with human ratings."""
    from evaluation.word_evaluation import concreteness_metrics, text_only_concreteness_metrics

    question = _question(options, "concreteness", _CONCRETENESS_TYPES)
    if options.model_type == "supervised_concreteness":
        _report(question, *_supervised_metrics(question))
        return
    predictions, settings = _SOURCES[options.model_type](question)
    answers = predictions.words, predictions.counts, predictions.probabilities
    if options.model_type == "text_only":
        references = settings["reference_words"]
        if references is None:
            raise UserError(
                f"the model '{options.model_name}' was trained without concreteness ratings; train "
                "it again with --overwrite, now that they are there"
            )
        metrics = text_only_concreteness_metrics(*answers, references, question.norms)
    else:
        metrics = {"concreteness": concreteness_metrics(*answers, question.norms)}
    _report(question, metrics, settings)


def word_clusters(options: argparse.Namespace) -> None:
    """Write a CSV with a row for each word of the training captions, the most frequent first."""
    from evaluation.cluster_tables import (
        TOP_CLUSTERS,
        format_word_rows,
        top_clusters,
        word_rows,
        word_rows_as_csv,
    )
    from evaluation.word_evaluation import posterior_rows

    chosen = options.model_type
    question = _question(options, None, _CLUSTER_TYPES)
    norms, vocabulary = question.norms, question.pairs.vocabulary
    for metric, column in (("concreteness", "concreteness_rating"), ("categorization", "category")):
        if metric in norms.absent:
            logger.info("%s: the column %s is empty", norms.absent[metric], column)
    probabilities, concreteness = None, None
    if chosen == "multimodal_clustering":
        text, _ = _joint_text(question)
        posteriors = posterior_rows(text, vocabulary.words)  # (V, C)
        clusters, probabilities = top_clusters(posteriors, TOP_CLUSTERS)
        concreteness = probabilities[:, 0]
    else:
        predictions, _ = _SOURCES[chosen](question)
        clusters = predictions.clusters[:, None]
        if chosen in _CONCRETENESS_TYPES:
            concreteness = predictions.probabilities
    rows = word_rows(
        vocabulary.words,
        vocabulary.counts,
        clusters,
        probabilities,
        concreteness,
        norms.concreteness or {},
        {} if norms.categories is None else norms.categories.by_word(),
    )
    path = options.results_dir / f"word_clusters_{options.model_name}.csv"
    write_text(path, word_rows_as_csv(rows))
    logger.info("%s", format_word_rows(rows[:SHOWN_ROWS]))
    unknown = sum(row["cluster"] is None for row in rows)
    logger.info("%d words, %d of them without a cluster: %s", len(rows), unknown, path)


def _supervised_metrics(question: _Question) -> tuple[dict[str, Any], Settings]:
    """Return the scores of the supervised model's predictions."""
    from evaluation.word_evaluation import concreteness_metrics
    from models_src.baselines.supervised_concreteness import SupervisedConcreteness

    model = SupervisedConcreteness.load(question.options.models_dir, question.options.model_name)
    require_same_captions(question.options, model.settings["data_fingerprint"], question.pairs)
    vocabulary = question.pairs.vocabulary
    count_of = dict(zip(vocabulary.words, vocabulary.counts.tolist(), strict=True))
    counts = np.array([count_of.get(word, 0) for word in model.words], dtype=np.int64)  # (W,)
    seen = counts > 0
    words = [word for word in model.words if word in count_of]
    metrics = {
        name: concreteness_metrics(words, counts[seen], predicted[seen], question.norms)
        for name, predicted in (
            ("concreteness", model.cross_validated),
            ("concreteness_on_training_words", model.on_training_words),
        )
    }
    return metrics, model.settings


def _question(options: argparse.Namespace, metric: str | None, types: Sequence[str]) -> _Question:
    """Check that ``--model_type`` can be asked for a metric, and load what it may look at.

    Args:
        options: The command's.
        metric: What needs norms; None for what does without.
        types: What can be asked.

    Raises:
        UserError: it has no answer for the metric, an option has no effect on it, or the metric's
            norms are absent.
    """
    from datasets_src.norms import load_norms

    chosen = options.model_type
    if chosen not in types:
        raise UserError(
            f"--model_type {chosen} has no answer for {options.utility}; choose from "
            f"{', '.join(types)}"
        )
    if chosen != "multimodal_clustering" and "model_name" in options.given:
        from models_src.model_files import model_exists

        if model_exists(options.models_dir, options.model_name):
            raise UserError(
                f"'{options.model_name}' is a joint model in {options.models_dir}; give the "
                f"results of --model_type {chosen} another --model_name"
            )
    norms = load_norms(options.datasets_dir, options.word_list, log_absent=False)
    if metric in norms.absent:
        raise UserError(f"{norms.absent[metric]}, which {options.utility} needs; put it there")
    return _Question(options, training_pairs(options), norms)


def _report(question: _Question, metrics: dict[str, Any], settings: Settings) -> None:
    """Show and write an evaluation's results."""
    options, pairs = question.options, question.pairs
    has_chance = options.utility != "concreteness_evaluation"
    seed = {"evaluation_seed": chance_seed(options, settings)} if has_chance else {}
    finish(
        options,
        metrics,
        {"model_type": options.model_type, **settings} | seed,
        training_data(pairs, question.norms),
        {},
    )


def _joint_model(question: _Question) -> tuple["WordPredictions", Settings]:
    """Let the text encoder of a joint model answer."""
    from evaluation.word_evaluation import predict_words

    text, recorded = _joint_text(question)
    return predict_words(text, question.pairs.vocabulary), recorded


def _joint_text(question: _Question) -> tuple["TextEncoder", Settings]:
    """Load the text encoder of a joint model."""
    from models_src.model_files import load_text_model

    options = question.options
    device = choose_device(options.device)
    text, settings, origin = load_text_model(options.models_dir, options.model_name, device)
    require_same_captions(options, origin.data_fingerprint, question.pairs)
    return text, {**settings.as_dict(), "origin": vars(origin)}


def _text_only(question: _Question) -> tuple["WordPredictions", Settings]:
    """Let the co-occurrence baseline answer, as it was trained."""
    from evaluation.word_evaluation import NO_CLUSTER, WordPredictions
    from models_src.baselines.text_only import TextOnlyModel

    model = TextOnlyModel.load(question.options.models_dir, question.options.model_name)
    require_same_captions(question.options, model.settings["data_fingerprint"], question.pairs)
    row_of = {word: row for row, word in enumerate(model.words)}
    vocabulary = question.pairs.vocabulary
    rows = np.array([row_of.get(word, -1) for word in vocabulary.words], dtype=np.int64)  # (W,)
    predictions = WordPredictions(
        vocabulary.words,
        vocabulary.counts,
        np.where(rows >= 0, model.clusters[rows], NO_CLUSTER),
        np.where(rows >= 0, model.concreteness[rows], 0.0),
    )
    return predictions, model.settings


def _random(question: _Question) -> tuple["WordPredictions", Settings]:
    """Put every evaluated word into a random cluster."""
    options = question.options
    words = _evaluated_words(question)
    rng = np.random.default_rng(options.seed)
    clusters = rng.integers(options.baseline_cluster_num, size=len(words))  # (W,)
    return _placed(question, words, clusters), {
        "baseline_cluster_num": options.baseline_cluster_num
    }


def _w2v(question: _Question) -> tuple["WordPredictions", Settings]:
    """Cluster word2vec's vectors of the evaluated words that it has."""
    from models_src.baselines.word_vectors import load_word_vectors

    options = question.options
    path = options.w2v_file or options.datasets_dir / "GoogleNews-vectors-negative300.bin"
    evaluated = _evaluated_words(question)
    known, vectors = load_word_vectors(path, evaluated, "--w2v_file")  # (W,), (K, D)
    words = [word for word, is_known in zip(evaluated, known, strict=True) if is_known]
    logger.info("%s has %d of %d evaluated words", path, len(words), len(evaluated))
    return _clustered(question, words, vectors, w2v_file=str(path))


def _bert(question: _Question) -> tuple["WordPredictions", Settings]:
    """Cluster BERT's vectors of the evaluated words."""
    from models_src.baselines.bert import BERT, bert_word_vectors

    folder = BERT.folder(question.options.bert_dir, question.options.datasets_dir)
    return _pretrained(question, bert_word_vectors, "bert_dir", folder)


def _clip(question: _Question) -> tuple["WordPredictions", Settings]:
    """Cluster CLIP's text vectors of the evaluated words."""
    from models_src.baselines.clip import CLIP_TEXT, clip_word_vectors

    folder = CLIP_TEXT.folder(question.options.clip_dir, question.options.datasets_dir)
    return _pretrained(question, clip_word_vectors, "clip_dir", folder)


def _pretrained(
    question: _Question,
    vectors_of: Callable[[Path, Sequence[str], str], np.ndarray],
    option: str,
    folder: Path,
) -> tuple["WordPredictions", Settings]:
    """Cluster the vectors that a model in a folder gives the evaluated words."""
    words = _evaluated_words(question)
    vectors = vectors_of(folder, words, choose_device(question.options.device))  # (W, D)
    return _clustered(question, words, vectors, **{option: str(folder)})


def _clustered(
    question: _Question, words: Sequence[str], vectors: np.ndarray, **source: str
) -> tuple["WordPredictions", Settings]:
    """Cluster the vectors (W, D) of some words by k-means."""
    from models_src.baselines.word_vectors import cluster_vectors

    cluster_num = question.options.baseline_cluster_num
    clusters = cluster_vectors(vectors, cluster_num, question.options.seed)  # (W,)
    return _placed(question, words, clusters), {"baseline_cluster_num": cluster_num, **source}


def _evaluated_words(question: _Question) -> list[str]:
    """Return the words of the category file that occur in the training captions."""
    return question.norms.evaluated_words(question.pairs.vocabulary.words)


def _placed(question: _Question, words: Sequence[str], clusters: np.ndarray) -> "WordPredictions":
    """Return predictions for all training words, of which only some have a cluster."""
    from evaluation.word_evaluation import NO_CLUSTER, WordPredictions

    cluster_of = dict(zip(words, clusters.tolist(), strict=True))
    vocabulary = question.pairs.vocabulary
    placed = np.array([cluster_of.get(word, NO_CLUSTER) for word in vocabulary.words])  # (V,)
    certain = (placed != NO_CLUSTER).astype(np.float64)
    return WordPredictions(vocabulary.words, vocabulary.counts, placed, certain)


# --model_type -> what answers for the words' clusters
_SOURCES: dict[str, Callable[[_Question], tuple["WordPredictions", Settings]]] = {
    "multimodal_clustering": _joint_model,
    "text_only": _text_only,
    "random": _random,
    "w2v": _w2v,
    "bert": _bert,
    "clip": _clip,
}
_CLUSTER_TYPES = tuple(_SOURCES)
_CONCRETENESS_TYPES = ("multimodal_clustering", "text_only", "supervised_concreteness")
