"""Results for people and programs: tables, JSON files, rows by epoch, learning curves."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.files import write_atomically, write_json, write_text
from utils.provenance import provenance

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHANCE_SUFFIX = "_chance"
EQUAL_GUESS_SUFFIX = "_equal_guess_chance"  # where there is one, tables compare with it


def format_value(value: Any) -> str:
    """Return a value as it stands in tables: four decimals, whole numbers as such, '-' for None."""
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def format_word(word: str) -> str:
    """Return a word as it stands among others: in quotes where it has no letter and no digit."""
    if any(letter.isalnum() for letter in word):
        return word
    return f"'{word}'" if '"' in word else f'"{word}"'


def format_metrics(metrics: Mapping[str, Any]) -> str:
    """Return nested metrics as a readable table.

    Sections that have a counterpart named ``<section>_chance`` show it as a second column;
    where there is an ``<section>_equal_guess_chance``, too, that one.
    """
    lines: list[str] = []
    for name, value in metrics.items():
        if not name.endswith(CHANCE_SUFFIX):
            chance = metrics.get(name + EQUAL_GUESS_SUFFIX, metrics.get(name + CHANCE_SUFFIX))
            lines += _section(name.replace("_", " "), value, chance)
    return "\n".join(lines)


def _section(title: str, values: Any, chance: Any) -> list[str]:
    """Return the lines of one section; sections inside follow it."""
    if not isinstance(values, Mapping):
        return [f"{title}: {format_value(values) if values is not None else 'not measured'}"]
    if _is_table(values):
        return _table(title, values)
    scalars = {name: value for name, value in values.items() if not isinstance(value, Mapping)}
    lines = []
    if scalars:
        head = f"{title:<44}{'value':>12}"
        lines.append(head + (f"{'chance':>12}" if isinstance(chance, Mapping) else ""))
    for name, value in scalars.items():
        line = f"  {name.replace('_', ' '):<42}{format_value(value):>12}"
        if isinstance(chance, Mapping):
            line += f"{format_value(chance.get(name)):>12}"
        lines.append(line)
    for name, value in values.items():
        if isinstance(value, Mapping):
            inner = chance.get(name) if isinstance(chance, Mapping) else None
            lines += _section(f"{title}, {name.replace('_', ' ')}", value, inner)
    return lines


def _is_table(values: Mapping[str, Any]) -> bool:
    """Return whether all values are dicts of scalars under numeric names, as for minimum counts."""
    return bool(values) and all(
        name.isdigit() and isinstance(value, Mapping) for name, value in values.items()
    )


def _table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return dicts of scalars as a table with one column each."""
    names = list(next(iter(rows.values())))
    cells = [[row, *(format_value(values[name]) for name in names)] for row, values in rows.items()]
    head = ["", *(name.replace("_", " ") for name in names)]
    return [title] + [
        f"  {first:<8}" + "".join(f"{cell:>12}" for cell in rest) for first, *rest in [head, *cells]
    ]


def flatten(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float | None]:
    """Return nested metrics as one level with names joined by dots; absent sections are left out.

    A value that is None stays, so that every epoch has the same names.
    """
    flat: dict[str, float | None] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def write_results(
    results_dir: Path,
    utility: str,
    model_name: str,
    *,
    metrics: Mapping[str, Any],
    settings: Mapping[str, Any],
    data: Mapping[str, Any],
    not_measured: Mapping[str, str],
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a utility's results as JSON and return the file.

    ``provenance`` tells the program and libraries (see ``utils/provenance.py``) and, as ``model``,
    the training that an evaluated model comes from.

    Args:
        results_dir: The folder.
        utility: Its name.
        model_name: The model's name.
        metrics: Nested scores; None for what is undefined or not measured.
        settings: What the results depend on; ``origin`` among them is that of the model.
        data: Counts of the images and captions read, and whether they were filtered.
        not_measured: Metric -> reason, for metrics whose data is absent.
        extra: More top-level entries.
    """
    path = results_dir / f"{utility}_{model_name}.json"
    content = {
        "utility": utility,
        "model_name": model_name,
        "metrics": metrics,
        "settings": settings,
        "data": data,
        "not_measured": not_measured,
        "provenance": provenance() | {"model": settings.get("origin")},
        **(extra or {}),
    }
    write_json(path, content)
    return path


def by_image_file(results_dir: Path, utility: str, model_name: str) -> Path:
    """Return where ``write_by_image`` writes."""
    return results_dir / f"{utility}_{model_name}.npz"


def write_by_image(
    results_dir: Path, utility: str, model_name: str, arrays: Mapping[str, np.ndarray]
) -> None:
    """Write what a utility's image metrics are sums of, image by image, as a compressed ``.npz``.

    Args:
        results_dir: The folder.
        utility: Its name.
        model_name: The model's name.
        arrays: ``image_ids`` (N,) and under a metric's name (N, 3) true positives, false positives
            and false negatives; of matching, (M, 2) ``matching_image_ids`` and outcomes (see
            ``matching_outcomes``).
    """
    named: dict[str, Any] = dict(arrays)  # any type, for numpy also has an option of its own there
    write_atomically(
        by_image_file(results_dir, utility, model_name),
        lambda file: np.savez_compressed(file, **named),
    )


def write_history(path: Path, history: Sequence[Mapping[str, float | None]]) -> None:
    """Write ``evaluation_by_epoch.csv``: a row per metric, a column per epoch, empty for None."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["metric", *range(1, len(history) + 1)])
    for name in _metric_names(history):
        values = [row.get(name) for row in history]
        writer.writerow([name, *("" if value is None else value for value in values)])
    write_text(path, text.getvalue())


def _metric_names(history: Sequence[Mapping[str, float | None]]) -> list[str]:
    """Return the names of all rows, in order of first appearance."""
    return list(dict.fromkeys(name for row in history for name in row))


@dataclass(frozen=True)
class CurvePanel:
    """Metrics that share a plot."""

    title: str
    y_label: str
    metrics: tuple[str, ...]
    is_count: bool = False  # whether all values are whole numbers

    def label(self, metric: str) -> str:
        """Return a metric's label in the legend; a metric alone bears the panel's title."""
        if len(self.metrics) == 1:
            return self.title
        if metric.startswith("concreteness.pearson_by_min_count."):
            return f"words with count > {metric.split('.')[2]}"
        parts = metric.split(".")
        return parts[0 if parts[-1] == "f1" else -1].replace("_", " ")


def _of_words(words: str) -> tuple[str, ...]:
    """Return the categorization scores of ``known_words`` or ``all_words`` that are drawn."""
    scores = ("v_measure", "adjusted_mutual_info", "f_score", "purity_collocation_f1")
    return tuple(f"categorization.{words}.{score}" for score in scores)


# the panels of the learning curves
CURVES = (
    CurvePanel("visual loss", "loss", ("visual_loss",)),
    CurvePanel("text loss", "loss", ("text_loss",)),
    CurvePanel(
        "clusters per input",
        "mean number of clusters",
        ("clusters_per_image", "clusters_per_caption"),
    ),
    CurvePanel(
        "inputs without cluster",
        "share of inputs",
        ("images_without_cluster", "captions_without_cluster"),
    ),
    CurvePanel(
        "clusters alive",
        "number of clusters",
        ("alive_image_clusters", "alive_caption_clusters"),
        is_count=True,
    ),
    CurvePanel("agreement of images and captions", "Cohen's kappa", ("agreement",)),
    CurvePanel("word categories (known words)", "score", _of_words("known_words")),
    CurvePanel("word categories (all words)", "score", _of_words("all_words")),
    CurvePanel(
        "concreteness",
        "Pearson r",
        tuple(f"concreteness.pearson_by_min_count.{count}.r" for count in (0, 20, 100)),
    ),
    CurvePanel(
        "word association",
        "mean strength of pairs",
        ("word_association.mean_association_strength",),
    ),
    CurvePanel(
        "clusters active for words",
        "number of clusters",
        ("cluster_counts.active_clusters",),
        is_count=True,
    ),
    CurvePanel(
        "classes of images",
        "F1",
        (
            "class_name_classification.f1",
            "cluster_classification_co_occurrence.f1",
            "cluster_classification_iou.f1",
        ),
    ),
    CurvePanel(
        "boxes and heatmaps",
        "F1",
        (
            "bounding_box.f1",
            "bounding_box_equal_guess_chance.f1",
            "heatmap.f1",
            "heatmap_equal_guess_chance.f1",
        ),
    ),
    CurvePanel("sentence-image matching", "accuracy", ("sentence_image_matching.accuracy",)),
)


@dataclass(frozen=True)
class DrawnPanel:
    """One plot of a picture, with P values of each curve."""

    title: str
    y_label: str
    curves: Mapping[str, Sequence[float | None]]  # by label; None is a gap
    notes: Sequence[str] = ()  # P texts above the first curve's marks, or none
    is_count: bool = False


def draw_learning_curves(
    path: Path, history: Sequence[Mapping[str, float | None]], title: str
) -> None:
    """Draw the metrics of ``CURVES`` over epochs as a PNG."""
    draw_curves(path, range(1, len(history) + 1), metric_panels(history), title, "epoch")


def metric_panels(history: Sequence[Mapping[str, float | None]]) -> list[DrawnPanel]:
    """Return the panels of ``CURVES``, with the curves that have values."""
    panels = [
        DrawnPanel(
            panel.title,
            panel.y_label,
            {
                panel.label(name): [row.get(name) for row in history]
                for name in panel.metrics
                if any(row.get(name) is not None for row in history)
            },
            is_count=panel.is_count,
        )
        for panel in CURVES
    ]
    return [panel for panel in panels if panel.curves]


def draw_curves(
    path: Path,
    places: Sequence[int],
    panels: Sequence[DrawnPanel],
    title: str,
    x_label: str,
    *,
    columns: int = 2,
    logarithmic: bool = False,
    shared: bool = False,
) -> None:
    """Draw panels of curves as a PNG.

    Args:
        path: The picture.
        places: P whole numbers from 1 on, ascending, the x of all curves.
        panels: At least one. A panel with a single curve that bears the panel's own title has no
            legend.
        title: Of the whole.
        x_label: What the places are.
        columns: Panels beside each other.
        logarithmic: Whether places stand at their logarithms.
        shared: Whether all panels have one scale of values.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(max(6, 3 + 3.5 * columns), 0.6 + 3 * rows), layout="constrained")
    figure.suptitle(title)
    for position, panel in enumerate(panels, start=1):
        first = figure.axes[0] if shared and figure.axes else None
        axes = figure.add_subplot(rows, columns, position, sharey=first)
        for label, values in panel.curves.items():
            drawn = [float("nan") if value is None else value for value in values]
            axes.plot(places, drawn, marker="o", markersize=3, label=label)
        for x, y, note in zip(places, next(iter(panel.curves.values())), panel.notes, strict=False):
            if note and y is not None:
                axes.annotate(note, (x, y), (0, 4), textcoords="offset points", fontsize=7,
                              ha="center")  # fmt: skip
        axes.set_title(panel.title, fontsize=10)
        axes.set_xlabel(x_label)
        axes.set_ylabel(panel.y_label)
        _set_ticks(axes, places, logarithmic=logarithmic)
        if panel.is_count:
            ticks = MaxNLocator(nbins=6, integer=True, min_n_ticks=1, steps=(1, 2, 5, 10))
            axes.yaxis.set_major_locator(ticks)
        if not any(value for values in panel.curves.values() for value in values):
            axes.set_ylim(-0.05, 1)  # a flat zero stands at the bottom
        axes.grid(alpha=0.3)
        if list(panel.curves) != [panel.title]:
            axes.margins(y=0.12)  # some room for the legend
            axes.legend(fontsize=8)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))


def _set_ticks(axes: "Axes", places: Sequence[int], *, logarithmic: bool) -> None:
    """Set ticks at whole places; of logarithmic ones at 1, 10, ...; 2 and 5 in short runs."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(places[0] / 1.25, places[-1] * 1.25)
        is_short = places[-1] < 100 * places[0]
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_short else (1,)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{place:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(places[0] - 0.5, places[-1] + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
