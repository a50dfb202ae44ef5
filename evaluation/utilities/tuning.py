"""Search for settings of the joint model: train on part of the training data, score on the rest."""

import argparse
import contextlib
import hashlib
import json
import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.tuning import (
    Combination,
    TunedRun,
    command_line,
    described,
    grid_combinations,
    measured_metrics,
    ranked,
    ranking_csv,
    ranking_metric,
    ranking_table,
    read_grid,
)
from evaluation.utilities.common import (
    choose_device,
    evaluate_images,
    finish,
    load_both_halves,
    training_data,
    training_split,
    unmeasured_on_images,
    word_list_settings,
)
from models_src.settings import SETTINGS, TrainingSettings, read_config, setting_type
from utils.errors import UserError
from utils.files import (
    only_process,
    parse_json,
    require_writable_folder,
    sha256_of_file,
    write_json,
    write_text,
)

if TYPE_CHECKING:
    from datasets_src.holdout import DividedData
    from datasets_src.norms import Norms

STORE_VERSION = 1
KEY = r"[0-9a-f]{16}"  # the name of a combination's files

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Task:
    """What all combinations of a tuning have in common."""

    data: "DividedData"
    norms: "Norms"
    seed: int  # of the draw of held-out images, and of the evaluation's random choices
    source: dict[str, str | None]  # hashes of the data
    results: Path  # folder of stored results
    models: Path  # folder of checkpoints, and of models until they are evaluated


def tune_joint_model_parameters(options: argparse.Namespace) -> None:
    """Train on four fifths of the training images and evaluate on the rest, once or over a grid."""
    base, grid = _settings_and_grid(options)
    combinations = grid_combinations(grid, base, options.grid)
    seed = base.get("seed", options.seed)
    _require_pretrained_files(combinations)
    choose_device(options.device)
    task = _prepare(options, seed)
    not_measured = task.norms.absent | unmeasured_on_images(
        task.data.held_out, options.datasets_dir
    )
    # an unknown metric must not be found out after hours of training
    rank_by = ranking_metric(
        options.rank_by, measured_metrics(task.norms, task.data.held_out), not_measured
    )
    lock = options.models_dir / "tuning" / f"{options.model_name}.lock"
    with only_process(lock, f"the tuning of '{options.model_name}'"):
        if options.overwrite:
            _discard(task)
        runs = _run_all(options, task, combinations)
    for folder in (task.models / "text", task.models / "visual", task.models, task.models.parent):
        with contextlib.suppress(OSError):  # other trainings are left there
            folder.rmdir()
    pairs, held_out = task.data.pairs, task.data.held_out
    counts = {
        **training_data(pairs, task.norms),
        "held_out_images": len(held_out.image_ids),
        "held_out_captions": len(held_out.captions),
        "held_out_fingerprint": held_out.fingerprint(),
    }
    seeds = {"held_out_seed": seed, "evaluation_seed": seed}
    if options.grid is None:
        settings, metrics = combinations[0].settings.as_dict(), runs[0].metrics
        assert metrics is not None  # a failure has been raised
        finish(options, metrics, settings | seeds, counts, not_measured)
    else:
        varied = {"grid": grid, **seeds}
        _report_ranking(options, ranked(runs, rank_by), rank_by, varied, counts, not_measured)


def _settings_and_grid(
    options: argparse.Namespace,
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Return the settings of options and --config, and the grid (empty without one).

    Raises:
        UserError: a file is malformed, or options contradict each other.
    """
    given = {name: value for name, value in options.given.items() if name in SETTINGS}
    base = (read_config(options.config) if options.config is not None else {}) | given
    if options.grid is None:
        if options.rank_by is not None:
            raise UserError("--rank_by has no effect without --grid; leave it out, or give a grid")
        return base, {}
    grid = read_grid(options.grid)
    # --seed beside a grid of seeds is that of the held-out images
    twice = [f"--{name}" for name in grid if name in given and name != "seed"]
    if twice:
        raise UserError(
            f"{', '.join(twice)} is given on the command line and in {options.grid}; leave it out "
            "in one of them"
        )
    return base, grid


def _require_pretrained_files(combinations: Sequence[Combination]) -> None:
    """Raise a UserError when a file of pretrained weights is missing."""
    for path in {combination.settings.pretrained_visual for combination in combinations}:
        if path is not None and not Path(path).is_file():
            raise UserError(
                f"no file {path} for --pretrained_visual; download the weights and give their path"
            )


def _prepare(options: argparse.Namespace, seed: int) -> _Task:
    """Load and divide the data, and see that results can be written."""
    from datasets_src.holdout import divide_training_data
    from datasets_src.norms import load_norms

    results = options.results_dir / options.model_name / "tuning"
    models = options.models_dir / "tuning" / options.model_name
    for place in (models, results):
        require_writable_folder(place)
    split, filtered = training_split(options)
    data = divide_training_data(split, filtered, seed)
    norms = load_norms(options.datasets_dir, options.word_list)
    logger.info(
        "%d pairs of %d images and %d words to train on; %d images with %d captions held out "
        "(seed %d)",
        len(data.pairs),
        len(data.pairs.split.image_ids),
        len(data.pairs.vocabulary.words),
        len(data.held_out.image_ids),
        len(data.held_out.captions),
        seed,
    )
    source = data.fingerprint() | {
        "norms": norms.fingerprint(),
        "word_list": word_list_settings(options).get("word_list_sha256"),
    }
    return _Task(data, norms, seed, source, results, models)


def _run_all(
    options: argparse.Namespace, task: _Task, combinations: Sequence[Combination]
) -> list[TunedRun]:
    """Train and evaluate every combination that no stored result is there for.

    Raises:
        KeyboardInterrupt: what is finished is stored, the current training has a checkpoint.
    """
    runs: list[TunedRun] = []
    try:
        for number, combination in enumerate(combinations, start=1):
            identity = _identity(combination.settings, task)
            key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
            path = task.results / f"{key}.json"
            outcome = _stored(path, identity)
            logger.info(
                "combination %d of %d: %s%s",
                number,
                len(combinations),
                described(combination.chosen or combination.settings.as_dict()),
                "" if outcome is None else " (stored)",
            )
            if outcome is None:
                outcome = _train_and_evaluate(options, task, combination.settings, key)
                if not outcome.pop("passing", False):
                    write_json(path, {"identity": identity, **outcome})
            _remove_training(task.models, key)
            runs.append(TunedRun(combination, outcome["metrics"], outcome["failure"]))
    except KeyboardInterrupt:
        logger.info(
            "%d of %d results are stored; the same command (without --overwrite) continues",
            len(runs),
            len(combinations),
        )
        raise
    return runs


def _identity(settings: TrainingSettings, task: _Task) -> dict[str, Any]:
    """Return all that a result depends on, as plain values."""
    weights = settings.pretrained_visual
    values = {
        # files may give 0 where the command line gives 0.0
        name: float(value) if setting_type(SETTINGS[name])[0] is float else value
        for name, value in settings.as_dict().items()
    }
    return {
        "version": STORE_VERSION,
        "settings": values,
        "held_out_seed": task.seed,
        "data": task.source,
        "pretrained_weights": None if weights is None else sha256_of_file(Path(weights)),
    }


def _stored(path: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a stored result, or None where there is none of this identity."""
    try:
        content: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
        is_whole = content["identity"] == identity and {"metrics", "failure"} <= set(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        logger.warning("%s is damaged: its combination is trained anew", path)
        return None
    return content


def _train_and_evaluate(
    options: argparse.Namespace, task: _Task, settings: TrainingSettings, name: str
) -> dict[str, Any]:
    """Train a combination, or continue its training, and evaluate it.

    Returns:
        ``metrics``, and ``failure`` with the reason where a grid's training has no finite loss or
        runs out of a GPU's memory (then ``metrics`` is None): that such settings fail is a result
        as well, but for memory only of this time, which ``passing`` says.

    Raises:
        UserError: as ``train`` does; without a grid, also for a loss that is not finite.
        KeyboardInterrupt: a signal ended training.
    """
    import torch

    from evaluation.word_evaluation import predict_words, word_metrics
    from models_src.model_files import model_exists
    from models_src.training import LossNotFiniteError, RunOptions, train

    checkpoint = RunOptions(name, task.models).checkpoint_file
    has_begun = checkpoint.exists() or model_exists(task.models, name)
    run = RunOptions(
        name=name,
        models_dir=task.models,
        device=choose_device(options.device),
        workers=options.workers,
        resume=has_begun,
        overwrite=not has_begun,
        checkpoint_minutes=options.checkpoint_minutes,
        compile=options.compile,
        continue_with="the same command",
    )
    try:
        stopped = train(settings, task.data.pairs, run, None, lambda _history: None)
    except (LossNotFiniteError, torch.OutOfMemoryError) as error:
        _remove_training(task.models, name)
        if options.grid is None:
            raise
        reason = str(error).split("\n")[0]
        logger.warning("%s", reason)
        # another time, or on another machine, there may be memory enough
        passing = isinstance(error, torch.OutOfMemoryError)
        return {"metrics": None, "failure": reason, "passing": passing}
    if stopped:
        raise KeyboardInterrupt
    # thresholds and the like are those of the training
    given = {"workers": options.workers} if "workers" in options.given else {}
    found = {"models_dir": task.models, "model_name": name, "given": given}
    model = load_both_halves(argparse.Namespace(**(vars(options) | found)))
    words = predict_words(model.text, task.data.pairs.vocabulary)
    metrics = {
        **evaluate_images(model, task.data.held_out, task.seed).metrics,
        **word_metrics(words, task.norms, settings.text_threshold, task.seed),
    }
    return {"metrics": metrics, "failure": None}


def _remove_training(models_dir: Path, name: str) -> None:
    """Remove a combination's model and checkpoint, as far as they exist."""
    from models_src.model_files import remove_model
    from models_src.training import RunOptions

    remove_model(models_dir, name)
    RunOptions(name, models_dir).checkpoint_file.unlink(missing_ok=True)


def _discard(task: _Task) -> None:
    """Remove the stored results and unfinished trainings of earlier tunings of this name."""
    own = re.compile(rf"{KEY}\.(json|checkpoint|cfg|mdl)")
    for folder in (task.results, task.models, task.models / "text", task.models / "visual"):
        for path in folder.glob("*"):
            if own.fullmatch(path.name):
                path.unlink()


def _report_ranking(
    options: argparse.Namespace,
    runs: Sequence[TunedRun],
    rank_by: str,
    varied: Mapping[str, Any],
    counts: Mapping[str, Any],
    not_measured: Mapping[str, str],
) -> None:
    """Show the ranked runs of a grid as a table, and write them as CSV and JSON."""
    from evaluation.reports import write_results

    best = runs[0]
    common = {
        name: value
        for name, value in best.combination.settings.as_dict().items()
        if name not in best.combination.chosen
    }
    table = options.results_dir / options.model_name / "tuning.csv"
    write_text(table, ranking_csv(runs, rank_by))
    path = write_results(
        options.results_dir,
        options.utility,
        options.model_name,
        metrics={
            "rank_by": rank_by,
            "runs": [
                {
                    "rank": rank,
                    "settings": run.combination.settings.as_dict(),
                    "metrics": run.metrics,
                    "failure": run.failure,
                }
                for rank, run in enumerate(runs, start=1)
            ],
        },
        settings={**common, **varied, "dataset": options.dataset},
        data=counts,
        not_measured=not_measured,
    )
    logger.info("%d combinations by falling %s:", len(runs), rank_by)
    logger.info("%s", ranking_table(runs, rank_by))
    if best.value(rank_by) is None:
        logger.info("there is no best: %s is undefined for every combination", rank_by)
    else:
        value = best.value(rank_by)
        equals = sum(run.value(rank_by) == value for run in runs)
        if equals > 1:
            logger.info("%d combinations share the best value, and stand in their order", equals)
        words = ["python", "main.py", *_given_places(options)]
        words += command_line(best.combination.settings)
        logger.info("to train the best on all images: %s", shlex.join(words))
    logger.info("results: %s and %s", table, path)


def _given_places(options: argparse.Namespace) -> list[str]:
    """Return the options that a training of the best shares with its tuning, and a free name."""
    from models_src.model_files import model_exists

    name = options.model_name
    if model_exists(options.models_dir, name):
        name += "_tuned"
    places = ("datasets_dir", "dataset", "models_dir", "results_dir", "word_list",
              "device", "workers", "image_cache")  # fmt: skip
    words = [f"--model_name={name}"]
    words += [f"--{place}={options.given[place]}" for place in places if place in options.given]
    return words + (["--use_all_images"] if options.use_all_images else [])
