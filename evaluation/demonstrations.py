"""Pictures of what a model sees: class activation maps and the boxes they give.

Axes: N images, A activated clusters of one image, G gold boxes.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datasets_src.coco import Split
from evaluation.image_evaluation import MAP_SIZE, VisualModel, activated_maps, split_gold_boxes
from evaluation.localization import component_box, peak_point
from evaluation.word_evaluation import WordPredictions
from utils.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GOLD_COLOUR = "#34c759"
PREDICTED_COLOURS = ("#ff3b30", "#007aff", "#ff9500", "#af52de", "#00c7be", "#a2845e", "#ff2d55")
MAX_PANELS = 11  # heatmaps in one picture; an untrained model may activate every cluster
LABEL_WIDTH = 34  # characters in a line of a title
TOP_WORDS = 3
MIN_WORD_COUNT = 5  # rarer words get extreme probabilities by accident


def cluster_labels(
    predictions: WordPredictions,
    class_names: Sequence[str],
    cluster_of_class: np.ndarray,
    cluster_num: int,
) -> list[str]:
    """Return a label for each cluster: its number, class names, and most probable words.

    A cluster's words are those it is the most probable cluster of, the highest probability first.

    Args:
        predictions: For the words of the training captions.
        class_names: K names.
        cluster_of_class: (K,) cluster of each class name, -1 for none.
        cluster_num: C.
    """
    frequent = np.flatnonzero(predictions.counts >= MIN_WORD_COUNT)
    ordered = frequent[np.argsort(-predictions.probabilities[frequent], kind="stable")]
    words: list[list[str]] = [[] for _ in range(cluster_num)]
    for position in ordered:
        if predictions.clusters[position] >= 0:
            words[predictions.clusters[position]].append(predictions.words[position])
    names: list[list[str]] = [[] for _ in range(cluster_num)]
    for name, cluster in zip(class_names, cluster_of_class, strict=True):
        if cluster >= 0:
            names[cluster].append(name)
    return [
        f"cluster {cluster}"
        + (f": {', '.join(names[cluster])}" if names[cluster] else "")
        + (f" ({', '.join(words[cluster][:TOP_WORDS])})" if words[cluster] else "")
        for cluster in range(cluster_num)
    ]


def choose_images(split: Split, count: int, seed: int) -> np.ndarray:
    """Return indices of ``count`` images (or all, where there are fewer), ascending."""
    rng = np.random.default_rng(seed)
    image_count = len(split.image_ids)
    return np.sort(rng.permutation(image_count)[: min(count, image_count)])


def draw_demonstrations(
    kind: str,
    model: VisualModel,
    split: Split,
    images: np.ndarray,
    labels: Sequence[str],
    folder: Path,
) -> list[Path]:
    """Draw one PNG per image and return the files.

    Args:
        kind: ``heatmap`` draws each activated cluster's map over the image, with its maximum;
            ``bbox`` draws the predicted boxes, and the gold ones where they are known.
        model: The visual encoder.
        split: Where the images are.
        images: (N,) indices into the split's images.
        labels: For each cluster, see ``cluster_labels``.
        folder: Where the files go, as ``<image id>.png``.
    """
    import torch

    golds = split_gold_boxes(split) if split.instances is not None else None
    files, position = [], 0
    for active, image, cluster, maps in activated_maps(model, split, images):
        for offset in range(len(active)):
            index = int(images[position])
            position += 1
            chosen = image == offset
            pixels = _original_pixels(split.path(index))
            its_maps = maps[torch.from_numpy(chosen)].cpu().numpy()  # (A, MAP_SIZE, MAP_SIZE)
            its_labels = [labels[c] for c in cluster[chosen]]
            if kind == "heatmap":
                figure = _heatmap_figure(pixels, its_maps, its_labels)
            else:
                gold = None if golds is None else golds[index]
                figure = _box_figure(pixels, its_maps, its_labels, gold)
            path = folder / f"{split.image_ids[index]}.png"
            write_atomically(
                path, lambda file, figure=figure: figure.savefig(file, format="png", dpi=110)
            )
            files.append(path)
    return files


def _original_pixels(path: Path) -> np.ndarray:
    """Return an image as RGB in its original size, (height, width, 3) uint8."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _show(axes: "Axes", pixels: np.ndarray, title: str) -> None:
    """Show an image in map coordinates, so that maps and boxes lie on it."""
    height, width = pixels.shape[:2]
    axes.imshow(pixels, extent=(0, MAP_SIZE, MAP_SIZE, 0), aspect=height / width)
    axes.set_title(textwrap.fill(title, LABEL_WIDTH), fontsize=8, parse_math=False)
    axes.set_axis_off()


def _heatmap_figure(pixels: np.ndarray, maps: np.ndarray, labels: Sequence[str]) -> "Figure":
    """Return the image and, beside it, each activated cluster's map over it."""
    from matplotlib.figure import Figure

    title = "image" if len(maps) else "image (activates no cluster)"
    if len(maps) > MAX_PANELS:
        title = f"image ({MAX_PANELS} of {len(maps)} clusters shown)"
        maps, labels = maps[:MAX_PANELS], labels[:MAX_PANELS]
    panels = 1 + len(maps)
    columns = min(4, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(3.0 * columns, 2.8 * rows), layout="constrained")
    _show(figure.add_subplot(rows, columns, 1), pixels, title)
    for panel, (map_, label) in enumerate(zip(maps, labels, strict=True), start=2):
        axes = figure.add_subplot(rows, columns, panel)
        _show(axes, pixels, label)
        axes.imshow(
            map_,
            extent=(0, MAP_SIZE, MAP_SIZE, 0),
            aspect=axes.get_aspect(),
            cmap="inferno",
            alpha=0.55,
        )
        x, y = peak_point(map_)
        axes.plot(x + 0.5, y + 0.5, marker="+", color="black", markersize=11, markeredgewidth=3)
        axes.plot(x + 0.5, y + 0.5, marker="+", color="white", markersize=10)
    return figure


def _box_figure(
    pixels: np.ndarray, maps: np.ndarray, labels: Sequence[str], gold: np.ndarray | None
) -> "Figure":
    """Return the image with a dashed box per activated cluster, and the gold boxes in green."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(6, 5.4), layout="constrained")
    axes = figure.add_subplot(1, 1, 1)
    title = "" if gold is None else "gold boxes green"
    _show(axes, pixels, title if len(maps) else f"the image activates no cluster; {title}")
    drawn = [(box, GOLD_COLOUR, "-", None) for box in ([] if gold is None else gold)]
    for position, (map_, label) in enumerate(zip(maps, labels, strict=True)):
        colour = PREDICTED_COLOURS[position % len(PREDICTED_COLOURS)]
        drawn.append((component_box(map_), colour, "--", label))
    for (left, top, right, bottom), colour, style, label in drawn:
        # inclusive edges: a box of one pixel is one pixel wide
        axes.add_patch(
            Rectangle(
                (left, top),
                right - left + 1,
                bottom - top + 1,
                fill=False,
                edgecolor=colour,
                linestyle=style,
                linewidth=2,
                label=label,
            )
        )
    axes.set_xlim(0, MAP_SIZE)
    axes.set_ylim(MAP_SIZE, 0)
    if len(maps):
        legend = figure.legend(loc="outside lower center", fontsize=7)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure
