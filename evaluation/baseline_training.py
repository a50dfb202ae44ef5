"""Training of the word baselines, with their scores."""

import argparse
import logging
from dataclasses import replace
from typing import Any

import numpy as np

from datasets_src.norms import load_norms
from datasets_src.wordnet import pos_shares
from evaluation.inputs import training_data, training_pairs
from evaluation.results import save_results
from evaluation.word_evaluation import (
    NO_CLUSTER,
    WordPredictions,
    concreteness_metrics,
    text_only_concreteness_metrics,
    word_metrics,
)
from models_src.baselines.supervised_concreteness import (
    SupervisedConcreteness,
    train_supervised_concreteness,
)
from models_src.baselines.text_only import TextOnlyModel, train_text_only
from models_src.baselines.word_vectors import load_word_vectors
from utils.errors import UserError
from utils.files import require_writable_folder

logger = logging.getLogger(__name__)


def train_text_only_baseline(options: argparse.Namespace) -> None:
    """Cluster words by their co-occurrence within captions, save the model and score it."""
    TextOnlyModel.require_free_name(options.models_dir, options.model_name, options.overwrite)
    require_writable_folder(options.models_dir)
    norms = load_norms(options.datasets_dir, options.word_list)
    if norms.categories is None and norms.concreteness is None:
        raise UserError(
            f"{norms.absent['categorization']} and {norms.absent['concreteness']}, and the "
            "text-only baseline needs at least one; put it there"
        )
    pairs = training_pairs(options)
    model = train_text_only(pairs, norms, options.baseline_cluster_num, options.seed)
    model.save(options.models_dir, options.model_name)
    counts = pairs.vocabulary.counts
    predictions = WordPredictions(model.words, counts, model.clusters, model.concreteness)
    metrics = word_metrics(predictions, norms, text_threshold=0, seed=options.seed)
    del metrics["cluster_counts"]  # there are no probabilities to reach a threshold
    metrics["concreteness_without_reference_words"] = None
    if norms.concreteness is not None:
        references = model.settings["reference_words"]
        metrics |= text_only_concreteness_metrics(predictions, references, norms)
    save_results(options, metrics, model.settings, training_data(pairs, norms), norms.absent)
    logger.info("model: %s", options.models_dir / model.kind)


def train_concreteness_supervised_model(options: argparse.Namespace) -> None:
    """Learn concreteness from features of words, save the predictions and score them."""
    kinds = ("conc_use_pos", "conc_use_suffix", "conc_use_embeddings")
    chosen = {kind: getattr(options, kind) for kind in kinds}
    if not any(chosen.values()):
        raise UserError(
            "there is no feature to predict concreteness from; give one or more of "
            f"{', '.join('--' + kind for kind in kinds)}"
        )
    name = options.model_name
    SupervisedConcreteness.require_free_name(options.models_dir, name, options.overwrite)
    require_writable_folder(options.models_dir)
    norms = load_norms(options.datasets_dir, log_absent=False)
    if norms.concreteness is None:
        raise UserError(
            f"{norms.absent['concreteness']}, whose ratings this model learns; put it there"
        )
    pairs = training_pairs(options)
    vocabulary = pairs.vocabulary
    rated = [row for row, word in enumerate(vocabulary.words) if word in norms.concreteness]
    words = [vocabulary.words[row] for row in rated]

    features: dict[str, np.ndarray] = {}
    settings: dict[str, Any] = dict(chosen)
    if options.conc_use_pos:
        features["pos"] = pos_shares(options.wordnet_dir, words)  # (W, 4)
        settings["words_in_wordnet"] = int(features["pos"].any(axis=1).sum())
        logger.info("%d of %d words in WordNet", settings["words_in_wordnet"], len(words))
    if options.conc_use_embeddings:
        path = options.embeddings_file or options.datasets_dir / "wiki-news-300d-1M.vec"
        known, vectors = load_word_vectors(path, words, "--embeddings_file")
        features["embeddings"] = np.zeros((len(words), vectors.shape[1]))  # (W, D)
        features["embeddings"][known] = vectors
        settings |= {"embeddings_file": str(path), "words_with_vector": int(known.sum())}
        logger.info("%d of %d words with vector", settings["words_with_vector"], len(words))

    model = train_supervised_concreteness(
        words,
        np.array([norms.concreteness[word] for word in words]),
        given_features=features,
        use_endings=options.conc_use_suffix,
        seed=options.seed,
        settings=settings | {"data_fingerprint": pairs.fingerprint()},
    )
    model.save(options.models_dir, options.model_name)
    nowhere = np.full(len(words), NO_CLUSTER)
    found = WordPredictions(tuple(words), vocabulary.counts[rated], nowhere, model.cross_validated)
    seen = replace(found, probabilities=model.on_training_words)
    metrics = {
        "concreteness": concreteness_metrics(found, norms),
        "concreteness_on_training_words": concreteness_metrics(seen, norms),
    }
    save_results(options, metrics, model.settings, training_data(pairs, norms), {})
    logger.info(
        "concreteness is cross-validated; the published figure is that on training words, which "
        "the model has seen"
    )
    logger.info("model: %s", options.models_dir / model.kind)
