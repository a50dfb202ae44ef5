"""What a command reads: the data and the model that its options name.

The data section of results holds fingerprints, by which results of other data are told apart.
"""

import argparse
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import torch

from datasets_src.captions import Vocabulary
from datasets_src.filtering import load_filtered_split
from datasets_src.image_cache import ImageCache
from datasets_src.norms import Norms
from datasets_src.pairs import TrainingPairs, load_training_pairs
from datasets_src.splits import SPLITS, Split
from evaluation.image_evaluation import VisualModel
from evaluation.metrics_table import INSTANCE_SECTIONS
from models_src.model_files import (
    Origin,
    load_text_model,
    load_visual_model,
    load_vocabulary,
    require_same_origin,
)
from models_src.text_encoders.interface import TextEncoder
from utils.errors import UserError
from utils.files import sha256_of_file
from utils.processes import local_rank, process_count, spare_workers

logger = logging.getLogger(__name__)


def choose_device(name: str) -> str:
    """Return the device to run on; each process of a machine takes a GPU of its own."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and process_count() > 1:
        name = f"cuda:{local_rank()}"
    with suppress(RuntimeError, AssertionError):
        if torch.zeros(1, device=name).device.type in ("cpu", "cuda"):
            return name
    raise UserError(f"--device {name} is not usable here; give cpu or auto")


# ---- data


def _source(options: argparse.Namespace) -> dict[str, Any]:
    names = ("datasets_dir", "use_all_images", "dataset", "cache_dir")
    return {name: getattr(options, name) for name in names}


def training_pairs(options: argparse.Namespace) -> TrainingPairs:
    """Load the pairs of the training split."""
    pairs = load_training_pairs(**_source(options))
    return replace(pairs, split=_with_cache(pairs.split, options))


def training_split(options: argparse.Namespace, name: str = SPLITS[0]) -> Split:
    """Load a split, with its instances if any."""
    split = load_filtered_split(part=name, with_instances=True, **_source(options))
    return _with_cache(split, options)


def test_split(options: argparse.Namespace) -> Split:
    """Load the test split, with its instances if any."""
    split = training_split(options, SPLITS[1])
    if not len(split.image_ids):
        raise UserError(
            f"no test image of {split.name}; check {' and '.join(map(str, split.caption_files))} "
            "and the filter"
        )
    return split


def _with_cache(split: Split, options: argparse.Namespace) -> Split:
    folder = options.image_cache
    cache = None if folder is None else ImageCache(folder, f"{options.dataset}_{split.name}")
    return replace(split, cache=cache)


def single_word_classes(split: Split) -> list[str]:
    """Return the names of a split's single-word classes; none without instances."""
    if split.instances is None:
        return []
    return list(compress(split.instances.class_names, split.instances.is_single_word()))


def unmeasured_on_images(split: Split, datasets_dir: Path) -> dict[str, str]:
    """Return the metrics that a split has no data for, each with the reason, and log it."""
    if split.instances is not None:
        return {}
    folders = [path.parent for path in split.instance_files] or [datasets_dir]
    reason = f"no instances of {split.name} in {folders[0]}"
    logger.info("classes, boxes and heatmaps are not measured: %s", reason)
    return dict.fromkeys(INSTANCE_SECTIONS, reason)


# ---- the data section of results


def training_data(pairs: TrainingPairs, norms: Norms | None = None) -> dict[str, Any]:
    """Return the data section of training captions, and of the norms where they were read."""
    return {
        "train_images": len(pairs.split.image_ids),
        "train_captions": len(pairs),
        "filtered": pairs.split.filtered,
        **words_data(pairs.fingerprint(), norms),
    }


def words_data(captions: str | None, norms: Norms | None) -> dict[str, Any]:
    """Return the fingerprints of training captions and of norms, as far as they were read."""
    norms_data = {} if norms is None else {"norms_fingerprint": norms.fingerprint()}
    return {"train_fingerprint": captions, **norms_data}


def image_data(asked: Split, used: Split) -> dict[str, Any]:
    """Return the data section of test images: those asked for, and those that could be used."""
    data = {
        "test_images": len(used.image_ids),
        "test_fingerprint": asked.fingerprint(),
        "filtered": asked.filtered,
    }
    lost = sorted(set(asked.file_names.tolist()) - set(used.file_names.tolist()))
    return data | ({"unreadable_images": lost} if lost else {})


# ---- models


@dataclass(frozen=True)
class Model:
    """Both halves of a model, ready for evaluation."""

    visual: VisualModel
    text: TextEncoder
    text_threshold: float
    recorded_settings: dict[str, Any]  # as results hold them, with "origin"


def load_text_half(options: argparse.Namespace) -> tuple[TextEncoder, dict[str, Any]]:
    """Load the text half and its settings for results; its threshold may be given anew."""
    encoder, settings, origin = load_text_model(
        options.models_dir, options.model_name, choose_device(options.device)
    )
    given = {k: v for k, v in options.given.items() if k == "text_threshold"}
    return encoder, settings.as_dict() | given | {"origin": vars(origin)}


def load_visual_half(options: argparse.Namespace) -> tuple[VisualModel, dict[str, Any]]:
    """Load the visual half likewise; its threshold and batch size may be given anew."""
    device = choose_device(options.device)
    encoder, settings, origin = load_visual_model(options.models_dir, options.model_name, device)
    given = {k: v for k, v in options.given.items() if k in ("visual_threshold", "batch_size")}
    used = settings.as_dict() | given | {"origin": vars(origin)}
    workers = options.workers
    if "workers" not in options.given and device == "cpu":
        workers = spare_workers(workers)
    threshold, size, batch = (used[x] for x in ("visual_threshold", "image_size", "batch_size"))
    return VisualModel(encoder, threshold, size, batch, workers, device), used


def load_both_halves(options: argparse.Namespace) -> Model:
    """Load a model; thresholds and the batch size may be given anew."""
    text, of_text = load_text_half(options)
    visual, used = load_visual_half(options)
    require_same_origin(Origin(**of_text["origin"]), Origin(**used["origin"]), options.model_name)
    # the two halves of a published model each have settings of their own
    used |= {name: of_text[name] for name in ("text_encoder", "text_threshold")}
    return Model(visual, text, of_text["text_threshold"], used)


def training_vocabulary(
    options: argparse.Namespace, settings: Mapping[str, Any], norms: Norms | None = None
) -> tuple[Vocabulary, dict[str, Any]]:
    """Return a joint model's training words with their counts, and the data section for them.

    The model has them itself. Those of published models and of earlier versions are counted in the
    captions that the options name.
    """
    if not options.datasets_dir.is_dir():
        raise UserError(f"no folder {options.datasets_dir}; give --datasets_dir, with the norms")
    trained_on = settings["origin"]["data_fingerprint"]
    vocabulary = load_vocabulary(options.models_dir, options.model_name)
    if vocabulary is not None:
        return vocabulary, words_data(trained_on, norms)
    pairs = training_pairs(options)
    warn_of_other_captions(options, trained_on, pairs)
    return pairs.vocabulary, training_data(pairs, norms)


def warn_of_other_captions(
    options: argparse.Namespace, trained_on: str | None, pairs: TrainingPairs
) -> None:
    """Say so where words are counted in other captions than a model was trained on."""
    if trained_on not in (None, pairs.fingerprint()):
        logger.warning(
            "'%s' was trained on other captions than those of %s, in which words are counted here",
            options.model_name,
            options.datasets_dir,
        )


def word_list_settings(options: argparse.Namespace) -> dict[str, str]:
    """Return the word list that restricts an evaluation, where there is one."""
    path = options.word_list
    if path is None:
        return {}
    return {"word_list": str(path), "word_list_sha256": sha256_of_file(path)}


def chance_seed(options: argparse.Namespace, settings: Mapping[str, Any]) -> int:
    """Return the seed of a model's chance levels: as given, else that of its training.

    So a model has one chance level in all tables, those during training included.
    """
    of_training: int | None = settings.get("seed")  # of a published model there is none
    return options.seed if "seed" in options.given or of_training is None else of_training
