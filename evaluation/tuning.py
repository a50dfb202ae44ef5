"""Search over training settings: the grid, its combinations, and their ranking.

A grid is a mapping of setting names to the values to try; a combination takes one value of each.
"""

import csv
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.reports import flatten, format_value
from models_src.settings import SETTINGS, TrainingSettings, file_value, read_by_setting
from utils.errors import UserError

if TYPE_CHECKING:
    from datasets_src.norms import Norms
    from datasets_src.splits import Split

MOST_COMBINATIONS = 10_000  # more is a slip: each is a training

# shown beside the metric that ranks: name -> heading in the printed table
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


@dataclass(frozen=True)
class Combination:
    """One point of a grid."""

    chosen: dict[str, Any]  # the grid's settings
    settings: TrainingSettings  # all settings


@dataclass(frozen=True)
class TunedRun:
    """A combination that was trained and evaluated."""

    combination: Combination
    metrics: dict[str, Any] | None  # nested; None where training failed
    failure: str | None  # why it failed

    def value(self, name: str) -> float | None:
        """Return a metric by its dotted name; None where it is undefined."""
        return flatten(self.metrics or {}).get(name)


def read_grid(path: Path) -> dict[str, list[Any]]:
    """Read a grid from YAML; a single value counts as a list of one.

    Raises:
        UserError: the file is missing or malformed, names unknown settings or none, or a list is
            empty or has a value that is not allowed or stands there twice.
    """
    grid = {
        name: [file_value(SETTINGS[name], value, path) for value in _as_list(values)]
        for name, values in read_by_setting(path).items()
    }
    if not grid:
        raise UserError(f"{path} names no setting to search; write lines 'setting: [value, value]'")
    for name, values in grid.items():
        if not values:
            raise UserError(f"{name} in {path} has an empty list; give it values or remove it")
        repeated = next((value for i, value in enumerate(values) if value in values[:i]), None)
        if repeated is not None or values.count(None) > 1:
            raise UserError(
                f"{name} in {path} has the value {written(repeated)} twice; keep one of them"
            )
    return grid


def _as_list(values: Any) -> list[Any]:
    """Return a list as it is, and anything else as a list of one."""
    return values if isinstance(values, list) else [values]


def grid_combinations(
    grid: Mapping[str, Sequence[Any]], base: Mapping[str, Any], source: Path | None = None
) -> list[Combination]:
    """Return all combinations of a grid's values; the first setting changes slowest.

    Args:
        grid: Setting -> values; an empty grid has one combination, that of ``base``.
        base: The values of other settings, where they are not the defaults.
        source: The grid's file, for error messages.

    Raises:
        UserError: there are too many, or the values of a combination do not go together.
    """
    count = math.prod(len(values) for values in grid.values())
    if count > MOST_COMBINATIONS:
        raise UserError(
            f"{source} has {count} combinations, and {MOST_COMBINATIONS} are the most; give fewer "
            "values"
        )
    combinations = []
    for values in itertools.product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        try:
            combinations.append(Combination(chosen, TrainingSettings(**{**base, **chosen})))
        except UserError as error:
            where = f" (in {source}: {described(chosen)})" if chosen else ""
            raise UserError(f"{error}{where}") from None
    return combinations


def measured_metrics(norms: "Norms", held_out: "Split") -> list[str]:
    """Return the dotted names of all metrics that norms and images allow, before any training.

    They are those of a model that predicts nothing for no word and no image.
    """
    import numpy as np

    from datasets_src.captions import Vocabulary
    from evaluation.image_evaluation import COUNTED_METRICS, image_metrics
    from evaluation.sentence_image_matching import matching_scores
    from evaluation.word_evaluation import WordPredictions, word_metrics

    no_words = Vocabulary((), np.zeros(0, dtype=np.int64))
    no_image = held_out.keep(np.zeros(len(held_out.image_ids), dtype=bool))
    nothing = np.zeros(0, dtype=np.int64)
    counts = None
    if held_out.instances is not None:
        counts = dict.fromkeys(COUNTED_METRICS, np.zeros((0, 3), dtype=np.int64))
    metrics = image_metrics(counts, no_image, seed=0)
    metrics["sentence_image_matching"] = matching_scores(np.zeros((0, 2), dtype=np.int8))
    metrics["activation"] = {"clusters_per_image": None, "clusters_per_caption": None}
    metrics |= word_metrics(
        WordPredictions(no_words.words, no_words.counts, nothing, np.zeros(0)), norms, 0, seed=0
    )
    return [
        name
        for section, values in metrics.items()
        if values is not None
        for name in flatten({section: values})
    ]


def ranking_metric(
    wanted: str | None, measured: Sequence[str], not_measured: Mapping[str, str]
) -> str:
    """Return the metric that ranks: the wanted one, else the first main metric that is measured.

    Args:
        wanted: A dotted name, or None.
        measured: All names there are, see ``measured_metrics``.
        not_measured: Section -> the reason why its metrics are not measured.

    Raises:
        UserError: there is no such metric, or it cannot be measured on this data.
    """
    if wanted is None:
        return next(name for name in MAIN_METRICS if name in measured)
    if wanted in measured and wanted.split(".")[-1] in LOWER_IS_BETTER:
        raise UserError(
            f"--rank_by {wanted} is lower for better models; give a metric that rises with quality"
        )
    if wanted in measured:
        return wanted
    section = wanted.split(".")[0]
    if section in not_measured:
        raise UserError(
            f"--rank_by {wanted} is not measured: {not_measured[section]}; give another metric"
        )
    of_section = [name for name in measured if name.split(".")[0] == section]
    known = of_section or [name for name in MAIN_METRICS if name in measured]
    raise UserError(
        f"--rank_by {wanted} is no metric; {'its names are' if of_section else 'there are'} "
        f"{', '.join(known)}{'' if of_section else ', and those of the evaluations'}"
    )


def ranked(runs: Sequence[TunedRun], name: str) -> list[TunedRun]:
    """Return runs by falling metric; equal values in their order, undefined ones last."""

    def key(run: TunedRun) -> tuple[bool, float]:
        value = run.value(name)
        return value is None, 0 if value is None else -value

    return sorted(runs, key=key)


def table_columns(runs: Sequence[TunedRun], rank_by: str) -> list[str]:
    """Return the metrics of a table: the one that ranks, then the main ones that are measured."""
    measured = {name for run in runs for name in flatten(run.metrics or {})}
    return [rank_by, *(name for name in MAIN_METRICS if name in measured and name != rank_by)]


def ranking_csv(runs: Sequence[TunedRun], rank_by: str) -> str:
    """Return ranked runs as CSV: rank, the grid's settings, metrics; empty where undefined."""
    columns = table_columns(runs, rank_by)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    has_failures = any(run.failure is not None for run in runs)
    reason = ["failure"] if has_failures else []
    writer.writerow(["rank", *runs[0].combination.chosen, *columns, *reason])
    for rank, run in enumerate(runs, start=1):
        values = [run.value(name) for name in columns]
        writer.writerow(
            [
                rank,
                *map(written, run.combination.chosen.values()),
                *("" if value is None else value for value in values),
                *([run.failure or ""] if has_failures else []),
            ]
        )
    return text.getvalue()


def ranking_table(runs: Sequence[TunedRun], rank_by: str) -> str:
    """Return ranked runs as a table for people."""
    columns = table_columns(runs, rank_by)
    head = ["rank", *runs[0].combination.chosen]
    head += [rank_by, *(MAIN_METRICS[name] for name in columns[1:])]
    rows = [
        [
            str(rank),
            *map(written, run.combination.chosen.values()),
            *(format_value(run.value(name)) for name in columns),
        ]
        for rank, run in enumerate(runs, start=1)
    ]
    widths = [max(map(len, cells)) for cells in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in [head, *rows]
    )


def command_line(settings: TrainingSettings) -> list[str]:
    """Return the options that give these settings without any file."""
    options = []
    for name, value in settings.as_dict().items():
        if value == SETTINGS[name].default:
            continue
        if isinstance(value, bool):
            options.append(f"--{name}" if value else f"--no-{name}")
        else:
            # with '=', since a value may begin with '-'
            options.append(f"--{name}={value}")
    return options


def described(chosen: Mapping[str, Any]) -> str:
    """Return the values of a combination in a line."""
    return ", ".join(f"{name} {written(value)}" for name, value in chosen.items())


def written(value: Any) -> str:
    """Return a setting's value as a YAML file has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
