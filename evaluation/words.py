"""Single word metrics, and the table of all words, of a joint model or of a baseline.

``--model_type`` chooses what answers for the words; every metric is the one of
``word_evaluation.py``.
"""

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from datasets_src.captions import Vocabulary
from datasets_src.norms import Norms, load_norms
from evaluation.cluster_tables import (
    TOP_CLUSTERS,
    format_word_rows,
    top_clusters,
    word_rows,
    word_rows_as_csv,
)
from evaluation.inputs import (
    TextModel,
    chance_seed,
    choose_device,
    load_text_half,
    training_data,
    training_pairs,
    training_vocabulary,
    warn_of_other_captions,
)
from evaluation.results import save_results
from evaluation.word_evaluation import (
    NO_CLUSTER,
    WordPredictions,
    association_metrics,
    categorization_metrics,
    concreteness_metrics,
    posterior_rows,
    predict_words,
    text_only_concreteness_metrics,
)
from models_src.baselines.bert_and_clip import (
    BERT,
    CLIP,
    bert_word_vectors,
    clip_word_vectors,
)
from models_src.baselines.supervised_concreteness import SupervisedConcreteness
from models_src.baselines.text_only import TextOnlyModel
from models_src.baselines.word_vectors import cluster_vectors, load_word_vectors
from models_src.model_files import model_exists
from models_src.model_types import JOINT, MODEL_TYPES, SUPERVISED, TEXT_ONLY
from utils.errors import UserError
from utils.files import write_text

SHOWN_ROWS = 20  # of words on the screen; the file holds all

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answers:
    """What a model of any type says of words, and what it is."""

    vocabulary: Vocabulary  # of the training captions
    norms: Norms
    data: dict[str, Any]
    settings: dict[str, Any]
    predictions: WordPredictions | None = None  # None of a model without clusters
    model: Any = None  # of a type with model files: what they hold


def categorization_evaluation(options: argparse.Namespace) -> None:
    """Score word clusters against human categories."""
    answers = _ask(options, "clusters", "categorization")
    assert answers.predictions is not None
    seed = chance_seed(options, answers.settings)
    metrics = categorization_metrics(answers.predictions, answers.norms, seed)
    _save(options, answers, metrics, evaluation_seed=seed)


def association_evaluation(options: argparse.Namespace) -> None:
    """Score word clusters against human word associations."""
    answers = _ask(options, "clusters", "word_association")
    assert answers.predictions is not None
    metrics = {"word_association": association_metrics(answers.predictions, answers.norms)}
    _save(options, answers, metrics, evaluation_seed=chance_seed(options, answers.settings))


def concreteness_evaluation(options: argparse.Namespace) -> None:
    """Compare predicted concreteness with human ratings."""
    answers = _ask(options, "concreteness", "concreteness")
    found, norms = answers.predictions, answers.norms
    if found is None:  # supervised: its words need not be those of the captions
        vocabulary, model = answers.vocabulary, answers.model
        count_of = dict(zip(vocabulary.words, vocabulary.counts.tolist(), strict=True))
        counts = np.array([count_of.get(word, 0) for word in model.words], dtype=np.int64)  # (W,)
        words = [word for word in model.words if word in count_of]
        metrics = {
            name: concreteness_metrics(words, counts[counts > 0], predicted[counts > 0], norms)
            for name, predicted in (
                ("concreteness", model.cross_validated),
                ("concreteness_on_training_words", model.on_training_words),
            )
        }
    elif options.model_type == TEXT_ONLY:
        references = answers.settings["reference_words"]
        if references is None:
            raise UserError(
                f"the model '{options.model_name}' was trained without concreteness ratings; train "
                "it again with --overwrite, now that they are there"
            )
        metrics = text_only_concreteness_metrics(
            found.words, found.counts, found.probabilities, references, norms
        )
    else:
        scores = concreteness_metrics(found.words, found.counts, found.probabilities, norms)
        metrics = {"concreteness": scores}
    _save(options, answers, metrics)


def _save(
    options: argparse.Namespace, answers: Answers, metrics: dict[str, Any], **seed: int
) -> None:
    settings = {"model_type": options.model_type, **answers.settings, **seed}
    save_results(options, metrics, settings, answers.data)


def word_clusters(options: argparse.Namespace) -> None:
    """Write a CSV with a row for each word of the training captions, the most frequent first."""
    answers = _ask(options, "clusters")
    norms, vocabulary, found = answers.norms, answers.vocabulary, answers.predictions
    assert found is not None
    for metric, column in (("concreteness", "concreteness_rating"), ("categorization", "category")):
        if metric in norms.absent:
            logger.info("%s: the column %s is empty", norms.absent[metric], column)
    clusters, probabilities, concreteness = found.clusters[:, None], None, None
    if isinstance(answers.model, TextModel):
        posteriors = posterior_rows(answers.model.encoder, vocabulary.words)  # (V, C)
        clusters, probabilities = top_clusters(posteriors, TOP_CLUSTERS)
        concreteness = probabilities[:, 0]
    elif MODEL_TYPES[options.model_type].concreteness:
        concreteness = found.probabilities
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


def _ask(options: argparse.Namespace, question: str, norm: str | None = None) -> Answers:
    """Load the model of ``--model_type`` and let it answer for all training words.

    Args:
        options: The command's.
        question: What the type must tell: clusters or concreteness.
        norm: What must be there.
    """
    chosen, name = options.model_type, options.model_name
    able = [kind for kind, about in MODEL_TYPES.items() if getattr(about, question)]
    if chosen not in able:
        raise UserError(
            f"--model_type {chosen} has no answer for {options.utility}; choose from "
            f"{', '.join(able)}"
        )
    if chosen != JOINT and "model_name" in options.given and model_exists(options.models_dir, name):
        raise UserError(
            f"'{name}' is a joint model in {options.models_dir}; give the results of --model_type "
            f"{chosen} another --model_name"
        )
    norms = load_norms(options.datasets_dir, options.word_list, log_absent=False)
    if norm in norms.absent:
        raise UserError(f"{norms.absent[norm]}, which {options.utility} needs; put it there")
    if chosen == JOINT:
        joint = load_text_half(options)
        settings = joint.recorded_settings
        vocabulary, data = training_vocabulary(options, settings, norms)
        predictions = predict_words(joint.encoder, vocabulary)
        return Answers(vocabulary, norms, data, settings, predictions, joint)
    pairs = training_pairs(options)
    vocabulary = pairs.vocabulary
    answers = Answers(vocabulary, norms, training_data(pairs, norms), {})
    if MODEL_TYPES[chosen].trained:
        kind: Any = TextOnlyModel if chosen == TEXT_ONLY else SupervisedConcreteness
        model = kind.load(options.models_dir, name)
        warn_of_other_captions(options, model.settings["data_fingerprint"], pairs)
        answers = replace(answers, settings=model.settings, model=model)
        if chosen == SUPERVISED:
            return answers
        words, clusters, certainty = model.words, model.clusters, model.concreteness
        settings = model.settings
    else:
        words = norms.evaluated_words(vocabulary.words)
        words, clusters, settings = _VECTORS[chosen](options, words)
        settings = {"baseline_cluster_num": options.baseline_cluster_num, **settings}
        certainty = np.ones(len(words))
    row_of = {word: row for row, word in enumerate(words)}
    rows = np.array([row_of.get(word, -1) for word in vocabulary.words], dtype=np.int64)  # (V,)
    predictions = WordPredictions(
        vocabulary.words,
        vocabulary.counts,
        np.append(clusters, NO_CLUSTER)[rows],
        np.append(certainty, 0.0)[rows],
    )
    return replace(answers, settings=settings, predictions=predictions)


# ---- baselines without model files: the words they know, their clusters (W,), and settings

Clustered = tuple[Sequence[str], np.ndarray, dict[str, Any]]


def _random(options: argparse.Namespace, words: list[str]) -> Clustered:
    rng = np.random.default_rng(options.seed)
    return words, rng.integers(options.baseline_cluster_num, size=len(words)), {}


def _w2v(options: argparse.Namespace, words: list[str]) -> Clustered:
    path = options.w2v_file or options.datasets_dir / "GoogleNews-vectors-negative300.bin"
    known, vectors = load_word_vectors(path, words, "--w2v_file")  # (W,), (K, D)
    there = [word for word, is_known in zip(words, known, strict=True) if is_known]
    logger.info("%s has %d of %d evaluated words", path, len(there), len(words))
    return _clustered(options, there, vectors, w2v_file=str(path))


def _bert(options: argparse.Namespace, words: list[str]) -> Clustered:
    folder = BERT.folder(options.bert_dir, options.datasets_dir)
    vectors = bert_word_vectors(folder, words, choose_device(options.device))  # (W, D)
    return _clustered(options, words, vectors, bert_dir=str(folder))


def _clip(options: argparse.Namespace, words: list[str]) -> Clustered:
    folder = CLIP.folder(options.clip_dir, options.datasets_dir)
    vectors = clip_word_vectors(folder, words, choose_device(options.device))  # (W, D)
    return _clustered(options, words, vectors, clip_dir=str(folder))


def _clustered(
    options: argparse.Namespace, words: Sequence[str], vectors: np.ndarray, **source: str
) -> Clustered:
    clusters = cluster_vectors(vectors, options.baseline_cluster_num, options.seed)
    return words, clusters, dict(source)


_VECTORS: dict[str, Callable[[argparse.Namespace, list[str]], Clustered]] = {
    "random": _random,
    "w2v": _w2v,
    "bert": _bert,
    "clip": _clip,
}
