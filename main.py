"""Multimodal self-supervised clustering: the command line.

``python main.py --utility NAME [options]``; ``python main.py --help`` lists everything. This file
holds the options, the table of utilities and their wiring; torch is imported only by those
utilities that need it.
"""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models_src.settings import (
    TrainingSettings,
    check_setting,
    setting_type,
    settings_from_sources,
)
from utils.errors import UserError
from utils.files import require_writable_folder
from utils.log import start_logging, stop_logging

if TYPE_CHECKING:
    from datasets_src.coco import Split

logger = logging.getLogger(__name__)

FAILURE, USER_MISTAKE, INTERRUPTED = 1, 2, 130


@dataclass(frozen=True)
class Option:
    """An option beside the training settings."""

    group: str
    default: Any
    help: str
    kind: Callable[[str], Any] = str
    choices: tuple[str, ...] | None = None
    metavar: str | None = None


def _whole_number(minimum: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from ``minimum`` on."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{text} is less than {minimum}")
        return value

    return read


def _model_name(text: str) -> str:
    """Read a model's name, which is part of file names."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no name for files: use letters, digits, '.', '_' and '-'"
        )
    return text


def _positive_number(text: str) -> float:
    """Read a number above 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


OPTIONS: dict[str, Option] = {
    "model_name": Option(
        "files", "model1", "name of the model to train or evaluate", _model_name, metavar="NAME"
    ),
    "datasets_dir": Option("files", Path("datasets"), "folder of the data", Path, metavar="DIR"),
    "models_dir": Option("files", Path("models"), "folder of trained models", Path, metavar="DIR"),
    "results_dir": Option(
        "files",
        Path("results"),
        "folder for results, pictures and logs",
        Path,
        metavar="DIR",
    ),
    "write_to_log": Option(
        "files",
        False,
        "also append messages and tables to <results_dir>/<utility>_<model_name>.log; training "
        "always does",
        bool,
    ),
    "use_all_images": Option("data", False, "ignore the images filter of setup", bool),
    "word_list": Option(
        "data",
        None,
        "file with one word a line: only these are evaluated in categorization and association",
        Path,
        metavar="FILE",
    ),
    "config": Option(
        "training",
        None,
        "YAML file of training settings; an option given on the command line wins over it",
        Path,
        metavar="FILE",
    ),
    "resume": Option(
        "training", False, "continue an interrupted training of this name from its checkpoint", bool
    ),
    "overwrite": Option(
        "training", False, "replace a model, or an unfinished training, of this name", bool
    ),
    "checkpoint_minutes": Option(
        "training",
        30.0,
        "minutes between checkpoints within an epoch",
        _positive_number,
        metavar="MINUTES",
    ),
    "device": Option(
        "running",
        "auto",
        "cpu, cuda or cuda:N; auto takes a GPU where there is one",
    ),
    "workers": Option(
        "running",
        min(2, os.cpu_count() or 1),
        "processes that read images ahead; 0 reads in the main process",
        _whole_number(0),
        metavar="N",
    ),
    "num_items": Option(
        "demonstrations", 10, "number of test images to draw", _whole_number(1), metavar="N"
    ),
    "images": Option(
        "demo world",
        1500,
        "number of training images of the demo world; a quarter of it is added for testing",
        _whole_number(20),
        metavar="N",
    ),
}

SETTINGS = {setting.name: setting for setting in fields(TrainingSettings)}


@dataclass(frozen=True)
class Utility:
    """One thing the program does."""

    help: str
    run: Callable[[argparse.Namespace], None]
    reads: frozenset[str]  # the options that have an effect on it


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, as all of the program's."""

    def error(self, message: str) -> Any:
        raise UserError(f"{message}; see python main.py --help")


def build_parser() -> argparse.ArgumentParser:
    """Return the one parser of the program.

    Options that are not given are absent from the namespace, so that what the user gave is known;
    ``parse_options`` adds the defaults.
    """
    parser = _Parser(
        prog="main.py",
        description="Train and evaluate two encoders, one of images and one of captions, that "
        "learn a shared clustering from each other.",
        epilog="utilities:\n"
        + "\n".join(f"  {name:<30}{utility.help}" for name, utility in UTILITIES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--utility",
        choices=tuple(UTILITIES),
        metavar="NAME",
        help="what to do, see the list below (default: train_joint_model)",
    )
    groups: dict[str, Any] = {}
    for name, option in OPTIONS.items():
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        _add_option(groups[option.group], name, option)
    for name, setting in SETTINGS.items():
        group = setting.metadata["group"]
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        kind, _ = setting_type(setting)
        option = Option(
            group,
            setting.default,
            setting.metadata["help"],
            kind,
            setting.metadata["choices"],
            {int: "N", float: "X"}.get(kind),
        )
        _add_option(groups[group], name, option)
    return parser


def _add_option(group: Any, name: str, option: Option) -> None:
    """Add one option to a group of the parser."""
    default = "None" if option.default is None else option.default
    text = option.help.replace("%", "%%")
    if option.kind is bool:
        action = argparse.BooleanOptionalAction if name in SETTINGS else "store_true"
        group.add_argument(f"--{name}", action=action, help=text)
        return
    group.add_argument(
        f"--{name}",
        type=option.kind,
        choices=option.choices,
        metavar=option.metavar if option.choices is None else None,
        help=f"{text} (default: {default})",
    )


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return all options with their defaults; ``given`` holds those the user gave.

    Raises:
        UserError: an unknown option or value, or an option without effect on the utility.
    """
    given = vars(build_parser().parse_args(arguments))
    name = given.pop("utility", "train_joint_model")
    idle = [f"--{option}" for option in given if option not in UTILITIES[name].reads]
    if idle:
        raise UserError(
            f"{', '.join(idle)} has no effect on --utility {name}; leave it out (options that "
            f"have: {', '.join(sorted('--' + option for option in UTILITIES[name].reads))})"
        )
    for option, value in given.items():
        if option in SETTINGS:
            check_setting(SETTINGS[option], value)
    if given.get("resume") and given.get("overwrite"):
        raise UserError("--resume continues a training, --overwrite starts it anew; give one")
    defaults = {option: OPTIONS[option].default for option in OPTIONS}
    defaults |= {setting: SETTINGS[setting].default for setting in SETTINGS}
    return argparse.Namespace(**(defaults | given), utility=name, given=given)


def choose_device(name: str) -> str:
    """Return the device to run on.

    Raises:
        UserError: the device is unknown or not there.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        usable = device.type in ("cpu", "cuda")
        if usable:
            torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        usable = False
    if not usable:
        raise UserError(f"--device {name} is not usable here; give cpu, cuda or auto")
    return str(device)


def train_joint_model(options: argparse.Namespace) -> None:
    """Train both encoders and write the model, its best epoch, the metrics by epoch and curves."""
    chosen = {name: value for name, value in options.given.items() if name in SETTINGS}
    settings = settings_from_sources(options.config, chosen)

    from datasets_src.norms import load_norms
    from datasets_src.pairs import load_training_pairs
    from evaluation.reports import draw_learning_curves, flatten, write_history
    from evaluation.word_evaluation import predict_words, word_metrics
    from models_src.training import RunOptions, train

    folder = options.results_dir / options.model_name
    for place in (options.models_dir, folder):
        require_writable_folder(place)
    run = RunOptions(
        name=options.model_name,
        models_dir=options.models_dir,
        device=choose_device(options.device),
        workers=options.workers,
        resume=options.resume,
        overwrite=options.overwrite,
        checkpoint_minutes=options.checkpoint_minutes,
    )
    pairs = load_training_pairs(options.datasets_dir, use_all_images=options.use_all_images)
    norms = load_norms(options.datasets_dir, options.word_list)
    logger.info(
        "%d pairs of %d images and %d words; settings: %s",
        len(pairs),
        len(pairs.split.image_ids),
        len(pairs.vocabulary.words),
        ", ".join(f"{name} {value}" for name, value in settings.as_dict().items()),
    )

    def evaluate(text: Any) -> dict[str, float | None]:
        predictions = predict_words(text, pairs.vocabulary)
        return flatten(word_metrics(predictions, norms, settings.text_threshold, settings.seed))

    def report(history: Sequence[Mapping[str, float | None]]) -> None:
        write_history(folder / "evaluation_by_epoch.csv", history)
        draw_learning_curves(folder / "learning_curves.png", history, options.model_name)
        logger.info("epoch %d: %s", len(history), _epoch_line(history[-1]))

    train(settings, pairs, run, evaluate, report)
    logger.info("model: %s, metrics by epoch: %s", options.models_dir, folder)


def _epoch_line(row: Mapping[str, float | None]) -> str:
    """Return an epoch's main figures in a line."""
    from evaluation.reports import format_value

    shown = {
        "v_measure": "categorization.known_words.v_measure",
        "adjusted_mutual_info": "categorization.known_words.adjusted_mutual_info",
        "all-words f_score": "categorization.all_words.f_score",
        "concreteness r": "concreteness.pearson_by_min_count.0.r",
        "active clusters": "cluster_counts.active_clusters",
    }
    return ", ".join(f"{name} {format_value(row.get(key))}" for name, key in shown.items())


def text_evaluation(options: argparse.Namespace) -> None:
    """Score a model's word clusters with every word metric."""
    from datasets_src.norms import load_norms
    from datasets_src.pairs import load_training_pairs
    from evaluation.word_evaluation import predict_words, word_metrics
    from models_src.model_files import load_text_model

    device = choose_device(options.device)
    text, settings, origin = load_text_model(options.models_dir, options.model_name, device)
    norms = load_norms(options.datasets_dir, options.word_list)
    pairs = load_training_pairs(options.datasets_dir, use_all_images=options.use_all_images)
    threshold = options.given.get("text_threshold", settings.text_threshold)
    metrics = word_metrics(predict_words(text, pairs.vocabulary), norms, threshold, options.seed)
    _finish(
        options,
        metrics,
        {
            **settings.as_dict(),
            "text_threshold": threshold,
            "evaluation_seed": options.seed,
            "origin": vars(origin),
        },
        {
            "train_images": len(pairs.split.image_ids),
            "train_captions": len(pairs),
            "filtered": pairs.filtered,
        },
        norms.absent,
    )


def visual_evaluation(options: argparse.Namespace) -> None:
    """Score a model's image clusters with every image metric, on val2014."""
    import numpy as np

    from datasets_src.captions import encode_captions
    from datasets_src.filtering import load_filtered_split
    from evaluation.image_evaluation import (
        INSTANCE_METRICS,
        caption_bits,
        image_metrics,
        predict_images,
    )
    from evaluation.sentence_image_matching import matching_scores
    from evaluation.word_evaluation import words_to_clusters

    model = _load_both_halves(options)
    split, filtered = load_filtered_split(
        options.datasets_dir,
        "val2014",
        use_all_images=options.use_all_images,
        with_instances=True,
    )
    if not len(split.image_ids):
        raise UserError(
            f"no test image in {options.datasets_dir}; check captions_val2014.json and the filter"
        )
    predictions = predict_images(model.visual, split)
    cluster_of_class, absent = None, {}
    if split.instances is None:
        reason = f"no instances of val2014 in {options.datasets_dir}"
        logger.info("classes, boxes and heatmaps are not measured: %s", reason)
        absent = dict.fromkeys(INSTANCE_METRICS, reason)
    else:
        cluster_of_class, _ = words_to_clusters(model.text, split.instances.class_names)
    metrics = image_metrics(predictions, split, cluster_of_class, options.seed)

    first = split.first_captions()
    captioned = np.flatnonzero(first >= 0)
    texts = [split.captions[caption] for caption in first[captioned]]
    tokens = encode_captions(texts, model.text.words).padded(np.arange(len(texts)))
    bits = caption_bits(model.text, tokens, model.text_threshold, model.visual.device)
    metrics["sentence_image_matching"] = matching_scores(predictions.bits[captioned], bits)
    metrics["activation"] = {
        "clusters_per_image": float(predictions.bits.sum(axis=1).mean()),
        "clusters_per_caption": float(bits.sum(axis=1).mean()) if len(bits) else None,
    }
    _finish(
        options,
        metrics,
        model.recorded_settings | {"evaluation_seed": options.seed},
        {"test_images": len(split.image_ids), "filtered": filtered},
        absent,
    )


@dataclass(frozen=True)
class _Model:
    """Both halves of a model, ready for evaluation."""

    visual: Any  # evaluation.image_evaluation.VisualModel
    text: Any  # models_src.text_encoders.interface.TextEncoder
    text_threshold: float
    recorded_settings: dict[str, Any]


def _load_both_halves(options: argparse.Namespace) -> _Model:
    """Load a model; thresholds and the batch size may be given anew."""
    from evaluation.image_evaluation import VisualModel
    from models_src.model_files import load_text_model, load_visual_model, require_same_origin

    device = choose_device(options.device)
    text, settings, text_origin = load_text_model(options.models_dir, options.model_name, device)
    encoder, settings, origin = load_visual_model(options.models_dir, options.model_name, device)
    require_same_origin(text_origin, origin, options.model_name)
    used = settings.as_dict() | {
        name: options.given[name]
        for name in ("text_threshold", "visual_threshold", "batch_size")
        if name in options.given
    }
    visual = VisualModel(
        encoder,
        used["visual_threshold"],
        used["image_size"],
        used["batch_size"],
        options.workers,
        device,
    )
    return _Model(visual, text, used["text_threshold"], used | {"origin": vars(origin)})


def _finish(
    options: argparse.Namespace,
    metrics: Mapping[str, Any],
    settings: Mapping[str, Any],
    data: Mapping[str, Any],
    not_measured: Mapping[str, str],
) -> None:
    """Show an evaluation's results as a table and write them as JSON."""
    from evaluation.reports import format_metrics, write_results

    path = write_results(
        options.results_dir,
        options.utility,
        options.model_name,
        metrics=metrics,
        settings=settings,
        data=data,
        not_measured=not_measured,
    )
    logger.info("%s", format_metrics(metrics))
    logger.info("results: %s", path)


def heatmap_demonstration(options: argparse.Namespace) -> None:
    """Draw class activation maps over test images."""
    _demonstrate(options, "heatmap")


def bbox_demonstration(options: argparse.Namespace) -> None:
    """Draw predicted and gold boxes on test images."""
    _demonstrate(options, "bbox")


def _demonstrate(options: argparse.Namespace, kind: str) -> None:
    """Draw one PNG for each of some test images."""
    from datasets_src.filtering import load_filtered_split
    from datasets_src.pairs import load_training_pairs
    from evaluation.demonstrations import choose_images, cluster_labels, draw_demonstrations
    from evaluation.word_evaluation import predict_words, words_to_clusters

    model = _load_both_halves(options)
    use_all = options.use_all_images
    split, _ = load_filtered_split(
        options.datasets_dir, "val2014", use_all_images=use_all, with_instances=True
    )
    pairs = load_training_pairs(options.datasets_dir, use_all_images=use_all)
    names = _single_word_classes(split)
    labels = cluster_labels(
        predict_words(model.text, pairs.vocabulary),
        names,
        words_to_clusters(model.text, names)[0],
        model.visual.encoder.cluster_num,
    )
    folder = options.results_dir / options.model_name / f"{kind}_demonstration"
    files = draw_demonstrations(
        kind,
        model.visual,
        split,
        choose_images(split, options.num_items, options.seed),
        labels,
        folder,
    )
    logger.info("%d pictures: %s", len(files), folder)


def _single_word_classes(split: "Split") -> list[str]:
    """Return the names of a split's single-word classes; none without instances."""
    import numpy as np

    if split.instances is None:
        return []
    names = np.array(split.instances.class_names, dtype=object)
    return names[split.instances.is_single_word()].tolist()


def filter_unwanted_coco_images(options: argparse.Namespace) -> None:
    """Filter both splits of COCO and keep the result in the datasets folder."""
    from datasets_src.filtering import FILTER_FILE, filter_images
    from datasets_src.norms import load_norms

    for name, result in filter_images(options.datasets_dir, show_progress=True).items():
        causes = ", ".join(
            f"{cause.replace('_', ' ')} {len(ids)}" for cause, ids in result.dropped.items()
        )
        logger.info(
            "%s: %d of %d images kept; dropped: %s", name, result.kept, result.images, causes
        )
    logger.info("kept in %s", options.datasets_dir / FILTER_FILE)
    load_norms(options.datasets_dir)


def make_demo_dataset(options: argparse.Namespace) -> None:
    """Write the demo world: invented images, captions and norms in COCO's layout."""
    from datasets_src.demo_world import make_demo_world

    counts = make_demo_world(options.datasets_dir, options.images, options.seed)
    logger.info(
        "%s: %s",
        options.datasets_dir,
        ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items()),
    )


_FILES = frozenset({"model_name", "datasets_dir", "models_dir", "results_dir", "write_to_log"})
_EVALUATION = _FILES | {"use_all_images", "seed", "device"}
_BOTH_HALVES = _EVALUATION | {"text_threshold", "visual_threshold", "batch_size", "workers"}

UTILITIES: dict[str, Utility] = {
    "train_joint_model": Utility(
        "train both encoders on image-caption pairs",
        train_joint_model,
        _EVALUATION
        | set(SETTINGS)
        | {"config", "resume", "overwrite", "checkpoint_minutes", "workers", "word_list"},
    ),
    "text_evaluation": Utility(
        "score word clusters: categories, concreteness, association",
        text_evaluation,
        _EVALUATION | {"text_threshold", "word_list"},
    ),
    "visual_evaluation": Utility(
        "score image clusters: classes, boxes, heatmaps, matching",
        visual_evaluation,
        _BOTH_HALVES,
    ),
    "heatmap_demonstration": Utility(
        "draw class activation maps over test images",
        heatmap_demonstration,
        _BOTH_HALVES | {"num_items"},
    ),
    "bbox_demonstration": Utility(
        "draw predicted and gold boxes on test images",
        bbox_demonstration,
        _BOTH_HALVES | {"num_items"},
    ),
    "filter_unwanted_coco_images": Utility(
        "find the images that training and evaluation leave out (run by setup.csh)",
        filter_unwanted_coco_images,
        frozenset({"datasets_dir", "write_to_log", "results_dir"}),
    ),
    "make_demo_dataset": Utility(
        "write an invented little world in COCO's layout",
        make_demo_dataset,
        frozenset({"datasets_dir", "images", "seed", "write_to_log", "results_dir"}),
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one utility and return the exit status: 0 done, 2 the user's mistake, 130 Ctrl-C.

    Args:
        arguments: The command line's words; those of the process when None.
    """
    try:
        options = parse_options(arguments)
        logs = options.write_to_log or options.utility == "train_joint_model"
        has_model = "model_name" in UTILITIES[options.utility].reads
        log_name = options.utility + (f"_{options.model_name}" if has_model else "") + ".log"
        if has_model:
            require_writable_folder(options.results_dir)
        start_logging(options.results_dir / log_name if logs else None)
        UTILITIES[options.utility].run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_MISTAKE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # quiet to the end
        return FAILURE
    finally:
        stop_logging()
    return 0


if __name__ == "__main__":
    sys.exit(main())
