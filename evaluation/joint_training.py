"""Training of the joint model from the command line: what it writes beside the model."""

import argparse
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from datasets_src.norms import CATEGORY_FILE, load_norms
from evaluation import inputs
from evaluation.acquisition import TABLE, development_values, draw_development, write_development
from evaluation.image_evaluation import VisualModel
from evaluation.joint_evaluation import evaluate_images
from evaluation.reports import HISTORY, draw_learning_curves, flatten, format_value, write_history
from evaluation.tensorboard import event_files
from evaluation.word_evaluation import predict_words, word_metrics
from models_src.development import Moment, Plan
from models_src.distributed import joined_ranks
from models_src.model_files import model_exists
from models_src.settings import SETTINGS, settings_from_sources
from models_src.text_encoders.interface import TextEncoder
from models_src.training import Metrics, RunOptions, require_free_name, train
from models_src.visual_encoders import VisualEncoder
from utils.errors import UserError
from utils.files import require_writable_folder

EPOCH_LINE = {  # name in the log -> metric
    "v_measure": "categorization.known_words.v_measure",
    "adjusted_mutual_info": "categorization.known_words.adjusted_mutual_info",
    "all-words f_score": "categorization.all_words.f_score",
    "concreteness r": "concreteness.pearson_by_min_count.0.r",
    "active clusters": "cluster_counts.active_clusters",
}
FEW_PAIRS = 1000

logger = logging.getLogger(__name__)


def train_joint_model(options: argparse.Namespace) -> None:
    """Train both encoders and write the model, its best epoch, the metrics by epoch and curves.

    With ``--seeds``, one model after another is trained, each under a name that ends in its seed.
    Started by torchrun, several processes train together.
    """
    with joined_ranks(inputs.choose_device(options.device)):
        if options.seeds is None:
            _train_one(options)
            return
        if "seed" in options.given or len(set(options.seeds)) < len(options.seeds):
            raise UserError("--seeds needs each seed once, and no --seed beside it; correct that")
        for seed in options.seeds:
            logger.info("seed %d", seed)
            name = f"{options.model_name}_{seed}"
            own = {"model_name": name, "seed": seed, "given": options.given | {"seed": seed}}
            if _train_one(argparse.Namespace(**vars(options) | own)):
                raise KeyboardInterrupt  # the signal came when this seed had no step left


def _train_one(options: argparse.Namespace) -> bool:
    """Train one model; return whether a signal asked to stop when there was no step left."""
    chosen = {name: value for name, value in options.given.items() if name in SETTINGS}
    settings = settings_from_sources(options.config, chosen)
    if options.evaluate_every is None and {"words", "evaluate_images"} & options.given.keys():
        raise UserError("--words and --evaluate_images need --evaluate_every; give that, too")
    folder = options.results_dir / options.model_name
    for place in (options.models_dir, folder):
        require_writable_folder(place)
    same = ("workers", "resume", "overwrite", "checkpoint_minutes", "compile", "best_by")
    run = RunOptions(
        options.model_name,
        options.models_dir,
        inputs.choose_device(options.device),
        **{name: getattr(options, name) for name in same},
    )
    if model_exists(options.models_dir, options.model_name):
        require_free_name(run)  # before all captions are read
    pairs = inputs.training_pairs(options)
    watched = tuple(dict.fromkeys(word.lower() for word in options.words or ()))
    unknown = sorted(set(watched) - set(pairs.vocabulary.words))
    if unknown:
        raise UserError(
            f"--words {' '.join(unknown)}: in no training caption; leave out what the captions "
            "never say"
        )
    norms = load_norms(options.datasets_dir, options.word_list)
    identity: dict[str, Any] = {
        "norms": norms.fingerprint(),
        "--word_list": inputs.word_list_settings(options).get("word_list_sha256"),
        "--evaluate_every": options.evaluate_every,
        "--evaluate_images": options.evaluate_images,
        "--words": " ".join(watched) or None,
    }
    shown = (  # the model's files have all digits
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in settings.as_dict().items()
    )
    images = len(np.unique(pairs.split.caption_image))
    counts = len(pairs), images, len(pairs.vocabulary.words)
    logger.info("%d pairs of %d images and %d words; settings: %s", *counts, ", ".join(shown))
    if len(pairs) < FEW_PAIRS:
        logger.warning("so few pairs teach little: encoders that start anew need some thousand")
    if options.best_by == "f_score" and norms.categories is None:
        logger.warning("no %s_best is kept: --best_by f_score needs %s", run.name, CATEGORY_FILE)

    def evaluate(text: TextEncoder) -> Metrics:
        predictions = predict_words(text, pairs.vocabulary)
        return flatten(word_metrics(predictions, norms, settings.text_threshold, settings.seed))

    moments: list[Moment] = []  # all rows by step so far, where they are asked for

    def report_moments(found: Sequence[Moment]) -> None:
        moments[:] = found
        write_development(folder / TABLE, moments)

    def report(history: Sequence[Mapping[str, float | None]]) -> None:
        write_history(folder / HISTORY, history)
        draw_learning_curves(folder / "learning_curves.png", history, options.model_name)
        draw_development(folder, moments, options.model_name)
        if not moments:  # what stands there is of an earlier training of this name
            (folder / TABLE).unlink(missing_ok=True)
        values = {name: history[-1].get(key) for name, key in EPOCH_LINE.items()}
        shown = [f"{name} {format_value(x)}" for name, x in values.items() if x is not None]
        logger.info("epoch %d: %s", len(history), ", ".join(shown))

    plan = None
    if options.evaluate_every is not None:
        known = pairs.vocabulary, norms, watched, settings.text_threshold, settings.seed
        plan = Plan(
            options.evaluate_every,
            lambda text: development_values(text, *known),
            report_moments,
        )
        if options.evaluate_images is not None:
            split = inputs.test_split(options)
            split = split.keep(np.arange(len(split.image_ids)) < options.evaluate_images)
            inputs.unmeasured_on_images(split, options.datasets_dir)
            identity["test images"] = split.fingerprint()

            def measure(visual: VisualEncoder, text: TextEncoder) -> Metrics:
                how = settings.image_size, settings.batch_size, options.workers, run.device
                images = VisualModel(visual, settings.visual_threshold, *how)
                model = inputs.Model(images, text, settings.text_threshold, {})
                return flatten(evaluate_images(model, split, settings.seed).metrics)

            plan = replace(plan, evaluate_images=measure)
    run = replace(run, identity=identity)
    with ExitStack() as files:
        if options.tensorboard:
            writer = event_files(folder / "tensorboard", resume=options.resume)
            run = replace(run, watch=files.enter_context(writer))
        stopped = train(settings, pairs, run, evaluate, report, plan)
    logger.info(
        "model '%s' is in %s, its metrics by epoch in %s", run.name, options.models_dir, folder
    )
    return stopped
