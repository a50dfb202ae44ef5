"""Multimodal self-supervised clustering: the command line.

``python main.py --utility NAME [options]``; ``python main.py --help`` lists everything. This file
holds the options and the table of utilities. A utility's module is imported when it runs, so that
torch is imported only by those that need it.
"""

import argparse
import difflib
import importlib
import logging
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models_src.model_types import JOINT, MODEL_TYPES
from models_src.settings import SETTINGS, check_setting, setting_type
from utils.errors import UserError
from utils.files import require_writable_folder
from utils.log import note_error, silence_logging, start_logging, stop_logging
from utils.processes import process_count, process_rank

FAILURE, USER_MISTAKE, INTERRUPTED = 1, 2, 130
SEE_HELP = "see python main.py --help"
MEMORY_ADVICE = "give a smaller --batch_size, or --accumulate N in training"

logger = logging.getLogger(__name__)


def _number(kind: type, least: float) -> Callable[[str], Any]:
    """Return a reader of finite numbers from ``least`` on."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            what = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{text!r} is no {what}") from None
        if not math.isfinite(value) or value < least:
            bound = f" from {least} on" if math.isfinite(least) else ""
            raise argparse.ArgumentTypeError(f"{text} is no finite number{bound}")
        return value

    return read


def _hint(typed: str, known: Collection[str]) -> str:
    """Ask what a mistyped name may have been."""
    # "filter_coco" has all its parts in the name that is meant
    whole = [name for name in known if all(part in name for part in typed.split("_"))]
    near = whole[:3] or difflib.get_close_matches(typed, list(known), n=2, cutoff=0.7)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _name(pattern: str, advice: str) -> Callable[[str], str]:
    """Return a reader of names that a pattern fits."""

    def read(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"{text!r} is no name {advice}")
        return text

    return read


_FOR_FILES = "for files: use letters, digits, '.', '_' and '-'"
_model_name = _name(r"(?a:[\w-][\w.-]*)", _FOR_FILES)
_model_pattern = _name(r"(?a:[\w*?\[\]-][\w.*?\[\]-]*)", _FOR_FILES)  # as in a shell
_folder_name = _name(r"(?!\.\.?$)[^/\\\0]+", "of a folder; give it without a path")


@dataclass(frozen=True)
class Option:
    """An option beside the training settings; one with the default False is a switch."""

    default: Any
    help: str
    metavar: str | None = None
    kind: Callable[[str], Any] | None = None  # unless given, what the metavar says
    choices: Sequence[str] | None = None
    several: bool = False  # whether it takes one or more values


KINDS: dict[str | None, Callable[[str], Any]] = {
    "FILE": Path,
    "DIR": Path,
    "N": _number(int, 1),
    "X": _number(float, -math.inf),
}

# fmt: off
OPTIONS_BY_GROUP: dict[str, dict[str, Option]] = {
    "files": {
        "model_name": Option("model1", "name of the model to train or evaluate; compare_models "
            "takes several, and patterns such as 'lstm_*'", "NAME", _model_pattern, several=True),
        "datasets_dir": Option(Path("datasets"), "folder of the data", "DIR"),
        "models_dir": Option(Path("models"), "folder of trained models", "DIR"),
        "results_dir": Option(Path("results"), "folder for results, pictures and logs", "DIR"),
        "write_to_log": Option(False, "also append messages and tables to "
            "<results_dir>/<utility>_<model_name>.log; training and tuning always do"),
    },
    "data": {
        "dataset": Option("coco", "the captioned images: coco, flickr30k, or the name of a folder "
            "in --datasets_dir in COCO's layout", "NAME", _folder_name),
        "cache_dir": Option(None, "where setup's filter of images is kept (default: beside the "
            "data; where that folder cannot be written, cache/)", "DIR"),
        "use_all_images": Option(False, "ignore the images filter of setup"),
        "word_list": Option(None, "file with one word a line: only these are evaluated in "
            "categorization and association", "FILE"),
    },
    "training": {
        "config": Option(None, "YAML file of training settings; an option given on the command "
            "line wins over it", "FILE"),
        "resume": Option(False, "continue an interrupted training of this name from its "
            "checkpoint"),
        "overwrite": Option(False, "replace a model, or an unfinished training or tuning, of this "
            "name"),
        "seeds": Option(None, "train one model for each of these seeds, one after another, named "
            "<model_name>_<seed>", "N", _number(int, 0), several=True),
        "checkpoint_minutes": Option(30.0, "minutes between checkpoints within an epoch",
            "MINUTES", _number(float, 0.001)),
        "best_by": Option("agreement", "which epoch is kept as <model_name>_best: that with the "
            "highest agreement of image bits and caption bits (Cohen's kappa; epochs with random "
            "votes do not count), or with the highest f_score of all words of the category norms",
            choices=("agreement", "f_score")),
        "evaluate_every": Option(None, "also measure the word metrics every N joint steps, and "
            "denser at first: after 1, 2, 5, 10, 20, 50, ... of them. Rows go to "
            "<results_dir>/<model_name>/development.csv. With lstm and gru each row costs a "
            "reading of all training captions, with any encoder the metrics themselves; what is "
            "trained does not change", "N"),
        "words": Option(None, "words to follow one by one with --evaluate_every", "WORD",
            several=True),
        "evaluate_images": Option(None, "with --evaluate_every, also measure the image metrics, "
            "on the first N test images", "N"),
        "tensorboard": Option(False, "also write event files for TensorBoard, to "
            "<results_dir>/<model_name>/tensorboard; needs the package tensorboard"),
    },
    "running": {
        "device": Option("auto", "cpu, cuda or cuda:N; auto takes a GPU where there is one"),
        "workers": Option(min(2, os.cpu_count() or 1), "processes that read images ahead; 0 reads "
            "in the main process; unless given, an evaluation on a CPU takes no more than the "
            "cores beyond two", "N", _number(int, 0)),
        "compile": Option(False, "let torch.compile translate the CNN for this device before "
            "training: some minutes at the start for shorter steps; needs a C++ compiler on a CPU"),
        "image_cache": Option(None, "folder to keep resized images in, written as they are first "
            "read and used from then on; 0.15 MB an image at 224 pixels", "DIR"),
    },
    "demonstrations": {
        "num_items": Option(10, "number of test images to draw (in the report: with boxes), or of "
            "example images for each cluster", "N"),
        "images": Option(None, "image files of your own; for make_demo_dataset the number of "
            "training images instead (1500 unless given; a quarter of it is added for testing)",
            "FILE", str, several=True),
        "captions": Option(None, "captions of your own", "TEXT", several=True),
        "show": Option(False, "also open a window with the pictures"),
    },
    "baselines": {
        "model_type": Option(JOINT, "what is evaluated: a joint model, a trained baseline, random "
            "clusters, or word vectors of word2vec, BERT or CLIP", choices=tuple(MODEL_TYPES)),
        "baseline_cluster_num": Option(41, "clusters of the baselines (k-means, random); 41 is "
            "the number of categories", "N"),
        "w2v_file": Option(None, "word2vec vectors, binary or text, may be .gz (default: "
            "<datasets_dir>/GoogleNews-vectors-negative300.bin)", "FILE"),
        "bert_dir": Option(None, "folder of a BERT model for transformers (default: "
            "<datasets_dir>/bert-base-uncased)", "DIR"),
        "clip_dir": Option(None, "folder of a CLIP model for transformers (default: "
            "<datasets_dir>/clip-vit-base-patch32)", "DIR"),
        "clip_threshold": Option(None, "similarity from which CLIP finds a class in an image "
            "(default: what find_clip_positive_threshold found for this model)", "X"),
        "conc_use_pos": Option(False, "predict concreteness from parts of speech in WordNet"),
        "conc_use_suffix": Option(False, "predict concreteness from word endings"),
        "conc_use_embeddings": Option(False, "predict concreteness from fastText vectors"),
        "wordnet_dir": Option(Path("/usr/share/wordnet"), "folder of WordNet's index.noun, "
            "index.verb, index.adj and index.adv", "DIR"),
        "embeddings_file": Option(None, "fastText vectors, text or binary, may be .gz (default: "
            "<datasets_dir>/wiki-news-300d-1M.vec)", "FILE"),
    },
    "tuning": {
        "grid": Option(None, "YAML file with a list of values for each setting to search", "FILE"),
        "rank_by": Option(None, "metric that ranks the settings, its names joined by dots "
            "(default: class_name_classification.f1, or sentence_image_matching.accuracy without "
            "instances)", "METRIC"),
    },
    "published models": {
        "new_name": Option(None, "name of the converted model (default: <model_name>_converted)",
            "NAME", _model_name),
    },
}
# fmt: on
OPTIONS = {name: option for group in OPTIONS_BY_GROUP.values() for name, option in group.items()}


@dataclass(frozen=True)
class Utility:
    """One thing the program does."""

    module: str  # has a function of the utility's name
    help: str
    reads: str = ""  # options that have an effect on it, beside the common ones
    default_name: str | None = None  # of --model_name, where it is not the usual one
    several_models: bool = False  # whether --model_name takes several names and patterns
    has_results: bool = True  # whether it writes to --results_dir


# one list of these serves a whole script: any utility takes them, whether it reads them or not
COMMON = {"model_name", "datasets_dir", "models_dir", "results_dir", "write_to_log", "dataset",
          "cache_dir", "use_all_images", "seed", "device", "workers", "batch_size"}  # fmt: skip
_IMAGES = "image_cache text_threshold visual_threshold"
_WORDS = "word_list model_type baseline_cluster_num w2v_file bert_dir clip_dir"
_TRAINING = (
    f"{' '.join(SETTINGS)} config overwrite checkpoint_minutes compile image_cache word_list"
)

# fmt: off
UTILITIES: dict[str, Utility] = {
    "train_joint_model": Utility("evaluation.joint_training",
        "train both encoders on image-caption pairs",
        f"{_TRAINING} resume seeds best_by evaluate_every evaluate_images words tensorboard"),
    "tune_joint_model_parameters": Utility("evaluation.tuning",
        "train on four fifths of the images, evaluate on the rest; --grid searches settings",
        f"{_TRAINING} grid rank_by"),
    "text_evaluation": Utility("evaluation.joint_evaluation",
        "score word clusters: categories, concreteness, association",
        "word_list text_threshold"),
    "visual_evaluation": Utility("evaluation.joint_evaluation",
        "score image clusters: classes, boxes, heatmaps, matching", _IMAGES),
    "categorization_evaluation": Utility("evaluation.words",
        "score the word clusters of a model or baseline against categories", _WORDS),
    "association_evaluation": Utility("evaluation.words",
        "score the word clusters of a model or baseline against word associations", _WORDS),
    "concreteness_evaluation": Utility("evaluation.words",
        "compare the concreteness of a model or baseline with human ratings",
        "model_type"),
    "train_text_only_baseline": Utility("evaluation.baseline_training",
        "cluster words by their co-occurrence within captions",
        "word_list baseline_cluster_num overwrite", default_name="text_only"),
    "train_concreteness_supervised_model": Utility("evaluation.baseline_training",
        "predict concreteness from word features by support vector regression",
        "conc_use_pos conc_use_suffix conc_use_embeddings wordnet_dir embeddings_file overwrite",
        default_name="supervised_concreteness"),
    "random_bbox_prediction_evaluation": Utility("evaluation.random_guesses",
        "score random boxes, as many as there are gold boxes", default_name="random"),
    "random_heatmap_evaluation": Utility("evaluation.random_guesses",
        "score random points, as many as there are gold boxes", default_name="random"),
    "clip_classification_evaluation": Utility("evaluation.clip_classification",
        "classify the test images with CLIP's similarity to class names",
        "clip_dir clip_threshold", default_name="clip"),
    "find_clip_positive_threshold": Utility("evaluation.clip_classification",
        "find CLIP's similarity threshold of best f1 on the training images",
        "clip_dir", default_name="clip"),
    "heatmap_demonstration": Utility("evaluation.demonstrations",
        "draw class activation maps over test images, or over images of your own",
        "image_cache visual_threshold num_items images show"),
    "bbox_demonstration": Utility("evaluation.demonstrations",
        "draw predicted and gold boxes on test images, or on images of your own",
        "image_cache visual_threshold num_items images show"),
    "word_clusters": Utility("evaluation.words",
        "write every word's count, clusters, concreteness and category as CSV", _WORDS),
    "describe_clusters": Utility("evaluation.questions",
        "describe every cluster by its words, size and example images",
        f"{_IMAGES} num_items"),
    "compare_models": Utility("evaluation.comparison",
        "compare models over seeds in one table: text, CSV, Markdown and LaTeX",
        several_models=True),
    "report": Utility("evaluation.report",
        "write one HTML page about a model: numbers, curves, clusters, words, pictures",
        f"{_IMAGES} word_list num_items"),
    "predict": Utility("evaluation.questions",
        "print the clusters that given images and captions activate, as JSON lines",
        "images captions text_threshold visual_threshold", has_results=False),
    "convert_published_model": Utility("models_src.conversion",
        "rewrite a model of the published program in this program's format",
        "new_name overwrite", has_results=False),
    "filter_unwanted_coco_images": Utility("datasets_src.filtering",
        "find the images that training and evaluation leave out (run by setup.csh)",
        has_results=False),
    "make_demo_dataset": Utility("datasets_src.demo_world",
        "write an invented little world in COCO's layout", "images", has_results=False),
}
# fmt: on
LOGGED = ("train_joint_model", "tune_joint_model_parameters")  # whatever --write_to_log says
TOGETHER = ("train_joint_model", "visual_evaluation")  # what processes of torchrun can share


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, as all of the program's."""

    def error(self, message: str) -> Any:
        raise UserError(f"{message}; {SEE_HELP}")


def build_parser() -> argparse.ArgumentParser:
    """Return the one parser of the program; options that are not given are absent from results."""
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
        metavar="NAME",
        help="what to do, see the list below (default: train_joint_model)",
    )
    groups = {group: dict(options) for group, options in OPTIONS_BY_GROUP.items()}
    for name, setting in SETTINGS.items():
        kind, _ = setting_type(setting)
        metavar = "FILE" if name == "pretrained_visual" else {int: "N", float: "X"}.get(kind)
        about = setting.metadata
        option = Option(setting.default, about["help"], metavar, kind, about["choices"])
        groups.setdefault(about["group"], {})[name] = option
    for title, options in groups.items():
        group = parser.add_argument_group(title)
        for name, option in options.items():
            text = option.help.replace("%", "%%")
            if "(default: " not in text:
                text += f" (default: {option.default})"
            details: dict[str, Any] = {"type": option.kind or KINDS.get(option.metavar, str)}
            details |= {"choices": option.choices, "nargs": "+" if option.several else None}
            details |= {"metavar": None if option.choices else option.metavar}
            if option.default is False or option.kind is bool:
                switch = argparse.BooleanOptionalAction if name in SETTINGS else "store_true"
                details = {"action": switch}
            group.add_argument(f"--{name}", help=text, **details)
    return parser


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return all options with their defaults; ``given`` holds those the user gave."""
    known, unknown = build_parser().parse_known_args(arguments)
    if unknown:
        typed = next((word for word in unknown if word.startswith("-")), unknown[0])
        hint = _hint(typed.partition("=")[0], [f"--{name}" for name in [*OPTIONS, *SETTINGS]])
        raise UserError(f"unrecognized arguments: {' '.join(unknown)}{hint}; {SEE_HELP}")
    given = vars(known)
    name = given.pop("utility", "train_joint_model")
    if name not in UTILITIES:
        raise UserError(f"there is no utility '{name}'{_hint(name, UTILITIES)}; {SEE_HELP}")
    utility = UTILITIES[name]
    for option, value in given.items():
        if option in SETTINGS:
            check_setting(SETTINGS[option], value)
    model_names = given.get("model_name", [OPTIONS["model_name"].default])
    if "model_name" in given and not utility.several_models:
        if len(model_names) > 1:
            raise UserError(f"--utility {name} takes one --model_name, not {len(model_names)}")
        try:
            given["model_name"] = _model_name(model_names[0])
        except argparse.ArgumentTypeError as error:
            raise UserError(f"--model_name {error}") from None
    if given.get("resume") and given.get("overwrite"):
        raise UserError("--resume continues a training, --overwrite starts it anew; give one")
    defaults: dict[str, Any] = {option: about.default for option, about in OPTIONS.items()}
    defaults |= {setting: about.default for setting, about in SETTINGS.items()}
    # without a name of its own, a baseline must not take the place of the joint model
    model_type = given.get("model_type", JOINT)
    if utility.default_name or model_type != JOINT:
        defaults["model_name"] = utility.default_name or model_type
    several = {"model_names": model_names} if utility.several_models else {}
    return argparse.Namespace(**(defaults | given), **several, utility=name, given=given)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one utility and return the exit status: 0 done, 2 the user's mistake, 130 Ctrl-C."""
    try:
        options = parse_options(arguments)
        utility = UTILITIES[options.utility]
        os.environ.pop("MPLBACKEND", None)  # a notebook's, which need not be here: files need none
        if process_count() > 1 and options.utility not in TOGETHER:
            raise UserError(f"{options.utility} runs in one process; start it without torchrun")
        if utility.has_results:
            require_writable_folder(options.results_dir)
        logs = options.write_to_log or options.utility in LOGGED
        is_named = utility.has_results and not utility.several_models
        log = options.utility + (f"_{options.model_name}" if is_named else "") + ".log"
        if process_rank() == 0:
            start_logging(options.results_dir / log if logs else None)
        else:
            silence_logging()
        idle = [f"--{name}" for name in options.given.keys() - COMMON - set(utility.reads.split())]
        if idle:
            logger.warning("no effect on %s: %s", options.utility, ", ".join(sorted(idle)))
        getattr(importlib.import_module(utility.module), options.utility)(options)
    except UserError as error:
        return _tell_mistake(str(error))
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
            return _tell_mistake(f"{' '.join(str(error).split())}; {MEMORY_ADVICE}")
        note_error(traceback.format_exc())
        traceback.print_exc()
        return FAILURE
    finally:
        stop_logging()
    return 0


def _tell_mistake(message: str) -> int:
    note_error(message)
    print(f"error: {message}", file=sys.stderr)
    return USER_MISTAKE


if __name__ == "__main__":
    sys.exit(main())
