"""What several utilities share: the device, the data and models read, the results written."""

import argparse
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import UserError
from utils.files import sha256_of_file
from utils.processes import local_rank, process_count, spare_workers

if TYPE_CHECKING:
    import numpy as np

    from datasets_src.norms import Norms
    from datasets_src.pairs import TrainingPairs
    from datasets_src.splits import Split
    from evaluation.image_evaluation import VisualModel
    from models_src.text_encoders.interface import TextEncoder

logger = logging.getLogger(__name__)


def choose_device(name: str) -> str:
    """Return the device to run on; each process of a machine takes a GPU of its own.

    Raises:
        UserError: the device is unknown or not there.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and process_count() > 1:
        name = f"cuda:{local_rank()}"
    try:
        device = torch.device(name)
        usable = device.type in ("cpu", "cuda")
        if usable:
            torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        usable = False
    if not usable:
        raise UserError(f"--device {name} is not usable here; give cpu or auto")
    return str(device)


def training_pairs(options: argparse.Namespace) -> "TrainingPairs":
    """Load the pairs of the training split that the options name."""
    from datasets_src.pairs import load_training_pairs

    pairs = load_training_pairs(
        options.datasets_dir,
        use_all_images=options.use_all_images,
        dataset=options.dataset,
        cache_dir=options.cache_dir,
    )
    return replace(pairs, split=_with_cache(pairs.split, options))


def require_same_captions(
    options: argparse.Namespace, fingerprint: str | None, pairs: "TrainingPairs"
) -> None:
    """See that a model is asked about the captions it was trained on, unless told otherwise.

    Args:
        options: ``other_captions`` lets any captions pass; that they are others is then logged.
        fingerprint: Of the model's training pairs; None for a model that does not say.
        pairs: The captions it is asked about.

    Raises:
        UserError: they are others.
    """
    if fingerprint is None or fingerprint == pairs.fingerprint():
        return
    if not options.other_captions:
        raise UserError(
            f"'{options.model_name}' was trained on other captions than those of "
            f"{options.datasets_dir}; give its --datasets_dir, --dataset and filter, or "
            "--other_captions to ask it about these"
        )
    logger.info("the model was trained on other captions than those it is asked about here")


def training_split(options: argparse.Namespace) -> tuple["Split", bool]:
    """Load the training split, with its instances if any, and say whether it was filtered."""
    return _split_with_instances(options, 0)


def test_split(options: argparse.Namespace) -> tuple["Split", bool]:
    """Load the test split, with its instances where it has any, and say whether it was filtered.

    Raises:
        UserError: the data is missing or malformed, or no image is left.
    """
    split, filtered = _split_with_instances(options, 1)
    if not len(split.image_ids):
        raise UserError(
            f"no test image of {split.name}; check {' and '.join(map(str, split.caption_files))} "
            "and the filter"
        )
    return split, filtered


def _split_with_instances(options: argparse.Namespace, index: int) -> tuple["Split", bool]:
    """Load the split of this index in ``SPLITS``."""
    from datasets_src.filtering import load_filtered_split
    from datasets_src.splits import SPLITS

    split, filtered = load_filtered_split(
        options.datasets_dir,
        SPLITS[index],
        use_all_images=options.use_all_images,
        with_instances=True,
        dataset=options.dataset,
        cache_dir=options.cache_dir,
    )
    return _with_cache(split, options), filtered


def _with_cache(split: "Split", options: argparse.Namespace) -> "Split":
    """Return the split with the cache of images that the options name, if any."""
    from datasets_src.image_cache import ImageCache

    if options.image_cache is None:
        return split
    return replace(split, cache=ImageCache(options.image_cache, f"{options.dataset}_{split.name}"))


def training_data(pairs: "TrainingPairs", norms: "Norms | None" = None) -> dict[str, Any]:
    """Return what results say of the training captions, and of the norms where they were read."""
    data = {
        "train_images": len(pairs.split.image_ids),
        "train_captions": len(pairs),
        "train_fingerprint": pairs.fingerprint(),
        "filtered": pairs.filtered,
    }
    return data if norms is None else data | {"norms_fingerprint": norms.fingerprint()}


@dataclass(frozen=True)
class Model:
    """Both halves of a model, ready for evaluation."""

    visual: "VisualModel"
    text: "TextEncoder"
    text_threshold: float
    recorded_settings: dict[str, Any]


def load_both_halves(options: argparse.Namespace) -> Model:
    """Load a model; thresholds and the batch size may be given anew."""
    from evaluation.image_evaluation import VisualModel
    from models_src.model_files import load_text_model, load_visual_model, require_same_origin

    device = choose_device(options.device)
    text, text_settings, text_origin = load_text_model(
        options.models_dir, options.model_name, device
    )
    encoder, settings, origin = load_visual_model(options.models_dir, options.model_name, device)
    require_same_origin(text_origin, origin, options.model_name)
    used = settings.as_dict()
    # the two halves of a published model each have settings of their own
    used |= {name: getattr(text_settings, name) for name in ("text_encoder", "text_threshold")}
    used |= {
        name: options.given[name]
        for name in ("text_threshold", "visual_threshold", "batch_size")
        if name in options.given
    }
    visual = VisualModel(
        encoder,
        used["visual_threshold"],
        used["image_size"],
        used["batch_size"],
        options.workers
        if "workers" in options.given or device != "cpu"
        else spare_workers(options.workers),
        device,
    )
    return Model(visual, text, used["text_threshold"], used | {"origin": vars(origin)})


def no_instances(split: "Split", datasets_dir: Path) -> str:
    """Say that a split has no instances, and where they are looked for."""
    folders = dict.fromkeys(path.parent for path in split.instance_files)
    return f"no instances of {split.name} in {next(iter(folders), datasets_dir)}"


def unmeasured_on_images(split: "Split", datasets_dir: Path) -> dict[str, str]:
    """Return the metrics that a split has no data for, each with the reason, and log it."""
    from evaluation.image_evaluation import INSTANCE_METRICS

    if split.instances is not None:
        return {}
    reason = no_instances(split, datasets_dir)
    logger.info("classes, boxes and heatmaps are not measured: %s", reason)
    return dict.fromkeys(INSTANCE_METRICS, reason)


@dataclass(frozen=True)
class ImageEvaluation:
    """What a model makes of the images of a split."""

    split: "Split"  # without missing and unreadable images
    metrics: dict[str, Any]
    by_image: "dict[str, np.ndarray]"  # what metrics are sums of, see ``write_by_image``
    logits: "np.ndarray"  # (N, C) float32


def image_data(asked: "Split", used: "Split", filtered: bool) -> dict[str, Any]:
    """Return what results say of the test images: how many were used, and which could not be."""
    import numpy as np

    data = {
        "test_images": len(used.image_ids),
        "test_fingerprint": asked.fingerprint(),
        "image_files_fingerprint": asked.image_files_fingerprint(),
        "filtered": filtered,
    }
    lost = asked.file_names[~np.isin(asked.image_ids, used.image_ids)].tolist()
    return data | ({"unreadable_images": lost} if lost else {})


def evaluate_images(model: Model, split: "Split", seed: int) -> ImageEvaluation:
    """Score a model on the images of a split, and on the first caption of each.

    Args:
        model: Both halves.
        split: N images, at least one; without instances, the metrics of classes, boxes and
            heatmaps are None.
        seed: Of the random boxes and points.

    Raises:
        UserError: too many images are missing or unreadable.
    """
    import numpy as np

    from datasets_src.captions import encode_captions
    from evaluation.image_evaluation import (
        caption_bits,
        image_counts,
        image_metrics,
        predict_images,
    )
    from evaluation.sentence_image_matching import matching_outcomes, matching_scores
    from evaluation.word_evaluation import words_to_clusters

    predictions, split = predict_images(model.visual, split)
    counts = None
    if split.instances is not None:
        cluster_of_class, _ = words_to_clusters(model.text, split.instances.class_names)
        counts = image_counts(predictions, split, cluster_of_class)
    metrics = image_metrics(counts, split, seed)

    first = split.first_captions()
    captioned = np.flatnonzero(first >= 0)
    texts = [split.captions[caption] for caption in first[captioned]]
    tokens = encode_captions(texts, model.text.words).padded(np.arange(len(texts)))
    bits = caption_bits(model.text, tokens, model.text_threshold, model.visual.device)
    outcomes = matching_outcomes(predictions.bits[captioned], bits)
    metrics["sentence_image_matching"] = matching_scores(outcomes)
    metrics["activation"] = {
        "clusters_per_image": float(predictions.bits.sum(axis=1).mean()),
        "clusters_per_caption": float(bits.sum(axis=1).mean()) if len(bits) else None,
    }
    by_image = {
        "image_ids": split.image_ids,
        **(counts or {}),
        "matching_image_ids": split.image_ids[captioned][: outcomes.size].reshape(-1, 2),
        "sentence_image_matching": outcomes,
    }
    return ImageEvaluation(split, metrics, by_image, predictions.logits)


def single_word_classes(split: "Split") -> list[str]:
    """Return the names of a split's single-word classes; none without instances."""
    import numpy as np

    if split.instances is None:
        return []
    names = np.array(split.instances.class_names, dtype=object)
    single: list[str] = names[split.instances.is_single_word()].tolist()
    return single


def chance_seed(options: argparse.Namespace, settings: Mapping[str, Any]) -> int:
    """Return the seed of a model's chance levels: as given, else that of its training.

    So a model has one chance level in all tables, those during training included.
    """
    of_training = settings.get("seed")  # of a published model there is none
    seed: int = options.seed if "seed" in options.given or of_training is None else of_training
    return seed


def word_list_settings(options: argparse.Namespace) -> dict[str, str]:
    """Return the word list that restricts an evaluation, where there is one."""
    if options.word_list is None:
        return {}
    return {
        "word_list": str(options.word_list),
        "word_list_sha256": sha256_of_file(options.word_list),
    }


def finish(
    options: argparse.Namespace,
    metrics: Mapping[str, Any],
    settings: Mapping[str, Any],
    data: Mapping[str, Any],
    not_measured: Mapping[str, str],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Show an evaluation's results as a table and write them, with what is extra, as JSON."""
    from evaluation.reports import format_metrics, write_results

    path = write_results(
        options.results_dir,
        options.utility,
        options.model_name,
        metrics=metrics,
        settings={**settings, "dataset": options.dataset} | word_list_settings(options),
        data=data,
        not_measured=not_measured,
        extra=extra,
    )
    logger.info("%s", format_metrics(metrics))
    logger.info("results: %s", path)
