"""Single word metrics, and the table of all words, of a joint model or of a baseline.

``--model_type`` chooses what answers for the words; every metric is the one of
``word_evaluation.py``.
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from datasets_src.norms import Norms, load_norms
from evaluation import inputs
from evaluation.cluster_tables import TOP_CLUSTERS, top_clusters, word_rows, word_rows_as_csv
from evaluation.reports import format_rows
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
from models_src.baselines.bert_and_clip import BERT, CLIP, bert_word_vectors, clip_word_vectors
from models_src.baselines.supervised_concreteness import SupervisedConcreteness
from models_src.baselines.text_only import TextOnlyModel
from models_src.baselines.word_vectors import cluster_vectors, load_word_vectors
from models_src.model_files import model_exists
from models_src.model_types import JOINT, MODEL_TYPES, SUPERVISED, TEXT_ONLY
from utils.errors import UserError
from utils.files import write_text

SHOWN_ROWS = 20  # of the table of words, in the terminal

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WordAnswers:
    """What a model of any type says of the words of the training captions, and what it is."""

    norms: Norms
    data: dict[str, Any]
    settings: dict[str, Any]  # for results
    # of the supervised model without clusters, and NaN for the words that it does not know
    predictions: WordPredictions
    model: Any = None  # of a type with model files: what they hold


def categorization_evaluation(options: argparse.Namespace) -> None:
    """Score word clusters against human categories."""
    answers = _ask(options, "clusters", "categorization")
    seed = inputs.chance_seed(options, answers.settings)
    metrics = categorization_metrics(answers.predictions, answers.norms, seed)
    save_results(options, metrics, answers.settings | {"evaluation_seed": seed}, answers.data)


def association_evaluation(options: argparse.Namespace) -> None:
    """Score word clusters against human word associations."""
    answers = _ask(options, "clusters", "word_association")
    metrics = {"word_association": association_metrics(answers.predictions, answers.norms)}
    seed = {"evaluation_seed": inputs.chance_seed(options, answers.settings)}
    save_results(options, metrics, answers.settings | seed, answers.data)


def concreteness_evaluation(options: argparse.Namespace) -> None:
    """Compare predicted concreteness with human ratings."""
    answers = _ask(options, "concreteness", "concreteness")
    found, norms, model = answers.predictions, answers.norms, answers.model
    metrics = {"concreteness": concreteness_metrics(found, norms)}
    if options.model_type == SUPERVISED:
        seen = _for_words(found.words, model.words, model.on_training_words, np.nan)
        of_seen = concreteness_metrics(replace(found, probabilities=seen), norms)
        metrics["concreteness_on_training_words"] = of_seen
    elif options.model_type == TEXT_ONLY:
        references = answers.settings["reference_words"]
        if references is None:
            raise UserError(
                f"the model '{options.model_name}' was trained without concreteness ratings; train "
                "it again with --overwrite, now that they are there"
            )
        metrics = text_only_concreteness_metrics(found, references, norms)
    save_results(options, metrics, answers.settings, answers.data)


def word_clusters(options: argparse.Namespace) -> None:
    """Write a CSV with a row for each word of the training captions, the most frequent first."""
    answers = _ask(options, "clusters")
    norms, found = answers.norms, answers.predictions
    for metric, column in (("concreteness", "concreteness_rating"), ("categorization", "category")):
        if metric in norms.absent:
            logger.info("%s: the column %s is empty", norms.absent[metric], column)
    clusters, probabilities, concreteness = found.clusters[:, None], None, None
    if options.model_type == JOINT:
        posteriors = posterior_rows(answers.model, found.words)  # (V, C)
        clusters, probabilities = top_clusters(posteriors, TOP_CLUSTERS)
    if MODEL_TYPES[options.model_type].concreteness:
        concreteness = found.probabilities
    rows = word_rows(found.words, found.counts, clusters, probabilities, concreteness, norms)
    path = options.results_dir / f"word_clusters_{options.model_name}.csv"
    write_text(path, word_rows_as_csv(rows))
    shown = ("word", "count", "cluster", "probability", "concreteness_rating", "category")
    logger.info(
        "%s", format_rows([{name: row[name] for name in shown} for row in rows[:SHOWN_ROWS]])
    )
    unknown = sum(row["cluster"] is None for row in rows)
    logger.info("%d words, %d of them without a cluster: %s", len(rows), unknown, path)


def _ask(options: argparse.Namespace, question: str, norm: str | None = None) -> WordAnswers:
    """Load the model of ``--model_type`` and let it answer for all training words.

    The type must tell what is asked for, ``clusters`` or ``concreteness``, and the norm be there.
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
        encoder, settings = inputs.load_text_half(options)
        vocabulary, data = inputs.training_vocabulary(options, settings, norms)
        predictions = predict_words(encoder, vocabulary)
        return WordAnswers(norms, data, {"model_type": chosen, **settings}, predictions, encoder)
    pairs = inputs.training_pairs(options)
    occurring = pairs.vocabulary.words
    model: Any = None
    unknown = np.nan if chosen == SUPERVISED else 0.0  # concreteness of words it does not know
    if MODEL_TYPES[chosen].trained:
        model = {TEXT_ONLY: TextOnlyModel, SUPERVISED: SupervisedConcreteness}[chosen].load(
            options.models_dir, name
        )
        inputs.warn_of_other_captions(options, model.settings["data_fingerprint"], pairs)
        words, settings = model.words, model.settings
    if chosen == TEXT_ONLY:
        clusters, certainty = model.clusters, model.concreteness
    elif chosen == SUPERVISED:
        clusters, certainty = np.full(len(words), NO_CLUSTER), model.cross_validated
    else:
        words, clusters, source = _baseline_clusters(options, norms.evaluated_words(occurring))
        settings = {"baseline_cluster_num": options.baseline_cluster_num, **source}
        certainty = np.ones(len(words))
    predictions = WordPredictions(
        occurring,
        pairs.vocabulary.counts,
        _for_words(occurring, words, clusters, NO_CLUSTER),
        _for_words(occurring, words, certainty, unknown),
    )
    settings = {"model_type": chosen, **settings}
    return WordAnswers(norms, inputs.training_data(pairs, norms), settings, predictions, model)


def _for_words(
    asked: Sequence[str], words: Sequence[str], values: np.ndarray, missing: float
) -> np.ndarray:
    """Return the values (W,) of words for those asked (V,), ``missing`` for other words."""
    value_of = pd.Series(values, list(words))
    return np.asarray(value_of.reindex(list(asked), fill_value=missing))


def _baseline_clusters(
    options: argparse.Namespace, words: Sequence[str]
) -> tuple[Sequence[str], np.ndarray, dict[str, str]]:
    """Cluster words with a baseline that has no model files.

    Returns the words it knows, their clusters (W,), and the settings.
    """
    kind, cluster_num = options.model_type, options.baseline_cluster_num
    if kind == "random":
        rng = np.random.default_rng(options.seed)
        return words, rng.integers(cluster_num, size=len(words)), {}
    if kind == "w2v":
        path = options.w2v_file or options.datasets_dir / "GoogleNews-vectors-negative300.bin"
        known, vectors = load_word_vectors(path, words, "--w2v_file")  # (W,), (K, D)
        logger.info("%s has %d of %d evaluated words", path, len(vectors), len(words))
        words, source = [w for w, k in zip(words, known, strict=True) if k], {"w2v_file": str(path)}
    else:
        device = inputs.choose_device(options.device)
        package, embed, given = {
            "bert": (BERT, bert_word_vectors, options.bert_dir),
            "clip": (CLIP, clip_word_vectors, options.clip_dir),
        }[kind]
        folder = package.folder(given, options.datasets_dir)
        vectors, source = embed(folder, words, device), {f"{kind}_dir": str(folder)}  # (W, D)
    return words, cluster_vectors(vectors, cluster_num, options.seed), source
