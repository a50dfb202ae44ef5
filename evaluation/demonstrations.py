"""Pictures of what a model sees: class activation maps and the boxes they give.

Axes: N images, A activated clusters of one image, G gold boxes, P labels of one picture.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets_src.coco import Split
from datasets_src.images import open_rgb
from datasets_src.pairs import ImageSource
from evaluation.cluster_tables import class_names_by_cluster
from evaluation.image_evaluation import MAP_SIZE, VisualModel, activated_maps
from evaluation.localization import component_boxes, gold_boxes, peak_points, upsampled_maps
from evaluation.reports import format_word
from utils.errors import UserError
from utils.files import write_atomically
from utils.progress import with_bar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# of predicted boxes, the strongest cluster's first; none of them is like gold's
PREDICTED_COLOURS = (
    "#d70015",  # red
    "#0a5cff",  # blue
    "#ff9500",  # orange
    "#8a2be2",  # violet
    "#00d5f5",  # cyan
    "#ff6ec7",  # pink
    "#fff04d",  # yellow
    "#7a4a1e",  # brown
)
GOLD_COLOUR = "#34c759"
KEY_COLOUR = "#5f6368"  # of predicted boxes in the legend, where they have no colour of their own
DPI = 110
LARGEST_SIDE = 1200  # pixels of an image in a picture; larger ones are shrunk
MAX_PANELS = 11  # heatmaps in one picture; an untrained model may activate every cluster
MAX_BOXES = len(PREDICTED_COLOURS)  # predicted boxes in one picture
PANEL_SIDE, NARROWEST_PANEL = 3.0, 2.4  # inches of a heatmap's longer side, and its least width
TITLE_WIDTH, TITLE_LINES = 34, 4  # characters in a line of a title, and lines
TITLE_LINE_HEIGHT = 0.145  # inches
LABEL_WIDTH = 28  # characters at a box
LABEL_PAD = 0.2  # space around the text at a box, in font sizes
FONT_SIZE = 8
LABEL_WORDS = 3


@dataclass(frozen=True)
class ClusterLabel:
    """What a cluster is called in pictures."""

    cluster: int
    class_names: tuple[str, ...]  # whose most probable cluster it is
    words: tuple[str, ...]  # its most probable words, at most LABEL_WORDS

    def full(self) -> str:
        """Return number, class names and words."""
        names = f": {', '.join(self.class_names)}" if self.class_names else ""
        words = f" ({self._words()})" if self.words else ""
        return f"cluster {self.cluster}{names}{words}"

    def short(self) -> str:
        """Return the number with the class names, or with the words where there are none."""
        if self.class_names:
            text = f"{self.cluster}: {', '.join(self.class_names)}"
        elif self.words:
            text = f"{self.cluster} ({self._words()})"
        else:
            text = str(self.cluster)
        return text if len(text) <= LABEL_WIDTH else text[: LABEL_WIDTH - 1] + "…"

    def _words(self) -> str:
        """Return the words as a list in which a comma can be one of them."""
        return ", ".join(map(format_word, self.words))


@dataclass(frozen=True)
class GoldObjects:
    """The annotated objects of one image."""

    boxes: np.ndarray  # (G, 4) int64 [left, top, right, bottom] on MAP_SIZE
    class_names: tuple[str, ...]  # G


def cluster_labels(
    top_words: Sequence[Sequence[str]], class_names: Sequence[str], cluster_of_class: np.ndarray
) -> list[ClusterLabel]:
    """Return a label for each cluster.

    Args:
        top_words: For each of C clusters its words, the most probable first.
        class_names: K names; none where they are not known.
        cluster_of_class: (K,) cluster of each class name, negative for none.
    """
    names = class_names_by_cluster(class_names, cluster_of_class, len(top_words))
    return [
        ClusterLabel(cluster, tuple(its_names), tuple(words[:LABEL_WORDS]))
        for cluster, (its_names, words) in enumerate(zip(names, top_words, strict=True))
    ]


def choose_images(split: Split, count: int, seed: int) -> np.ndarray:
    """Return indices of ``count`` images (or all, where there are fewer), ascending."""
    rng = np.random.default_rng(seed)
    image_count = len(split.image_ids)
    return np.sort(rng.permutation(image_count)[: min(count, image_count)])


def picture_names(files: Sequence[Path]) -> list[str]:
    """Return a file name for the picture of each image file: its stem, made unique, as PNG.

    Names that differ only in case count as equal, as they are on some file systems.
    """
    taken: set[str] = set()
    names = []
    for file in files:
        name, number = file.stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{file.stem}_{number}"
        taken.add(name.casefold())
        names.append(f"{name}.png")
    return names


def gold_objects(split: Split, image: int) -> GoldObjects | None:
    """Return the annotated objects of the image with this index; None without instances."""
    instances = split.instances
    if instances is None:
        return None
    rows = np.flatnonzero(instances.image == image)
    boxes, names = [], []
    for row in rows:
        box, name = instances.boxes[row].tolist(), instances.class_names[instances.class_index[row]]
        if instances.has_own_box is None or instances.has_own_box[row]:
            boxes.append(box)
            names.append(name)
        else:  # another class of a box that is there
            names[boxes.index(box)] += f", {name}"
    scaled = gold_boxes(
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        int(split.widths[image]),
        int(split.heights[image]),
        MAP_SIZE,
    )
    return GoldObjects(scaled, tuple(names))


def require_window() -> None:
    """See that matplotlib can open a window, before long work begins.

    Raises:
        UserError: there is no display, or matplotlib's backend only writes files.
    """
    try:
        from matplotlib import get_backend, pyplot
        from matplotlib.backends.registry import backend_registry

        backend = get_backend()  # chosen now, where the user's settings leave it open
        pyplot.switch_backend(backend)  # fails where it has no display or lacks a library
        _, interface = backend_registry.resolve_backend(backend)
        reason = f"matplotlib's backend {backend} opens none"
    except (ImportError, RuntimeError, ValueError) as error:
        interface, reason = None, " ".join(str(error).split()).split(";")[0]
    if interface is None:
        raise UserError(
            f"--show can open no window here ({reason}); leave it out: the pictures are written as "
            "files, too"
        )


def show_pictures(files: Sequence[Path]) -> None:
    """Show each picture in a window of its own, until all are closed."""
    from matplotlib import pyplot

    with pyplot.rc_context({"figure.max_open_warning": 0}):
        for file in files:
            pixels = pyplot.imread(file)  # (height, width, channels)
            height, width = pixels.shape[:2]
            figure = pyplot.figure(str(file), figsize=(width / DPI, height / DPI), dpi=DPI)
            axes = figure.add_axes((0, 0, 1, 1))
            axes.imshow(pixels)
            axes.set_axis_off()
        pyplot.show(block=True)


def draw_demonstrations(
    kind: str,
    model: VisualModel,
    source: ImageSource,
    images: np.ndarray,
    golds: Sequence[GoldObjects | None],
    labels: Sequence[ClusterLabel],
    files: Sequence[Path],
) -> None:
    """Draw one PNG per image, the clusters with the highest logits first.

    Args:
        kind: ``heatmap`` draws each activated cluster's map over the image, with its maximum;
            ``bbox`` draws the predicted boxes, and the gold ones where they are known.
        model: The visual encoder.
        source: Where the images are.
        images: (N,) indices of images.
        golds: N, what is annotated; None where it is not known.
        labels: For each cluster.
        files: N, where the pictures go.
    """
    import torch

    position = 0
    for logits, image, cluster, maps in activated_maps(model, source, images):
        for offset in with_bar(range(len(logits)), "drawing", "picture"):
            chosen = np.flatnonzero(image == offset)  # (A,)
            chosen = chosen[np.argsort(-logits[offset, cluster[chosen]], kind="stable")]
            its_maps = upsampled_maps(maps[torch.from_numpy(chosen)], MAP_SIZE).cpu().numpy()
            its_labels = [labels[c] for c in cluster[chosen]]
            pixels = _original_pixels(source.path(int(images[position])))
            if kind == "heatmap":
                figure = _heatmap_figure(pixels, its_maps, its_labels)
            else:
                figure = _box_figure(pixels, its_maps, its_labels, golds[position])
            write_atomically(files[position], partial(figure.savefig, format="png", dpi=DPI))
            position += 1


def _original_pixels(path: Path) -> np.ndarray:
    """Return an image as RGB in its own proportions, (height, width, 3) uint8."""
    pixels = open_rgb(path)
    pixels.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return np.asarray(pixels)


def _show(axes: "Axes", pixels: np.ndarray) -> None:
    """Show an image in map coordinates, so that maps and boxes lie on it."""
    height, width = pixels.shape[:2]
    axes.imshow(pixels, extent=(0, MAP_SIZE, MAP_SIZE, 0), aspect=height / width)
    axes.set_axis_off()


def text_colour(ground: str) -> str:
    """Return black or white, whichever is easier to read on a colour ``#rrggbb``.

    By the contrast ratio of WCAG 2.1: (L1 + 0.05) / (L2 + 0.05) of two relative luminances.
    """
    values = np.array([int(ground[start : start + 2], 16) for start in (1, 3, 5)]) / 255  # (3,)
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    return "black" if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else "white"


def grid_shape(panels: int) -> tuple[int, int]:
    """Return rows and columns for some panels: at most one place stays empty.

    Up to five stand in one row; more have three to five columns, those with the fewest empty places
    (ties: four columns).
    """
    if panels <= 5:
        return 1, panels
    columns = min((4, 3, 5), key=lambda count: -panels % count)
    return -(-panels // columns), columns


def _heatmap_figure(
    pixels: np.ndarray, maps: np.ndarray, labels: Sequence[ClusterLabel]
) -> "Figure":
    """Return the image and, beside it, each activated cluster's map over it."""
    from matplotlib.figure import Figure

    title = "image" if len(maps) else "image (activates no cluster)"
    if len(maps) > MAX_PANELS:
        title = f"image (the strongest {MAX_PANELS} of {len(maps)} clusters are shown)"
        maps, labels = maps[:MAX_PANELS], labels[:MAX_PANELS]
    titles = [
        textwrap.fill(text, TITLE_WIDTH, max_lines=TITLE_LINES, placeholder=" …")
        for text in (title, *(label.full() for label in labels))
    ]
    rows, columns = grid_shape(len(titles))
    # as high as the image is in this width, so that no ground shows between rows
    height, width = pixels.shape[:2]
    panel_width = max(PANEL_SIDE * min(1, width / height), NARROWEST_PANEL)
    panel_height = PANEL_SIDE * min(1, height / width)
    above = TITLE_LINE_HEIGHT * (2.5 + max(text.count("\n") for text in titles))
    figure = Figure(
        figsize=(panel_width * columns, (panel_height + above) * rows), layout="constrained"
    )
    axes = figure.add_subplot(rows, columns, 1)
    _show(axes, pixels)
    axes.set_title(titles[0], fontsize=FONT_SIZE, parse_math=False)
    seen = zip(maps, peak_points(maps), titles[1:], strict=True)
    for panel, (map_, (x, y), its_title) in enumerate(seen, start=2):
        axes = figure.add_subplot(rows, columns, panel)
        _show(axes, pixels)
        axes.set_title(its_title, fontsize=FONT_SIZE, parse_math=False)
        axes.imshow(
            map_,
            extent=(0, MAP_SIZE, MAP_SIZE, 0),
            aspect=axes.get_aspect(),
            cmap="inferno",
            alpha=0.55,
        )
        axes.plot(x + 0.5, y + 0.5, marker="+", color="black", markersize=11, markeredgewidth=3)
        axes.plot(x + 0.5, y + 0.5, marker="+", color="white", markersize=10)
    return figure


def _box_figure(
    pixels: np.ndarray,
    maps: np.ndarray,
    labels: Sequence[ClusterLabel],
    gold: GoldObjects | None,
) -> "Figure":
    """Return the image with the boxes of its strongest clusters, and the gold boxes.

    Each predicted box is dashed and has a colour of its own; gold ones are solid and green.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    shown = min(len(maps), MAX_BOXES)
    boxes = list(component_boxes(maps[:shown]))
    texts = [label.short() for label in labels[:shown]]
    style: dict[str, Any] = {"linewidth": 2, "fill": False}
    predicted = {"linestyle": "--", **style}
    golden = {"edgecolor": GOLD_COLOUR, "linestyle": "-", **style}
    colours = list(PREDICTED_COLOURS[:shown])
    legend = {}
    if shown:
        key = {"edgecolor": KEY_COLOUR, **predicted}
        legend["predicted: cluster number and class names (or top words)"] = key
    if gold is not None and len(gold.boxes):
        legend["gold"] = golden
        boxes += list(gold.boxes)
        texts += gold.class_names
        colours += [GOLD_COLOUR] * len(gold.boxes)

    height, width = pixels.shape[:2]
    scale = 7 / max(height, width)  # inches a pixel
    # labels need some room, also in a long and narrow picture
    size = np.maximum([width * scale, height * scale], [4.5, 2.5])
    strip = 0.4  # inches above the image, for the legend
    figure = Figure(figsize=(size[0], size[1] + strip), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, size[1] / (size[1] + strip)))
    _show(axes, pixels)
    for position in reversed(range(len(boxes))):  # the predicted ones on top
        left, top, right, bottom = boxes[position]
        drawn = {"edgecolor": colours[position], **predicted} if position < shown else golden
        # inclusive edges: a box of one pixel is one pixel wide
        axes.add_patch(Rectangle((left, top), right - left + 1, bottom - top + 1, **drawn))
    axes.set_xlim(0, MAP_SIZE)
    axes.set_ylim(MAP_SIZE, 0)
    axes.apply_aspect()
    _write_labels(axes, np.array(boxes).reshape(-1, 4), texts, colours)

    note = "" if shown else "the image activates no cluster"
    if shown < len(maps):
        note = f"{len(maps)} boxes are predicted; those of the strongest {shown} clusters are drawn"
    figure.legend(
        [Rectangle((0, 0), 1, 1, **drawn) for drawn in legend.values()],
        list(legend),
        title=note or None,
        loc="upper center",
        ncols=2,
        fontsize=FONT_SIZE,
        title_fontsize=FONT_SIZE,
        frameon=False,
        borderaxespad=0.1,
    )
    return figure


def _write_labels(
    axes: "Axes", boxes: np.ndarray, texts: Sequence[str], colours: Sequence[str]
) -> None:
    """Write a text at each box (P, 4), on a ground of the box's colour."""
    figure = axes.figure
    pixel_width, pixel_height = figure.bbox.width, figure.bbox.height
    written = [
        figure.text(
            0,
            0,
            text,
            fontsize=FONT_SIZE,
            color=text_colour(ground),
            parse_math=False,
            bbox={"boxstyle": f"square,pad={LABEL_PAD}", "facecolor": ground, "edgecolor": "none"},
        )
        for text, ground in zip(texts, colours, strict=True)
    ]
    if not written:
        return
    canvas: Any = figure.canvas  # Agg's, see _box_figure
    renderer = canvas.get_renderer()
    pad = LABEL_PAD * FONT_SIZE * DPI / 72  # pixels
    extents = [text.get_window_extent(renderer) for text in written]
    sizes = np.array([[e.width + 2 * pad, e.height + 2 * pad] for e in extents])  # (P, 2)
    # inclusive edges in map coordinates to pixels from the figure's upper left corner
    corners = axes.transData.transform((boxes + np.array([0, 0, 1, 1])).reshape(-1, 2))  # (2P, 2)
    corners[:, 1] = pixel_height - corners[:, 1]
    area = axes.get_position(original=True).bounds  # fractions: left, bottom, width, height
    ceiling = pixel_height * (1 - area[1] - area[3])
    places = place_labels(
        corners.reshape(-1, 4), sizes, (0, ceiling, pixel_width, pixel_height)
    )  # (P, 2)
    for text, extent, (left, top) in zip(written, extents, places, strict=True):
        # a text's position is its baseline's; the extent's lower edge lies below it
        descent = -extent.y0
        text.set_position(
            (
                (left + pad) / pixel_width,
                1 - (top + pad + extent.height - descent) / pixel_height,
            )
        )


def place_labels(
    boxes: np.ndarray, sizes: np.ndarray, area: tuple[float, float, float, float]
) -> np.ndarray:
    """Find a place for the label of each box: at the box, inside the area, off earlier labels.

    Each label in turn takes the place that covers the least of the labels before it. Of equally
    good ones it takes the first: above the box, in it, below it, each from the left and from the
    right edge, then further down along the box's left edge, and up from it.

    Args:
        boxes: (P, 4) [left, top, right, bottom], y growing downwards.
        sizes: (P, 2) width and height of each label.
        area: [left, top, right, bottom] that labels stay in; one that is larger than the area
            begins at its upper left corner.

    Returns:
        (P, 2) the upper left corner of each label.
    """
    placed = np.zeros((0, 4))
    low = np.array(area[:2], dtype=np.float64)
    for (left, top, right, bottom), size in zip(boxes, sizes, strict=True):
        width, height = size
        steps = np.arange(1, int((area[3] - area[1]) // height) + 1) * height
        candidates = [
            (x, y)
            for y in (top - height, top, bottom, bottom - height)
            for x in (left, right - width)
        ]
        candidates += [(left, top + step) for step in steps]
        candidates += [(left, top - step) for step in steps]
        corners = np.array(candidates, dtype=np.float64)  # (candidates, 2)
        corners = np.maximum(np.minimum(corners, np.array(area[2:]) - size), low)
        overlap = np.minimum(corners[:, None] + size, placed[:, 2:]) - np.maximum(
            corners[:, None], placed[:, :2]
        )  # (candidates, placed, 2)
        covered = np.maximum(overlap, 0).prod(axis=-1).sum(axis=-1)  # (candidates,)
        best = corners[np.argmin(np.round(covered, 6))]
        placed = np.vstack([placed, [*best, *(best + size)]])
    return placed[:, :2]
