"""Results for people and programs: tables, JSON files, rows by epoch, learning curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from evaluation.metrics_table import CHANCE_SUFFIX, EQUAL_GUESS_SUFFIX, METRICS, chance_level
from utils.files import reading, write_atomically, write_text


def format_value(value: Any) -> str:
    """Return a value as in tables: four decimals, whole numbers as such, '-' for None."""
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def format_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a readable table, a column for each entry."""
    return str(pd.DataFrame(rows, dtype=object).map(format_value).to_string(index=False))


def format_word(word: str) -> str:
    """Return a word as it stands among others: in quotes where it has no letter and no digit."""
    if any(letter.isalnum() for letter in word):
        return word
    return f"'{word}'" if '"' in word else f'"{word}"'


def format_metrics(metrics: Mapping[str, Any]) -> str:
    """Return nested metrics as a readable table, the key ones of ``METRICS`` first.

    A section with a counterpart named ``<section>_chance``, or ``<section>_equal_guess_chance``,
    shows it as a second column.
    """
    flat = flatten(metrics)
    key = [
        _row(f"  {metric.label}", flat[metric.path], chance_level(flat, metric.path))
        for metric in METRICS
        if metric.key and metric.path in flat
    ]
    lines = [_row("the figures that matter", "value", "chance"), *key, ""] if key else []
    for name, value in metrics.items():
        if not name.endswith(CHANCE_SUFFIX):
            chance = metrics.get(name + EQUAL_GUESS_SUFFIX, metrics.get(name + CHANCE_SUFFIX))
            lines += _section(name.replace("_", " "), value, chance)
    return "\n".join(lines)


def _row(label: str, *cells: Any, width: int = 44) -> str:
    return f"{label:<{width}}" + "".join(f"{format_value(cell):>12}" for cell in cells)


def _section(title: str, values: Any, chance: Any) -> list[str]:
    """Return the lines of one section; sections inside follow it."""
    if not isinstance(values, Mapping):
        return [f"{title}: {format_value(values) if values is not None else 'not measured'}"]
    if values and all(name.isdigit() for name in values):  # by minimum count: a row each
        head = [name.replace("_", " ") for name in next(iter(values.values()))]
        rows = [_row(f"  {count}", *row.values(), width=10) for count, row in values.items()]
        return [title, _row("", *head, width=10), *rows]
    chance = chance or {}
    inner = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    lines = []
    if len(inner) < len(values):
        lines.append(_row(title, "value", *(["chance"] if chance else [])))
    for name in (name for name in values if name not in inner):
        second = [chance.get(name)] if chance else []
        lines.append(_row(f"  {name.replace('_', ' ')}", values[name], *second))
    for name, value in inner.items():
        lines += _section(f"{title}, {name.replace('_', ' ')}", value, chance.get(name))
    return lines


def flatten(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float | None]:
    """Return nested metrics as one level with names joined by dots; None stays."""
    flat: dict[str, float | None] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def write_history(path: Path, history: Sequence[Mapping[str, float | None]]) -> None:
    """Write the table ``HISTORY``: a row per metric, a column per epoch, empty for None."""
    table = pd.DataFrame(history, index=range(1, len(history) + 1), dtype=object)
    write_text(path, table.T.to_csv(index_label="metric"))


def read_history(path: Path) -> list[dict[str, float | None]]:
    """Read what ``write_history`` wrote: the metrics of each epoch."""
    with reading(path, "delete it, or train the model again"):
        return _records(pd.read_csv(path, index_col="metric").T)


def read_development(path: Path) -> tuple[list[int], list[dict[str, float | None]]]:
    """Read the model's rows of ``development.csv``: the steps, and the metrics at each."""
    with reading(path, "delete it, or train the model again"):
        of_model = pd.read_csv(path).query("kind == 'model'")
        by_step = of_model.pivot(index="step", columns="metric", values="value")
        return by_step.index.tolist(), _records(by_step)


def _records(table: pd.DataFrame) -> list[dict[str, float | None]]:
    """Return numbers as a dict for each row, None for what is undefined."""
    table = table.astype(float).astype(object)
    records: list[dict[str, float | None]] = table.where(table.notna(), None).to_dict("records")
    return records


@dataclass(frozen=True)
class Panel:
    """One plot of a picture, with P values of each curve."""

    title: str
    y_label: str
    curves: Mapping[str, Sequence[float | None]]  # by label; None is a gap
    notes: Sequence[str] = ()  # P texts above the first curve's marks, or none


COUNT = "number of clusters"  # label of an axis of whole numbers
HISTORY = "evaluation_by_epoch.csv"
SMALL_PANELS = 4  # beside each other
_SCORES = ("v_measure", "adjusted_mutual_info", "f_score", "purity_collocation_f1")
# the panels of the learning curves: title, label of the y axis, metrics
CURVES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("visual loss", "loss", ("visual_loss",)),
    ("text loss", "loss", ("text_loss",)),
    ("clusters per input", "mean number", ("clusters_per_image", "clusters_per_caption")),
    ("inputs without cluster", "share of inputs",
     ("images_without_cluster", "captions_without_cluster")),
    ("clusters alive", COUNT, ("alive_image_clusters", "alive_caption_clusters")),
    ("agreement of images and captions", "Cohen's kappa", ("agreement",)),
    ("word categories (known words)", "score",
     tuple(f"categorization.known_words.{score}" for score in _SCORES)),
    ("word categories (all words)", "score",
     tuple(f"categorization.all_words.{score}" for score in _SCORES)),
    ("concreteness", "Pearson r",
     tuple(f"concreteness.pearson_by_min_count.{count}.r" for count in (0, 20, 100))),
    ("word association", "mean strength of pairs", ("word_association.mean_association_strength",)),
    ("clusters active for words", COUNT, ("cluster_counts.active_clusters",)),
    ("classes of images", "F1",
     ("class_name_classification.f1", "cluster_classification_co_occurrence.f1",
      "cluster_classification_iou.f1")),
    ("boxes and heatmaps", "F1",
     ("bounding_box.f1", "bounding_box_equal_guess_chance.f1", "heatmap.f1",
      "heatmap_equal_guess_chance.f1")),
    ("sentence-image matching", "accuracy", ("sentence_image_matching.accuracy",)),
)  # fmt: skip


def _curve_label(metric: str, title: str, metrics: Sequence[str]) -> str:
    """Return a metric's label in the legend; a metric alone bears the panel's title."""
    if len(metrics) == 1:
        return title
    parts = metric.split(".")
    if "pearson_by_min_count" in parts:
        return f"words with count > {parts[2]}"
    return parts[0 if parts[-1] == "f1" else -1].replace("_", " ")


def metric_panels(history: Sequence[Mapping[str, float | None]]) -> list[Panel]:
    """Return the panels of ``CURVES``, with the curves that have values."""
    panels = []
    for title, y_label, metrics in CURVES:
        curves = {
            _curve_label(name, title, metrics): [row.get(name) for row in history]
            for name in metrics
            if any(row.get(name) is not None for row in history)
        }
        if curves:
            panels.append(Panel(title, y_label, curves))
    return panels


def draw_learning_curves(
    path: Path, history: Sequence[Mapping[str, float | None]], title: str
) -> None:
    """Draw the metrics of ``CURVES`` over epochs as a PNG."""
    draw_curves(path, range(1, len(history) + 1), metric_panels(history), title)


def draw_curves(
    path: Path,
    places: Sequence[int],
    panels: Sequence[Panel],
    title: str,
    *,
    by_step: bool = False,
    small: bool = False,
) -> None:
    """Draw panels of curves over P epochs, or joint steps, ascending from 1 on, as a PNG.

    Steps stand at their logarithms. ``small`` panels have one scale of values.
    """
    columns = min(SMALL_PANELS if small else 2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(max(6, 3 + 3.5 * columns), 0.6 + 3 * rows), layout="constrained")
    figure.suptitle(title)
    for position, panel in enumerate(panels, start=1):
        first = figure.axes[0] if small and figure.axes else None
        axes = figure.add_subplot(rows, columns, position, sharey=first)
        axes.set_title(panel.title, fontsize=10)
        draw_panel(axes, panel, places, by_step=by_step)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))


def draw_panel(axes: Axes, panel: Panel, places: Sequence[int], *, by_step: bool) -> None:
    """Draw the curves of one panel, see ``draw_curves``; its title alone needs no legend."""
    for label, values in panel.curves.items():
        drawn = [float("nan") if value is None else value for value in values]
        axes.plot(places, drawn, marker="o", markersize=3, label=label)
    for x, y, note in zip(places, next(iter(panel.curves.values())), panel.notes, strict=False):
        if note and y is not None:
            axes.annotate(note, (x, y), (0, 4), textcoords="offset points", fontsize=7, ha="center")
    axes.set_xlabel("joint step" if by_step else "epoch")
    axes.set_ylabel(panel.y_label)
    if by_step:  # ticks at 1, 10, ...; in short runs at 2 and 5, too
        axes.set_xscale("log")
        axes.set_xlim(places[0] / 1.25, places[-1] * 1.25)
        is_short = places[-1] < 100 * places[0]
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_short else (1,)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{place:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(places[0] - 0.5, places[-1] + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if panel.y_label == COUNT:
        ticks = MaxNLocator(nbins=6, integer=True, min_n_ticks=1, steps=(1, 2, 5, 10))
        axes.yaxis.set_major_locator(ticks)
    if not any(value for values in panel.curves.values() for value in values):
        axes.set_ylim(-0.05, 1)  # a flat zero stands at the bottom
    axes.grid(alpha=0.3)
    if list(panel.curves) != [panel.title]:
        axes.margins(y=0.12)  # some room for the legend
        axes.legend(fontsize=8)
