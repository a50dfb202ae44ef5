"""The report's pictures: plots as SVG that takes the page's colours, and images as data URIs."""

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from evaluation.reports import draw_panel, format_value, metric_panels

JPEG_QUALITY = 75
DARKEST = 0.3  # light where a class activation map is weakest
MAX_MARKS = 60  # places of a curve with a value to point at
QUIET = "#010203"  # stands for the page's own colour
COLOURS = {"#1f77b4": "var(--c0)", "#ff7f0e": "var(--c1)", "#2ca02c": "var(--c2)",
           "#d62728": "var(--c3)", QUIET: "var(--quiet)"}  # fmt: skip
COLOURED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "legend.frameon": False,
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(COLOURED, QUIET),
}


def as_svg(figure: Figure, name: str) -> Markup:
    """Return a figure for the page: colours by CSS, URLs of marks as texts to point at."""
    for axes in figure.axes:
        axes.patch.set_visible(False)
    figure.patch.set_visible(False)
    buffer = io.StringIO()
    empty = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context(STYLE | {"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=empty)
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' (xmlns(:xlink)?|width|height|version)="[^"]*"', "", svg, count=5)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r'<a xlink:href="([^"]*)"[^>]*>', r"<g><title>\1</title>", svg)
    svg = svg.replace("</a>", "</g>")
    for colour, variable in COLOURS.items():
        svg = svg.replace(colour, variable)
    label = html.escape(name, quote=True)
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))


def curves_svg(
    places: Sequence[int], history: Sequence[Mapping[str, float | None]], *, by_step: bool
) -> list[tuple[str, Markup]]:
    """Draw the learning curves: a title and a picture for each panel that has values.

    ``places`` are P epochs, or joint steps, which stand at their logarithms.
    """
    drawn = []
    unit = "joint step" if by_step else "epoch"
    for panel in metric_panels(history):
        with rc_context(STYLE):
            figure = Figure(figsize=(3.4, 2.5), layout="constrained")
            axes = figure.add_subplot()
            draw_panel(axes, panel, places, by_step=by_step)
            if axes.get_legend():
                axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, fontsize=7)
            for label, values in panel.curves.items() if len(places) <= MAX_MARKS else ():
                known = [(x, y) for x, y in zip(places, values, strict=True) if y is not None]
                texts = [f"{label}, {unit} {x}: {format_value(y)}" for x, y in known]
                axes.scatter([x for x, _ in known], [y for _, y in known], 30, alpha=0, urls=texts)
            drawn.append((panel.title, as_svg(figure, panel.title)))
    return drawn


def scatter_svg(words: Sequence[str], ratings: np.ndarray, predicted: np.ndarray) -> Markup:
    """Draw a model's concreteness of words (W,), 0..1, over human ratings (W,), 1..5."""
    texts = [
        f"{word}: rated {rating:.2f}, predicted {value:.2f}"
        for word, rating, value in zip(words, ratings, predicted, strict=True)
    ]
    with rc_context(STYLE):
        figure = Figure(figsize=(4.8, 3.2), layout="constrained")
        axes = figure.add_subplot()
        axes.scatter(ratings, predicted, s=14, alpha=0.55, c="#1f77b4", urls=texts)
        axes.set_xlabel("human rating, 1 (abstract) to 5 (concrete)")
        axes.set_ylabel("largest cluster probability")
        axes.set_xlim(0.9, 5.1)
        axes.grid(alpha=0.3)
        return as_svg(figure, "predicted against human concreteness")


def data_uri(picture: Image.Image) -> str:
    """Return a picture as a JPEG that stands in the page itself."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def with_map(picture: Image.Image, map_: np.ndarray) -> Image.Image:
    """Return an RGB picture, the darker the weaker the class activation map (h, w) of it is.

    A map of few cells is drawn cell by cell.
    """
    spread = np.ptp(map_)
    strength = (map_ - map_.min()) / (spread if spread > 0 else 1)  # (h, w) in 0..1
    light = np.uint8(255 * (DARKEST + (1 - DARKEST) * strength))
    smooth = Image.Resampling.BICUBIC if min(map_.shape) >= 7 else Image.Resampling.NEAREST
    mask = Image.fromarray(light).resize(picture.size, smooth)
    return Image.composite(picture, Image.new("RGB", picture.size), mask)
