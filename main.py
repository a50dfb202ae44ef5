"""Multimodal self-supervised clustering: the command line.

``python main.py --utility NAME [options]``; ``python main.py --help`` lists everything. This file
holds the options and the table of utilities; what each does stands in ``evaluation/utilities``,
which is imported when it runs, so that torch is imported only by those that need it.
"""

import argparse
import importlib
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models_src.settings import (
    SETTINGS,
    check_setting,
    setting_type,
)
from utils.errors import UserError
from utils.files import require_writable_folder
from utils.log import note_error, silence_logging, start_logging, stop_logging
from utils.processes import process_count, process_rank

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
    several: bool = False  # whether it takes one or more values


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


def _utility(text: str) -> str:
    """Read the name of a utility; of a mistyped one, tell what it may have been."""
    if text in UTILITIES:
        return text
    import difflib  # only where the command has failed: help is to appear at once

    near = difflib.get_close_matches(text, UTILITIES, n=2)
    question = f" (did you mean {' or '.join(near)}?)" if near else ""
    raise argparse.ArgumentTypeError(f"there is no utility '{text}'{question}")


def _model_name(text: str) -> str:
    """Read a model's name, which is part of file names."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no name for files: use letters, digits, '.', '_' and '-'"
        )
    return text


def _model_pattern(text: str) -> str:
    """Read a model's name in which ``*``, ``?`` and ``[...]`` may stand for other characters."""
    _model_name(re.sub(r"[*?\[\]]", "x", text))
    return text


def _folder_name(text: str) -> str:
    """Read the name of a folder inside another."""
    if text in ("", ".", "..") or "/" in text or "\\" in text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a folder; give it without a path")
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


def _finite_number(text: str) -> float:
    """Read a finite number."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not finite")
    return value


JOINT_MODEL = "multimodal_clustering"
MODEL_TYPES = (JOINT_MODEL, "text_only", "random", "w2v", "bert", "clip", "supervised_concreteness")

OPTIONS: dict[str, Option] = {
    "model_name": Option(
        "files",
        "model1",
        "name of the model to train or evaluate; compare_models takes several, and patterns such "
        "as 'lstm_*'",
        _model_pattern,
        metavar="NAME",
        several=True,
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
        "and tuning always do",
        bool,
    ),
    "dataset": Option(
        "data",
        "coco",
        "the captioned images: coco, flickr30k, or the name of a folder in --datasets_dir in "
        "COCO's layout",
        _folder_name,
        metavar="NAME",
    ),
    "cache_dir": Option(
        "data",
        None,
        "where setup's filter of images is kept (default: beside the data; where that folder "
        "cannot be written, cache/)",
        Path,
        metavar="DIR",
    ),
    "use_all_images": Option("data", False, "ignore the images filter of setup", bool),
    "other_captions": Option(
        "data",
        False,
        "let a model answer for words of other training captions than its own",
        bool,
    ),
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
        "training",
        False,
        "replace a model, or an unfinished training or tuning, of this name",
        bool,
    ),
    "seeds": Option(
        "training",
        None,
        "train one model for each of these seeds, one after another, named <model_name>_<seed>",
        _whole_number(0),
        metavar="N",
        several=True,
    ),
    "best_by": Option(
        "training",
        "agreement",
        "which epoch is kept as <model_name>_best: that with the highest agreement of image bits "
        "and caption bits (Cohen's kappa; epochs with random votes do not count), or with the "
        "highest f_score of all words of the category norms",
        choices=("agreement", "f_score"),
    ),
    "checkpoint_minutes": Option(
        "training",
        30.0,
        "minutes between checkpoints within an epoch",
        _positive_number,
        metavar="MINUTES",
    ),
    "evaluate_every": Option(
        "training",
        None,
        "also measure the word metrics every N joint steps, and denser at first: after 1, 2, 5, "
        "10, 20, 50, ... of them. Rows go to <results_dir>/<model_name>/development.csv. With lstm "
        "and gru each row costs a reading of all training captions, with any encoder the metrics "
        "themselves; what is trained does not change",
        _whole_number(1),
        metavar="N",
    ),
    "words": Option(
        "training",
        None,
        "words to follow one by one with --evaluate_every",
        metavar="WORD",
        several=True,
    ),
    "evaluate_images": Option(
        "training",
        None,
        "with --evaluate_every, also measure the image metrics, on the first N test images",
        _whole_number(1),
        metavar="N",
    ),
    "tensorboard": Option(
        "training",
        False,
        "also write event files for TensorBoard, to <results_dir>/<model_name>/tensorboard; needs "
        "the package tensorboard",
        bool,
    ),
    "device": Option(
        "running",
        "auto",
        "cpu, cuda or cuda:N; auto takes a GPU where there is one",
    ),
    "workers": Option(
        "running",
        min(2, os.cpu_count() or 1),
        "processes that read images ahead; 0 reads in the main process; unless given, an "
        "evaluation on a CPU takes no more than the cores beyond two",
        _whole_number(0),
        metavar="N",
    ),
    "compile": Option(
        "running",
        False,
        "let torch.compile translate the CNN for this device before training: some minutes at the "
        "start for shorter steps; needs a C++ compiler on a CPU",
        bool,
    ),
    "image_cache": Option(
        "running",
        None,
        "folder to keep resized images in, written as they are first read and used from then on; "
        "0.15 MB an image at 224 pixels",
        Path,
        metavar="DIR",
    ),
    "num_items": Option(
        "demonstrations",
        10,
        "number of test images to draw (in the report: with boxes), or of example images for each "
        "cluster",
        _whole_number(1),
        metavar="N",
    ),
    "images": Option(
        "demonstrations",
        None,
        "image files of your own; for make_demo_dataset the number of training images instead "
        "(1500 unless given; a quarter of it is added for testing)",
        metavar="FILE",
        several=True,
    ),
    "captions": Option(
        "demonstrations", None, "captions of your own", metavar="TEXT", several=True
    ),
    "show": Option("demonstrations", False, "also open a window with the pictures", bool),
    "model_type": Option(
        "baselines",
        JOINT_MODEL,
        "what is evaluated: a joint model, a trained baseline, random clusters, or word vectors of "
        "word2vec, BERT or CLIP",
        choices=MODEL_TYPES,
    ),
    "baseline_cluster_num": Option(
        "baselines",
        41,
        "clusters of the baselines (k-means, random); 41 is the number of categories",
        _whole_number(1),
        metavar="N",
    ),
    "w2v_file": Option(
        "baselines",
        None,
        "word2vec vectors, binary or text, may be .gz (default: "
        "<datasets_dir>/GoogleNews-vectors-negative300.bin)",
        Path,
        metavar="FILE",
    ),
    "bert_dir": Option(
        "baselines",
        None,
        "folder of a BERT model for transformers (default: <datasets_dir>/bert-base-uncased)",
        Path,
        metavar="DIR",
    ),
    "clip_dir": Option(
        "baselines",
        None,
        "folder of a CLIP model for transformers (default: <datasets_dir>/clip-vit-base-patch32)",
        Path,
        metavar="DIR",
    ),
    "clip_threshold": Option(
        "baselines",
        None,
        "similarity from which CLIP finds a class in an image (default: what "
        "find_clip_positive_threshold found for this model)",
        _finite_number,
        metavar="X",
    ),
    "conc_use_pos": Option(
        "baselines", False, "predict concreteness from parts of speech in WordNet", bool
    ),
    "conc_use_suffix": Option("baselines", False, "predict concreteness from word endings", bool),
    "conc_use_embeddings": Option(
        "baselines", False, "predict concreteness from fastText vectors", bool
    ),
    "wordnet_dir": Option(
        "baselines",
        Path("/usr/share/wordnet"),
        "folder of WordNet's index.noun, index.verb, index.adj and index.adv",
        Path,
        metavar="DIR",
    ),
    "embeddings_file": Option(
        "baselines",
        None,
        "fastText vectors, text or binary, may be .gz (default: "
        "<datasets_dir>/wiki-news-300d-1M.vec)",
        Path,
        metavar="FILE",
    ),
    "grid": Option(
        "tuning",
        None,
        "YAML file with a list of values for each setting to search",
        Path,
        metavar="FILE",
    ),
    "rank_by": Option(
        "tuning",
        None,
        "metric that ranks the settings, its names joined by dots (default: "
        "class_name_classification.f1, or sentence_image_matching.accuracy without instances)",
        metavar="METRIC",
    ),
    "new_name": Option(
        "published models",
        None,
        "name of the converted model (default: <model_name>_converted)",
        _model_name,
        metavar="NAME",
    ),
}


@dataclass(frozen=True)
class Utility:
    """One thing the program does."""

    help: str
    module: str  # has a function of the utility's name; without dots, in evaluation.utilities
    reads: frozenset[str]  # the options that have an effect on it
    default_name: str | None = None  # of --model_name, where it is not the usual one
    several_models: bool = False  # whether --model_name takes several names and patterns


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
        + "\n".join(f"  {name:<37}{utility.help}" for name, utility in UTILITIES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--utility",
        type=_utility,
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
            "FILE" if name == "pretrained_visual" else {int: "N", float: "X"}.get(kind),
        )
        _add_option(groups[group], name, option)
    return parser


def _add_option(group: Any, name: str, option: Option) -> None:
    """Add one option to a group of the parser."""
    text = option.help.replace("%", "%%")
    if "(default: " not in text:
        text += f" (default: {option.default})"
    if option.kind is bool:
        action = argparse.BooleanOptionalAction if name in SETTINGS else "store_true"
        group.add_argument(f"--{name}", action=action, help=text)
        return
    group.add_argument(
        f"--{name}",
        type=option.kind,
        choices=option.choices,
        metavar=option.metavar if option.choices is None else None,
        nargs="+" if option.several else None,
        help=text,
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
    model_names = given.get("model_name", [OPTIONS["model_name"].default])
    if "model_name" in given and not UTILITIES[name].several_models:
        given["model_name"] = _single_model_name(model_names, name)
    if given.get("resume") and given.get("overwrite"):
        raise UserError("--resume continues a training, --overwrite starts it anew; give one")
    defaults: dict[str, Any] = {option: OPTIONS[option].default for option in OPTIONS}
    defaults |= {setting: SETTINGS[setting].default for setting in SETTINGS}
    # without a name of its own, a baseline must not take the place of the joint model
    model_type = given.get("model_type", JOINT_MODEL)
    own_name = UTILITIES[name].default_name or (model_type if model_type != JOINT_MODEL else None)
    if own_name is not None:
        defaults["model_name"] = own_name
    several = {"model_names": model_names} if UTILITIES[name].several_models else {}
    return argparse.Namespace(**(defaults | given), **several, utility=name, given=given)


def _single_model_name(names: Sequence[str], utility: str) -> str:
    """Return the one model name of a utility that takes one.

    Raises:
        UserError: there are several, or it is a pattern.
    """
    try:
        (name,) = names
        return _model_name(name)
    except ValueError:
        raise UserError(f"--utility {utility} takes one --model_name, not {len(names)}") from None
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--model_name {error}") from None


# the places are accepted where they have no effect, too, so that one list serves a whole script
_FILES = frozenset({"model_name", "datasets_dir", "models_dir", "results_dir", "write_to_log"})
_DATA = frozenset({"dataset", "use_all_images", "cache_dir"})
_WORDS = _FILES | _DATA | {"seed", "word_list", "device"}
_BOTH_HALVES = (
    _FILES
    | _DATA
    | {
        "seed",
        "device",
        "workers",
        "image_cache",
        "text_threshold",
        "visual_threshold",
        "batch_size",
    }
)
_TRAINING = (
    _WORDS
    | set(SETTINGS)
    | {"config", "resume", "overwrite", "checkpoint_minutes", "workers", "compile", "image_cache"}
)
_BASELINE_WORDS = _WORDS | {
    "model_type",
    "other_captions",
    "baseline_cluster_num",
    "w2v_file",
    "bert_dir",
    "clip_dir",
}
_CLIP = _FILES | _DATA | {"device", "workers", "batch_size", "clip_dir"}

UTILITIES: dict[str, Utility] = {
    "train_joint_model": Utility(
        "train both encoders on image-caption pairs",
        "training",
        _TRAINING
        | {"seeds", "best_by", "evaluate_every", "evaluate_images", "words", "tensorboard"},
    ),
    "tune_joint_model_parameters": Utility(
        "train on four fifths of the images, evaluate on the rest; --grid searches settings",
        "tuning",
        (_TRAINING - {"resume"}) | {"grid", "rank_by"},
    ),
    "text_evaluation": Utility(
        "score word clusters: categories, concreteness, association",
        "evaluations",
        _WORDS | {"text_threshold", "other_captions"},
    ),
    "visual_evaluation": Utility(
        "score image clusters: classes, boxes, heatmaps, matching", "evaluations", _BOTH_HALVES
    ),
    "categorization_evaluation": Utility(
        "score the word clusters of a model or baseline against categories",
        "words",
        _BASELINE_WORDS,
    ),
    "association_evaluation": Utility(
        "score the word clusters of a model or baseline against word associations",
        "words",
        _BASELINE_WORDS,
    ),
    "concreteness_evaluation": Utility(
        "compare the concreteness of a model or baseline with human ratings",
        "words",
        _WORDS - {"word_list", "seed"} | {"model_type", "other_captions"},
    ),
    "train_text_only_baseline": Utility(
        "cluster words by their co-occurrence within captions",
        "evaluation.baseline_training",
        _WORDS - {"device"} | {"baseline_cluster_num", "overwrite"},
        default_name="text_only",
    ),
    "train_concreteness_supervised_model": Utility(
        "predict concreteness from word features by support vector regression",
        "evaluation.baseline_training",
        _WORDS - {"device", "word_list"}
        | {
            "conc_use_pos",
            "conc_use_suffix",
            "conc_use_embeddings",
            "wordnet_dir",
            "embeddings_file",
            "overwrite",
        },
        default_name="supervised_concreteness",
    ),
    "random_bbox_prediction_evaluation": Utility(
        "score random boxes, as many as there are gold boxes",
        "evaluation.random_guesses",
        _FILES | _DATA | {"seed"},
        default_name="random",
    ),
    "random_heatmap_evaluation": Utility(
        "score random points, as many as there are gold boxes",
        "evaluation.random_guesses",
        _FILES | _DATA | {"seed"},
        default_name="random",
    ),
    "clip_classification_evaluation": Utility(
        "classify the test images with CLIP's similarity to class names",
        "clip",
        _CLIP | {"clip_threshold"},
        default_name="clip",
    ),
    "find_clip_positive_threshold": Utility(
        "find CLIP's similarity threshold of best f1 on the training images",
        "clip",
        _CLIP,
        default_name="clip",
    ),
    "heatmap_demonstration": Utility(
        "draw class activation maps over test images, or over images of your own",
        "evaluation.demonstrations",
        _BOTH_HALVES - {"text_threshold"} | {"num_items", "images", "show"},
    ),
    "bbox_demonstration": Utility(
        "draw predicted and gold boxes on test images, or on images of your own",
        "evaluation.demonstrations",
        _BOTH_HALVES - {"text_threshold"} | {"num_items", "images", "show"},
    ),
    "word_clusters": Utility(
        "write every word's count, clusters, concreteness and category as CSV",
        "words",
        _BASELINE_WORDS,
    ),
    "describe_clusters": Utility(
        "describe every cluster by its words, size and example images",
        "questions",
        _BOTH_HALVES - {"seed"} | {"num_items", "other_captions"},
    ),
    "compare_models": Utility(
        "compare models over seeds in one table: text, CSV, Markdown and LaTeX",
        "comparison",
        _FILES | {"seed"},
        several_models=True,
    ),
    "report": Utility(
        "write one HTML page about a model: numbers, curves, clusters, words, pictures",
        "evaluation.report",
        _BOTH_HALVES | {"word_list", "num_items", "other_captions"},
    ),
    "predict": Utility(
        "print the clusters that given images and captions activate, as JSON lines",
        "questions",
        frozenset({"model_name", "models_dir", "datasets_dir", "images", "captions", "device"})
        | {"workers", "text_threshold", "visual_threshold", "batch_size"},
    ),
    "convert_published_model": Utility(
        "rewrite a model of the published program in this program's format",
        "models_src.conversion",
        frozenset({"model_name", "models_dir", "datasets_dir", "new_name", "overwrite"}),
    ),
    "filter_unwanted_coco_images": Utility(
        "find the images that training and evaluation leave out (run by setup.csh)",
        "datasets_src.filtering",
        frozenset({"datasets_dir", "dataset", "cache_dir", "write_to_log", "results_dir"}),
    ),
    "make_demo_dataset": Utility(
        "write an invented little world in COCO's layout",
        "datasets_src.demo_world",
        frozenset({"datasets_dir", "images", "seed", "write_to_log", "results_dir"}),
    ),
}


MEMORY_ADVICE = "give a smaller --batch_size, or --accumulate N in training"
LOGGED = ("train_joint_model", "tune_joint_model_parameters")  # whatever --write_to_log says
TOGETHER = ("train_joint_model", "visual_evaluation")  # what processes of torchrun can share


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one utility and return the exit status: 0 done, 2 the user's mistake, 130 Ctrl-C.

    Args:
        arguments: The command line's words; those of the process when None.
    """
    try:
        options = parse_options(arguments)
        utility = UTILITIES[options.utility]
        logs = options.write_to_log or options.utility in LOGGED
        has_results = {"model_name", "results_dir"} <= utility.reads
        of_one_model = has_results and not utility.several_models
        log_name = options.utility + (f"_{options.model_name}" if of_one_model else "") + ".log"
        if has_results:
            require_writable_folder(options.results_dir)
        if process_count() > 1 and options.utility not in TOGETHER:
            raise UserError(
                f"--utility {options.utility} runs in one process; start it without torchrun"
            )
        if process_rank() == 0:
            start_logging(options.results_dir / log_name if logs else None)
        else:
            silence_logging()
        if not options.show or "inline" in os.environ.get("MPLBACKEND", ""):
            os.environ.pop("MPLBACKEND", None)  # a notebook's: files need none
        inside = "" if "." in utility.module else "evaluation.utilities."
        module = importlib.import_module(inside + utility.module)
        getattr(module, options.utility)(options)
    except UserError as error:
        note_error(str(error))
        print(f"error: {error}", file=sys.stderr)
        return USER_MISTAKE
    except KeyboardInterrupt:
        if process_rank() == 0:
            print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # quiet to the end
        return FAILURE
    except Exception as error:
        # here and not by the interpreter, whose traceback would keep frames, with them a loader's
        # workers, and so this process alive
        if type(error).__name__ == "OutOfMemoryError":
            message = f"{' '.join(str(error).split())}; {MEMORY_ADVICE}"
            note_error(message)
            print(f"error: {message}", file=sys.stderr)
            return USER_MISTAKE
        note_error(traceback.format_exc())
        traceback.print_exc()
        return FAILURE
    finally:
        stop_logging()
    return 0


if __name__ == "__main__":
    sys.exit(main())
