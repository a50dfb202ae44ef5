"""What the report shows of a model, computed from its results and answers, and the page itself.

Axes: W words, K categories, C clusters, N inputs, E epochs, P predicted and G gold boxes.
"""

import base64
import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.reports import (
    CHANCE_SUFFIX,
    CURVES,
    EQUAL_GUESS_SUFFIX,
    flatten,
    format_value,
    format_word,
)
from utils.errors import UserError
from utils.files import read_text

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

TEMPLATES = Path(__file__).parent / "templates"
BY_COUNT = "_by_min_count"  # metrics with a row for each minimum count of words
OVERALL_R = f"concreteness.pearson{BY_COUNT}.0.r"  # the one of them that is a score of its own
GUESSING = {"sentence_image_matching.accuracy_half_ties": 0.5}  # chance by definition
MAX_BARS = 40  # of a histogram
MAX_CURVE_MARKS = 60  # epochs with a mark of their own
JPEG_QUALITY = 80
MAP_SHARE = 0.55  # of a class activation map laid over an image
# of plots, in units of their SVG
CHARACTER = 7.0  # width of one in a tick's label, on the safe side
TITLE_ROOM = 16  # beside the labels of an axis, for its title
CELL_SIDE = 15  # of a heat map
SHADES = 4  # of its cells: shares up to a quarter, a half, three quarters, and all


@dataclass(frozen=True)
class Axes:
    """The frame of a plot, in units of its SVG; y grows downwards."""

    width: int
    height: int
    left: int  # edges of the area that data is drawn in
    right: int
    top: int
    bottom: int
    x_ticks: tuple[tuple[float, str], ...]  # place and label
    y_ticks: tuple[tuple[float, str], ...]
    x_title: str
    y_title: str


@dataclass(frozen=True)
class Curve:
    """One metric over epochs."""

    label: str
    lines: tuple[str, ...]  # points of polylines, one for each stretch without a gap
    marks: tuple[tuple[float, float, str], ...]  # x, y and what to say of it


@dataclass(frozen=True)
class Panel:
    """Metrics that share a plot over epochs."""

    title: str
    axes: Axes
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Marks:
    """Points or bars in a frame: x, y and what to say of each."""

    axes: Axes
    marks: tuple[tuple[float, float, str], ...]
    bar_width: float = 0.0  # of a histogram


@dataclass(frozen=True)
class HeatMap:
    """How many words of each category each cluster has, ordered to show blocks."""

    rows: tuple[str, ...]  # category names
    columns: tuple[int, ...]  # clusters
    cells: tuple[tuple[int, int, int, int], ...]  # row, column, words, one of ``SHADES``
    left: float  # room for the names, in units of its SVG
    top: float  # room for the numbers of the clusters


# ---- numbers


def metric_rows(
    metrics: Mapping[str, Any], baselines: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return a row for each single metric, with its chance level where it has one.

    Metrics by minimum count have a table of their own (``concreteness_rows``); only Pearson's r
    over all rated words is a score here, too.

    Args:
        metrics: Of the model.
        baselines: Name -> metrics, as far as they were measured; each name is a column.
    """
    flat = flatten(metrics)
    others = {name: flatten(scores) for name, scores in baselines.items()}
    rows = []
    for name, value in flat.items():
        section, _, rest = name.partition(".")
        if section.endswith(CHANCE_SUFFIX) or (BY_COUNT in name and name != OVERALL_R):
            continue
        title = name.replace("_", " ").replace(".", ", ")
        chance = flat.get(
            f"{section}{EQUAL_GUESS_SUFFIX}.{rest}", flat.get(f"{section}{CHANCE_SUFFIX}.{rest}")
        )
        row = {
            "metric": "concreteness, Pearson r" if name == OVERALL_R else title,
            "value": value,
            "chance": GUESSING.get(name, chance),
            "is_count": isinstance(value, int),
        }
        rows.append(row | {baseline: scores.get(name) for baseline, scores in others.items()})
    return rows


def concreteness_rows(
    metrics: Mapping[str, Any], baselines: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return a row for each minimum count of words; none where concreteness was not measured.

    Args:
        metrics: Of the model.
        baselines: Name -> metrics; the Pearson r of those that have one is a column of that name.
    """
    flat = flatten(metrics)
    others = {name: flatten(scores) for name, scores in baselines.items()}
    scores = metrics.get("concreteness") or {}
    rows = []
    for count, pearson in scores.get(f"pearson{BY_COUNT}", {}).items():
        key = f"concreteness.{{}}{BY_COUNT}.{count}.r"
        row = {
            "min_count": int(count),
            "word_count": pearson["word_count"],
            "pearson": pearson["r"],
            "spearman": flat.get(key.format("spearman")),
            "frequency": flat.get(key.format("frequency_baseline")),
        }
        rows.append(
            row | {name: other.get(key.format("pearson")) for name, other in others.items()}
        )
    return rows


def difference_from_stored(
    stored: Any,
    settings: Mapping[str, Any],
    data: Mapping[str, Any],
    unmeasured: Mapping[str, str],
) -> str | None:
    """Return in what stored results differ from what would be measured now; None for nothing.

    Args:
        stored: The content of a results file; whatever it holds.
        settings: What the evaluation would record, as far as results depend on it; None for a
            setting that would not be recorded.
        data: What it would record of its data.
        unmeasured: The metrics that it could not measure, with reasons.
    """
    try:
        for name, value in settings.items():
            found = stored["settings"].get(name)
            if name == "origin":
                # earlier versions recorded less
                found, value = ({k: v for k, v in of.items() if v is not None}
                                for of in (found, value))  # fmt: skip
            if found != value:
                return "another model run" if name == "origin" else f"another {name}"
        if stored["data"] != data:
            is_known = data.keys() <= stored["data"].keys()
            return "other data" if is_known else "an earlier version, without a hash of its data"
        # the reasons name folders, which may be given in several ways
        if set(stored["not_measured"]) != set(unmeasured):
            return "other norms or instances"
        if not isinstance(stored["metrics"], dict):
            return "no metrics"
    except (KeyError, TypeError, AttributeError):
        return "no results of this version"
    return None


# ---- plots


def _axes(
    x: tuple[float, float],
    y: tuple[float, float],
    titles: tuple[str, str],
    *,
    width: int,
    height: int,
    whole_x: bool = False,
    x_ticks: Sequence[tuple[float, str]] | None = None,
) -> Axes:
    """Return a frame for data in two ranges, with margins that have room for all labels.

    Args:
        x: Range of the data to the right.
        y: Range of the data upwards.
        titles: Of both axes.
        width: Of the whole.
        height: Of the whole.
        whole_x: Whether ticks on x are whole numbers.
        x_ticks: Values and labels; None for round numbers, as on y.
    """
    if x_ticks is None:
        x_ticks = [(tick, f"{tick:g}") for tick in _ticks(*x, width // 60, whole=whole_x)]
    y_ticks = [(tick, f"{tick:g}") for tick in _ticks(*y, 4)]
    left = TITLE_ROOM + 8 + math.ceil(max((_width(label) for _, label in y_ticks), default=0))
    # a label's middle stands below its tick
    bounds = [
        left + (width - _width(label) / 2 - left) * (x[1] - x[0]) / (tick - x[0])
        for tick, label in x_ticks
        if tick > x[0]
    ]
    right = math.floor(min([width - 10, *bounds]))
    top, bottom = 10, height - 24 - TITLE_ROOM
    return Axes(
        width, height, left, right, top, bottom,
        tuple((_place(tick, *x, left, right), label) for tick, label in x_ticks),
        tuple((_place(tick, *y, bottom, top), label) for tick, label in y_ticks),
        *titles,
    )  # fmt: skip


def _width(label: str) -> float:
    """Return about how wide a tick's label is."""
    return CHARACTER * len(label)


def _powers(low: float, high: float) -> list[tuple[float, str]]:
    """Return ticks of a range of decimal logarithms: 1, 10, 100, ...; 2 and 5 in short ranges."""
    factors = (1,) if high - low >= 2 else (1, 2, 5)
    values = [
        factor * 10**power
        for power in range(math.floor(low), math.ceil(high))
        for factor in factors
    ]
    values.append(10 ** math.ceil(high))
    found = [(math.log10(value), f"{value:,}") for value in values]
    return [(place, label) for place, label in found if low <= place <= high]


def _ticks(low: float, high: float, count: int, *, whole: bool = False) -> list[float]:
    """Return about ``count`` round numbers between two."""
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(nbins=count, integer=whole, min_n_ticks=1).tick_values(low, high)
    slack = (high - low) * 1e-9
    return [float(f"{tick:.6g}") for tick in found if low - slack <= tick <= high + slack]


def _place(value: float, low: float, high: float, start: float, end: float) -> float:
    """Return where a value of a range lies between the places of the range's ends."""
    return round(start + (value - low) / (high - low) * (end - start), 1)


def _widened(values: Sequence[float]) -> tuple[float, float]:
    """Return a range around values that is never empty."""
    low, high = min(values), max(values)
    margin = (high - low) * 0.05 or abs(low) * 0.1 or 0.5
    # what cannot be negative gets no negative ticks
    return (max(low - margin, 0) if low >= 0 else low - margin), high + margin


def read_history(path: Path) -> dict[str, list[float | None]]:
    """Read ``evaluation_by_epoch.csv``: E values of each metric, None for empty cells.

    Raises:
        UserError: the file is missing or malformed.
    """
    rows = list(csv.reader(io.StringIO(read_text(path, "the table of metrics by epoch"))))
    try:
        if rows[0][0] != "metric":
            raise ValueError("header")
        history = {
            name: [float(cell) if cell else None for cell in cells] for name, *cells in rows[1:]
        }
        if any(len(values) != len(rows[0]) - 1 for values in history.values()):
            raise ValueError("cells")
    except (IndexError, ValueError):
        raise UserError(
            f"{path} is no table of metrics by epoch; delete it, or train the model again"
        ) from None
    return history


def read_development(path: Path) -> tuple[list[int], dict[str, list[float | None]]]:
    """Read ``development.csv``: the steps, and the model's values of each metric at them.

    Raises:
        UserError: the file is missing or malformed.
    """
    rows = csv.DictReader(io.StringIO(read_text(path, "the table of metrics by step")))
    found: dict[int, dict[str, float | None]] = {}
    try:
        for row in rows:
            if row["kind"] == "model":
                value = float(row["value"]) if row["value"] else None
                found.setdefault(int(row["step"]), {})[row["metric"]] = value
    except (KeyError, ValueError, TypeError, csv.Error):
        raise UserError(
            f"{path} is no table of metrics by step; delete it, or train the model again"
        ) from None
    names = dict.fromkeys(name for values in found.values() for name in values)
    return list(found), {name: [values.get(name) for values in found.values()] for name in names}


def curve_panels(
    history: Mapping[str, Sequence[float | None]], steps: Sequence[int] | None = None
) -> list[Panel]:
    """Return the panels of ``CURVES`` that have values.

    Args:
        history: P values of each metric.
        steps: (P,) the joint steps they were measured at, which stand at their logarithms; None
            for epochs from 1 on.
    """
    panels = []
    for panel in CURVES:
        drawn = {
            name: [v if v is not None and math.isfinite(v) else None for v in history[name]]
            for name in panel.metrics
            if name in history
        }
        found = [v for values in drawn.values() for v in values if v is not None]
        if not found:
            continue
        y = _widened(found)
        if steps is None:
            unit, numbers = "epoch", list(range(1, 1 + max(len(v) for v in drawn.values())))
            places: list[float] = [float(number) for number in numbers]
            x = 0.5, len(numbers) + 0.5
            axes = _axes(x, y, ("epoch", panel.y_label), width=300, height=196, whole_x=True)
        else:
            unit, numbers = "step", list(steps)
            places = [math.log10(step) for step in steps]
            x = places[0] - 0.1, places[-1] + 0.1
            titles = "joint step", panel.y_label
            axes = _axes(x, y, titles, width=300, height=196, x_ticks=_powers(*x))
        shown = {
            name: [
                (_place(place, *x, axes.left, axes.right),
                 None if value is None else _place(value, *y, axes.bottom, axes.top),
                 f"{panel.label(name)}, {unit} {number}: {format_value(value)}")
                for place, number, value in zip(places, numbers, values, strict=True)
            ]
            for name, values in drawn.items()
        }  # fmt: skip
        curves = tuple(_curve(panel.label(name), points) for name, points in shown.items())
        panels.append(Panel(panel.title, axes, curves))
    return panels


def _curve(label: str, points: Sequence[tuple[float, float | None, str]]) -> Curve:
    """Return a curve through points: x, y (None is a gap) and what to say of them."""
    lines: list[list[str]] = [[]]
    marks = []
    for left, top, text in points:
        if top is None:
            lines.append([])
            continue
        lines[-1].append(f"{left},{top}")
        marks.append((left, top, text))
    polylines = tuple(" ".join(line) for line in lines if len(line) > 1)
    # without a line, a mark is all there is to see
    shown = marks if len(points) <= MAX_CURVE_MARKS or not polylines else []
    return Curve(label, polylines, tuple(shown))


def scatter(
    words: Sequence[str], counts: np.ndarray, ratings: np.ndarray, predicted: np.ndarray
) -> Marks:
    """Draw a model's concreteness of words (W,), 0..1, over human ratings (W,), 1..5."""
    x, y = (0.9, 5.1), _widened([0.0, *predicted.tolist()])
    titles = "human rating, 1 (abstract) to 5 (concrete)", "largest cluster probability"
    axes = _axes(x, y, titles, width=640, height=376)
    marks = [
        (
            _place(rating, *x, axes.left, axes.right),
            _place(value, *y, axes.bottom, axes.top),
            f"{word}: rated {rating:.2f}, predicted {value:.3f}, count {count}",
        )
        for word, count, rating, value in zip(
            words, counts.tolist(), ratings.tolist(), predicted.tolist(), strict=True
        )
    ]
    return Marks(axes, tuple(marks))


def histogram(numbers: np.ndarray, what: str) -> Marks:
    """Draw how many inputs have how many clusters.

    Args:
        numbers: (N,) int64 clusters of each input, at least one input.
        what: The inputs' name in the plural.
    """
    step = math.ceil((int(numbers.max()) + 1) / MAX_BARS)  # numbers in one bar
    heights = np.bincount(numbers // step)
    x, y = (0.0, float(len(heights))), (0.0, heights.max() * 1.05)
    # the numbers stand below the bars' middles
    every = math.ceil(len(heights) / 8)
    ticks = [(bar + 0.5, str(bar * step)) for bar in range(0, len(heights), every)]
    titles = "activated clusters", f"test {what}"
    axes = _axes(x, y, titles, width=320, height=216, x_ticks=ticks)
    marks = []
    for bar, height in enumerate(heights.tolist()):
        first, last = bar * step, (bar + 1) * step - 1
        clusters = str(first) if step == 1 else f"{first} to {last}"
        place = _place(bar, *x, axes.left, axes.right), _place(height, *y, axes.bottom, axes.top)
        marks.append((*place, f"{height} {what} with {clusters} clusters"))
    return Marks(axes, tuple(marks), bar_width=(axes.right - axes.left) / len(heights))


# ---- words


def heat_map(categories: np.ndarray, clusters: np.ndarray, names: Sequence[str]) -> HeatMap:
    """Count the words of each category in each cluster.

    Categories stand by falling number of words (ties: the order of the names); a cluster stands
    with the category it has most words of (ties: the first in the order above), the largest first,
    so that blocks lie along the diagonal. Categories without words and empty clusters stay out.

    Args:
        categories: (W,) index of each word's category in ``names``.
        clusters: (W,) cluster of each word.
        names: K names.
    """
    rows, row_of = np.unique(categories, return_inverse=True)
    columns, column_of = np.unique(clusters, return_inverse=True)
    overlap = np.zeros((len(rows), len(columns)), dtype=np.int64)
    np.add.at(overlap, (row_of, column_of), 1)
    sizes = overlap.sum(axis=1)
    row_order = np.argsort(-sizes, kind="stable")
    overlap = overlap[row_order]
    if len(columns):
        column_order = np.lexsort((columns, -overlap.max(axis=0), overlap.argmax(axis=0)))
        overlap, columns = overlap[:, column_order], columns[column_order]
    cells = [
        (
            int(row),
            int(column),
            int(overlap[row, column]),
            int(-(-overlap[row, column] * SHADES // of_row)) - 1,
        )
        for row, of_row in enumerate(sizes[row_order].tolist())
        for column in np.flatnonzero(overlap[row])
    ]
    row_names = tuple(names[row] for row in rows[row_order])
    column_names = tuple(columns.tolist())
    return HeatMap(
        row_names,
        column_names,
        tuple(cells),
        left=TITLE_ROOM + 8 + max(map(_width, row_names), default=0),
        top=TITLE_ROOM + 8 + max((_width(str(column)) for column in column_names), default=0),
    )


def category_fit(categories: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Return for each word (W,) the F1 of its category and its cluster, as sets of these words."""
    together = (categories[:, None] == categories) & (clusters[:, None] == clusters)  # (W, W)
    of_category = (categories[:, None] == categories).sum(axis=1)
    of_cluster = (clusters[:, None] == clusters).sum(axis=1)
    fit: np.ndarray = 2 * together.sum(axis=1) / (of_category + of_cluster)
    return fit


def rank_differences(predicted: np.ndarray, ratings: np.ndarray) -> np.ndarray:
    """Return how much higher a model ranks each word (W,) than people do, in -1..1.

    Both ranks are shares of the words, 0 for the lowest and 1 for the highest; equal values share
    their mean rank. A single word has the difference 0.
    """
    from scipy.stats import rankdata

    higher: np.ndarray = rankdata(predicted) - rankdata(ratings)
    return higher / max(len(ratings) - 1, 1)


def extremes(scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return positions of the highest and of the lowest scores, ``count`` each, ties in order.

    With less than twice as many scores, each side has half of them: no position stands in both.
    """
    count = min(count, len(scores) // 2)
    return np.argsort(-scores, kind="stable")[:count], np.argsort(scores, kind="stable")[:count]


# ---- pictures


def localization_images(
    counts: np.ndarray | None, image_count: int, wanted: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Choose images whose boxes are shown: half of them at random, half of them the best others.

    Best are most hits (ties: fewest false alarms, then the first). Images without a hit are none of
    them; where no other image has one, or hits are not known, all are drawn at random.

    Args:
        counts: (N, 3) hits, false alarms and misses of each image; None where they are not known.
        image_count: N.
        wanted: How many images, at most.
        seed: Of the draw.

    Returns:
        Indices of the best, the best first, and of the images drawn at random, ascending.
    """
    wanted = min(wanted, image_count)
    order = np.random.default_rng(seed).permutation(image_count)
    drawn, others = np.sort(order[: wanted - wanted // 2]), np.sort(order[wanted - wanted // 2 :])
    best = others[:0]
    if counts is not None:
        ranked = others[np.lexsort((counts[others, 1], -counts[others, 0]))]
        best = ranked[counts[ranked, 0] > 0][: wanted // 2]
    return best, drawn if len(best) else np.sort(order[:wanted])


def data_uri(picture: "PillowImage") -> str:
    """Return a picture as a JPEG that stands in the page itself."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def with_map(picture: "PillowImage", map_: np.ndarray) -> "PillowImage":
    """Return an RGB picture with a class activation map (S, S) of the whole of it laid over it."""
    from matplotlib import colormaps
    from PIL import Image

    colours = colormaps["inferno"](np.clip(map_, 0, 1), bytes=True)[..., :3]  # (S, S, 3) uint8
    heat = Image.fromarray(np.ascontiguousarray(colours)).resize(picture.size)
    return Image.blend(picture, heat, MAP_SHARE)


# ---- the page


def _shown(value: Any) -> str:
    """Return a value as it stands in the page's tables."""
    return "\N{EN DASH}" if value is None else format_value(value)


def render_page(page: Mapping[str, Any]) -> str:
    """Return the HTML of a report; every text in it is escaped.

    Args:
        page: The names that the template reads; one that is missing is an error.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _shown
    environment.filters["word"] = format_word
    return environment.get_template("report.html").render(page)
