"""Training of the word baselines, with their scores."""

import argparse
import logging
from typing import TYPE_CHECKING, Any

from evaluation.utilities.common import finish, training_data, training_pairs
from utils.errors import UserError
from utils.files import require_writable_folder

if TYPE_CHECKING:
    import numpy as np

    from datasets_src.norms import Norms
    from datasets_src.pairs import TrainingPairs
    from models_src.baselines.text_only import TextOnlyModel

logger = logging.getLogger(__name__)


def train_text_only_baseline(options: argparse.Namespace) -> None:
    """Cluster words by their co-occurrence within captions, save the model and score it."""
    from datasets_src.norms import load_norms
    from models_src.baselines import text_only
    from models_src.baselines.files import require_free_name

    require_free_name(options.models_dir, text_only.KIND, options.model_name, options.overwrite)
    require_writable_folder(options.models_dir)
    norms = load_norms(options.datasets_dir, options.word_list)
    text_only.require_norms(norms)
    pairs = training_pairs(options)
    model = text_only.train_text_only(pairs, norms, options.baseline_cluster_num, options.seed)
    text_only.save_text_only_model(options.models_dir, options.model_name, model)
    metrics = _text_only_metrics(model, pairs, norms, options.seed)
    finish(options, metrics, model.settings, training_data(pairs, norms), norms.absent)
    logger.info("model: %s", options.models_dir / text_only.KIND)


def _text_only_metrics(
    model: "TextOnlyModel", pairs: "TrainingPairs", norms: "Norms", seed: int
) -> dict[str, Any]:
    """Score the baseline's answers; None where a norm is absent."""
    from evaluation.word_evaluation import (
        WordPredictions,
        text_only_concreteness_metrics,
        word_metrics,
    )

    counts = pairs.vocabulary.counts
    predictions = WordPredictions(model.words, counts, model.clusters, model.concreteness)
    metrics = word_metrics(predictions, norms, text_threshold=0, seed=seed)
    del metrics["cluster_counts"]  # there are no probabilities to reach a threshold
    metrics["concreteness_without_reference_words"] = None
    if norms.concreteness is not None:
        metrics |= text_only_concreteness_metrics(
            model.words, counts, model.concreteness, model.settings["reference_words"], norms
        )
    return metrics


def train_concreteness_supervised_model(options: argparse.Namespace) -> None:
    """Learn concreteness from features of words, save the predictions and score them."""
    import numpy as np

    from datasets_src.norms import load_norms
    from evaluation.word_evaluation import concreteness_metrics
    from models_src.baselines import supervised_concreteness as supervised
    from models_src.baselines.files import require_free_name

    _require_features(options)
    require_free_name(options.models_dir, supervised.KIND, options.model_name, options.overwrite)
    require_writable_folder(options.models_dir)
    norms = load_norms(options.datasets_dir, log_absent=False)
    if norms.concreteness is None:
        raise UserError(
            f"{norms.absent['concreteness']}, whose ratings this model learns; put it there"
        )
    pairs = training_pairs(options)
    rated = [
        position
        for position, word in enumerate(pairs.vocabulary.words)
        if word in norms.concreteness
    ]
    words = [pairs.vocabulary.words[position] for position in rated]
    features, settings = _given_features(options, words)
    model = supervised.train_supervised_concreteness(
        words,
        np.array([norms.concreteness[word] for word in words]),
        given_features=features,
        use_endings=options.conc_use_suffix,
        seed=options.seed,
        settings=settings | {"data_fingerprint": pairs.fingerprint()},
    )
    supervised.save_supervised_concreteness(options.models_dir, options.model_name, model)
    counts = pairs.vocabulary.counts[rated]  # (W,)
    metrics = {
        "concreteness": concreteness_metrics(words, counts, model.cross_validated, norms),
        "concreteness_on_training_words": concreteness_metrics(
            words, counts, model.on_training_words, norms
        ),
    }
    finish(options, metrics, model.settings, training_data(pairs, norms), {})
    logger.info(
        "concreteness is cross-validated; the published figure is that on training words, which "
        "the model has seen"
    )
    logger.info("model: %s", options.models_dir / supervised.KIND)


def _require_features(options: argparse.Namespace) -> None:
    """Raise a UserError unless features are chosen and each file given is one of a feature."""
    kinds = ("conc_use_pos", "conc_use_suffix", "conc_use_embeddings")
    if not any(getattr(options, kind) for kind in kinds):
        raise UserError(
            "there is no feature to predict concreteness from; give one or more of "
            f"{', '.join('--' + kind for kind in kinds)}"
        )
    for place, kind in (
        ("wordnet_dir", "conc_use_pos"),
        ("embeddings_file", "conc_use_embeddings"),
    ):
        if place in options.given and not getattr(options, kind):
            raise UserError(f"--{place} has no effect without --{kind}; add that or leave it out")


def _given_features(
    options: argparse.Namespace, words: list[str]
) -> tuple[dict[str, "np.ndarray"], dict[str, Any]]:
    """Read the chosen features (W, F) of some words, and say what they are."""
    import numpy as np

    features: dict[str, np.ndarray] = {}
    settings: dict[str, Any] = {
        "conc_use_pos": options.conc_use_pos,
        "conc_use_suffix": options.conc_use_suffix,
        "conc_use_embeddings": options.conc_use_embeddings,
    }
    if options.conc_use_pos:
        from datasets_src.wordnet import PARTS_OF_SPEECH, load_wordnet

        wordnet = load_wordnet(options.wordnet_dir)
        shares = np.array([wordnet.pos_shares(word) for word in words])
        features["pos"] = shares.reshape(-1, len(PARTS_OF_SPEECH))  # (W, 4)
        settings["words_in_wordnet"] = int(features["pos"].any(axis=1).sum())
    if options.conc_use_embeddings:
        from models_src.baselines.word_vectors import load_word_vectors

        path = options.embeddings_file or options.datasets_dir / "wiki-news-300d-1M.vec"
        known, vectors = load_word_vectors(path, words, "--embeddings_file")
        features["embeddings"] = np.zeros((len(words), vectors.shape[1]))  # (W, D)
        features["embeddings"][known] = vectors
        settings |= {"embeddings_file": str(path), "words_with_vector": int(known.sum())}
    for name in ("words_in_wordnet", "words_with_vector"):
        if name in settings:
            logger.info("%d of %d %s", settings[name], len(words), name.replace("_", " "))
    return features, settings
