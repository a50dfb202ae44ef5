"""Tuning: train on four fifths of the training images, score on the rest, once or over a grid.

A grid is a mapping of setting names to the values to try; a combination takes one value of each.
The result of each combination is stored, so that the same command continues a search.
"""

import argparse
import difflib
import json
import logging
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from datasets_src.norms import Norms, load_norms
from datasets_src.pairs import TrainingPairs, divide_training_data
from datasets_src.splits import Split
from evaluation import inputs
from evaluation.joint_evaluation import evaluate_images
from evaluation.metrics_table import BY_PATH
from evaluation.reports import flatten, format_rows
from evaluation.results import save_results
from evaluation.word_evaluation import predict_words, word_metrics
from models_src.model_files import model_exists
from models_src.settings import SETTINGS, TrainingSettings, file_value, read_by_setting, read_config
from models_src.training import LossNotFiniteError, RunOptions, train
from utils.errors import UserError
from utils.files import (
    digest,
    only_process,
    read_json,
    reading,
    require_writable_folder,
    sha256_of_file,
    write_json,
    write_text,
)

# shown beside the metric that ranks: name -> heading; the first that is measured ranks by default
MAIN_METRICS = {
    "class_name_classification.f1": "class f1",
    "sentence_image_matching.accuracy": "matching",
    "categorization.all_words.f_score": "F, all words",
    "categorization.known_words.v_measure": "V, known words",
    "concreteness.pearson_by_min_count.0.r": "concr. r",
    "cluster_counts.active_clusters": "clusters",
    "activation.clusters_per_image": "per image",
}
LOWER_IS_BETTER = ("false_positives", "false_negatives", "mean_absolute_error", "pairs_not_found")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TunedRun:
    """A combination of settings, and what it scored."""

    chosen: dict[str, Any]  # the grid's settings
    settings: TrainingSettings  # all settings
    metrics: dict[str, Any] | None = None  # nested; None where it is not trained, or failed
    failure: str | None = None  # why it failed

    def value(self, name: str) -> float | None:
        """Return a metric by its dotted name; None where it is undefined."""
        return flatten(self.metrics or {}).get(name)


@dataclass(frozen=True)
class _Task:
    """What all combinations of a tuning have in common."""

    options: argparse.Namespace
    pairs: TrainingPairs
    held_out: Split
    norms: Norms
    seed: int  # of the draw of held-out images, and of the evaluation's random choices
    folder: Path  # of stored results, and of each model in a folder until it is evaluated


def tune_joint_model_parameters(options: argparse.Namespace) -> None:
    """Train on four fifths of the training images and evaluate on the rest, once or over a grid."""
    given = {name: value for name, value in options.given.items() if name in SETTINGS}
    base = (read_config(options.config) if options.config is not None else {}) | given
    grid = read_grid(options.grid) if options.grid is not None else {}
    # --seed beside a grid of seeds is that of the held-out images
    twice = [f"--{name}" for name in grid if name in given and name != "seed"]
    if twice:
        raise UserError(f"{', '.join(twice)} is given here and in {options.grid}; leave one out")
    combinations = grid_combinations(grid, base, options.grid)
    inputs.choose_device(options.device)
    folder = options.results_dir / options.model_name / "tuning"
    require_writable_folder(folder)
    seed = base.get("seed", options.seed)
    pairs, held_out = divide_training_data(inputs.training_split(options), seed)
    norms = load_norms(options.datasets_dir, options.word_list)
    counts = {
        **inputs.training_data(pairs, norms),
        "held_out_images": len(held_out.image_ids),
        "held_out_captions": len(held_out.captions),
        "held_out_fingerprint": held_out.fingerprint(),
    }
    logger.info(
        "%(train_captions)d pairs of %(train_images)d images to train on; %(held_out_images)d "
        "images with %(held_out_captions)d captions held out",
        counts,
    )
    not_measured = norms.absent | inputs.unmeasured_on_images(held_out, options.datasets_dir)
    rank_by = ranking_metric(options.rank_by, not_measured)
    task = _Task(options, pairs, held_out, norms, seed, folder)
    word_list = inputs.word_list_settings(options).get("word_list_sha256")
    data = counts | {"word_list": word_list, "held_out_seed": seed}
    identities = [data | _settings_identity(run.settings) for run in combinations]
    with only_process(folder.with_suffix(".lock"), f"the tuning of '{options.model_name}'"):
        if options.overwrite:
            for stale in folder.glob(f"{'[0-9a-f]' * 16}*"):
                shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
        runs: list[TunedRun] = []
        for run, identity in zip(combinations, identities, strict=True):
            logger.info("combination %d of %d:", len(runs) + 1, len(combinations))
            try:
                runs.append(_stored_or_trained(task, run, identity))
            except KeyboardInterrupt:
                logger.info(
                    "%d of %d results are stored; the same command (without --overwrite) continues",
                    len(runs),
                    len(combinations),
                )
                raise
            known = flatten(runs[-1].metrics or {})
            if known and rank_by not in known:
                near = difflib.get_close_matches(rank_by, known, n=5, cutoff=0.3)
                raise UserError(
                    f"--rank_by {rank_by} is no metric; did you mean {', '.join(near)}? The same "
                    "command with another --rank_by trains nothing again"
                )
    seeds = {"held_out_seed": seed, "evaluation_seed": seed}
    if options.grid is None:
        recorded = runs[0].settings.as_dict() | seeds
        save_results(options, runs[0].metrics or {}, recorded, counts, not_measured)
        return
    runs = ranked(runs, rank_by)
    ranking = ranking_table(runs, rank_by)
    path, best = folder.with_suffix(".csv"), folder.with_name("best.yaml")
    write_text(path, ranking.to_csv(index=False))
    headings = {name: text for name, text in MAIN_METRICS.items() if name != rank_by}
    shown = ranking.drop(columns="failure", errors="ignore").rename(columns=headings)
    stored = [{"rank": rank} | asdict(run) for rank, run in enumerate(runs, start=1)]
    common = {k: v for k, v in runs[0].settings.as_dict().items() if k not in grid}
    logger.info("%d combinations by falling %s:", len(runs), rank_by)
    save_results(
        options,
        {"rank_by": rank_by, "runs": stored},
        common | {"grid": grid, **seeds},
        counts,
        not_measured,
        table=format_rows(shown.to_dict("records")),
    )
    logger.info("the same as a table: %s", path)
    if runs[0].value(rank_by) is None:
        best.unlink(missing_ok=True)
        logger.info("there is no best: %s is undefined for every combination", rank_by)
    else:
        write_text(best, yaml.safe_dump(runs[0].settings.as_dict(), sort_keys=False))
        logger.info("to train the best on all images: %s", _training_command(options, best))


def read_grid(path: Path) -> dict[str, list[Any]]:
    """Read a grid from YAML; a single value counts as a list of one."""
    grid = {
        name: [
            file_value(SETTINGS[name], value, path)
            for value in (values if isinstance(values, list) else [values])
        ]
        for name, values in read_by_setting(path).items()
    }
    if not grid:
        raise UserError(f"{path} names no setting to search; write lines 'setting: [value, value]'")
    for name, values in grid.items():
        if not values or len(set(values)) < len(values):
            raise UserError(f"{name} in {path} needs one or more values, each once; correct it")
    return grid


def grid_combinations(
    grid: Mapping[str, Sequence[Any]], base: Mapping[str, Any], source: Path | None = None
) -> list[TunedRun]:
    """Return all combinations of a grid's values, not yet trained; an empty grid has one.

    ``base`` are the values of other settings, ``source`` is the grid's file.
    """
    combinations = []
    for values in product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        try:
            combinations.append(TunedRun(chosen, TrainingSettings(**{**base, **chosen})))
        except UserError as error:
            raise UserError(f"{error} (in {source}: {described(chosen)})") from None
    return combinations


def ranking_metric(wanted: str | None, not_measured: Mapping[str, str]) -> str:
    """Return the metric that ranks: the wanted one, else the first main one that is measured."""
    if wanted is None:
        return next(name for name in MAIN_METRICS if name.split(".")[0] not in not_measured)
    section, last = wanted.split(".")[0], wanted.split(".")[-1]
    if section in not_measured:
        raise UserError(
            f"--rank_by {wanted} is not measured: {not_measured[section]}; give another metric"
        )
    if last in LOWER_IS_BETTER:
        raise UserError(
            f"--rank_by {wanted} is lower for better models; give a metric that rises with quality"
        )
    if section == wanted:  # no metric is a section
        raise UserError(f"--rank_by {wanted} is no metric; there are {', '.join(BY_PATH)}")
    return wanted


def _settings_identity(settings: TrainingSettings) -> dict[str, Any]:
    """Return what the result of a combination depends on, beside the data."""
    weights = settings.pretrained_visual
    with reading(Path(weights or ""), "give the path of the weights as --pretrained_visual"):
        weights_hash = None if weights is None else sha256_of_file(Path(weights))
    numbers_alike = {  # files may give 0 where the command line gives 0.0
        name: float(value) if SETTINGS[name].type == "float" else value
        for name, value in settings.as_dict().items()
    }
    return {"settings": numbers_alike, "pretrained_weights": weights_hash}


def _stored_or_trained(task: _Task, run: TunedRun, identity: Mapping[str, Any]) -> TunedRun:
    """Return a run with its stored outcome, or train and evaluate it and store that.

    That a grid's settings fail is an outcome, too; but a lack of memory may pass.
    """
    key = digest(identity)[:16]
    path = task.folder / f"{key}.json"
    shown = described(run.chosen or run.settings.as_dict())
    logger.info("%s%s", shown, " (stored)" if path.exists() else "")
    if path.exists():
        with reading(path, "remove it to train its combination anew"):
            stored = read_json(path)
            outcome = {name: stored[name] for name in ("metrics", "failure")}
    else:
        may_pass = False
        try:
            outcome = {"metrics": _train_and_evaluate(task, run, key), "failure": None}
        except (LossNotFiniteError, torch.OutOfMemoryError) as error:
            if not run.chosen:
                raise
            outcome = {"metrics": None, "failure": str(error).split("\n")[0]}
            logger.warning("%s", outcome["failure"])
            may_pass = isinstance(error, torch.OutOfMemoryError)
        if not may_pass:
            write_json(path, {"identity": identity, **outcome})
    shutil.rmtree(task.folder / key, ignore_errors=True)
    return replace(run, **outcome)


def _train_and_evaluate(task: _Task, run: TunedRun, key: str) -> dict[str, Any]:
    """Train a combination, or continue its training, and return its metrics."""
    options = task.options
    run_options = RunOptions(
        name=key,
        models_dir=task.folder / key,
        device=inputs.choose_device(options.device),
        workers=options.workers,
        resume=True,
        checkpoint_minutes=options.checkpoint_minutes,
        compile=options.compile,
        continue_with="the same command",
    )
    if train(run.settings, task.pairs, run_options, None, lambda _history: None):
        raise KeyboardInterrupt
    # thresholds and the like are those of the training
    given = {"workers": options.workers} if "workers" in options.given else {}
    found = {"models_dir": task.folder / key, "model_name": key, "given": given}
    model = inputs.load_both_halves(argparse.Namespace(**(vars(options) | found)))
    words = predict_words(model.text, task.pairs.vocabulary)
    return {
        **evaluate_images(model, task.held_out, task.seed).metrics,
        **word_metrics(words, task.norms, run.settings.text_threshold, task.seed),
    }


def ranked(runs: Sequence[TunedRun], name: str) -> list[TunedRun]:
    """Return runs by falling metric; equal values in their order, undefined ones last."""
    return sorted(runs, key=lambda run: (run.value(name) is None, -(run.value(name) or 0)))


def ranking_table(runs: Sequence[TunedRun], rank_by: str) -> pd.DataFrame:
    """Return a row for each ranked run: rank, the grid's settings, the main metrics, its failure.

    Columns without any value are left out.
    """
    rows = [
        {"rank": rank}
        | {name: _written(value) for name, value in run.chosen.items()}
        | {name: run.value(name) for name in (rank_by, *MAIN_METRICS)}
        | {"failure": run.failure}
        for rank, run in enumerate(runs, start=1)
    ]
    return pd.DataFrame(rows, dtype=object).dropna(axis="columns", how="all")


def _training_command(options: argparse.Namespace, config: Path) -> str:
    """Return the command that trains the settings of a file on all images."""
    name = options.model_name
    if model_exists(options.models_dir, name):
        name += "_tuned"
    kept = ("datasets_dir", "dataset", "cache_dir", "models_dir", "results_dir", "word_list",
            "device", "workers", "image_cache")  # fmt: skip
    given = {"config": config, "model_name": name}
    given |= {option: options.given[option] for option in kept if option in options.given}
    words = [f"--{option}={value}" for option, value in given.items()]
    words += ["--use_all_images"] if options.use_all_images else []
    return shlex.join(["python", "main.py", *words])


def described(chosen: Mapping[str, Any]) -> str:
    """Return the values of a combination in a line."""
    return ", ".join(f"{name} {_written(value)}" for name, value in chosen.items())


def _written(value: Any) -> str:
    """Return a setting's value as a YAML file has it."""
    return value if isinstance(value, str) else json.dumps(value)
