"""Pictures of what a model sees: class activation maps and the boxes they give.

Axes: A activated clusters of one image, h x w the cells of a map, G gold boxes.
"""

import argparse
import itertools
import logging
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image, ImageShow

from datasets_src.datasets import dataset_folder
from datasets_src.images import ImageFiles, open_rgb
from datasets_src.splits import Split
from evaluation.cluster_tables import MIN_WORD_COUNT, class_names_by_cluster, words_by_cluster
from evaluation.image_evaluation import MAP_SIZE, activations_by_image
from evaluation.inputs import load_both_halves, single_word_classes, test_split
from evaluation.localization import box_iou, boxes_and_peaks, gold_boxes, points_in_boxes
from evaluation.reports import format_word
from evaluation.word_evaluation import NO_CLUSTER, words_to_clusters
from models_src.model_files import load_vocabulary
from models_src.text_encoders.interface import TextEncoder
from utils.files import write_atomically

# of gold boxes in turn; all can be read under black text
GOLD_COLOURS = (
    "#ffd43b", "#4dabf7", "#ff8787", "#69db7c", "#da77f2", "#ffa94d", "#3bc9db", "#f783ac",
    "#c0eb75", "#b197fc",
)  # fmt: skip
DPI = 110
LARGEST_SIDE = 1200  # pixels of an image in a picture; larger ones are shrunk
MAX_CLUSTERS = 11  # in one picture; an untrained model may activate all
PANEL_SIDE, NARROWEST_PANEL = 3.0, 2.4  # inches of a panel's longer side, and its least width
TITLE_WIDTH = 36  # characters in a line of a panel's title
LINE_HEIGHT = 0.145  # inches
FONT_SIZE = 8
LABEL_WORDS = 3
OUTLINE = [withStroke(linewidth=3, foreground="black")]
TAG_HEIGHT = 14  # of a gold box's number, on MAP_SIZE
# Of published models, which do not say how often words occur, the first third of the vocabulary
# names the clusters, but at least so many words: frequent words come first.
LEAST_NAMING_WORDS = 500

logger = logging.getLogger(__name__)


class GoldObjects(NamedTuple):
    """The annotated objects of one image."""

    boxes: np.ndarray  # (G, 4) int64 [left, top, right, bottom] on MAP_SIZE
    class_names: tuple[str, ...]  # G


NO_GOLD = GoldObjects(np.zeros((0, 4), dtype=np.int64), ())


def heatmap_demonstration(options: argparse.Namespace) -> None:
    """Draw each activated cluster's class activation map over the image, with its maximum."""
    _demonstrate(options, "heatmap")


def bbox_demonstration(options: argparse.Namespace) -> None:
    """Draw each activated cluster's box."""
    _demonstrate(options, "bbox")


def _demonstrate(options: argparse.Namespace, kind: str) -> None:
    """Draw a PNG for each image: test images with their gold boxes, or the files of --images."""
    folder = options.results_dir / options.model_name / f"{kind}_demonstration"
    model = load_both_halves(options)
    split = None
    if options.images is None or dataset_folder(options.datasets_dir, options.dataset).is_dir():
        split = test_split(options)
    else:
        logger.info("the clusters are shown without class names: no data set is there")
    labels = _cluster_labels(
        options, model.text, [] if split is None else single_word_classes(split)
    )
    source: Split | ImageFiles
    if options.images is None:
        assert split is not None
        source = split
        order = np.random.default_rng(options.seed).permutation(len(split.image_ids))
        images = np.sort(order[: options.num_items])
        stems = [str(split.image_ids[image]) for image in images]
    else:
        source, split = ImageFiles(tuple(map(Path, options.images))), None
        images = np.arange(len(source.files))
        folder /= "own_images"  # a file may be named like the id of a test image
        stems = [f"{number}_{file.stem}" for number, file in enumerate(source.files, start=1)]
        for file in source.files:
            open_rgb(file)  # one that cannot be read is told before any is drawn
    files = [folder / f"{stem}.png" for stem in stems]
    seen = activations_by_image(model.visual, source, images)
    for file, (image, clusters, maps) in zip(files, seen, strict=True):
        gold = NO_GOLD if split is None else gold_objects(split, image)
        pixels = source.images(model.visual.image_size).open(image)
        pixels.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        figure = draw_figure(
            kind,
            np.asarray(pixels),
            [labels[cluster] for cluster in clusters],
            maps.float().cpu().numpy(),
            *boxes_and_peaks(maps, MAP_SIZE),
            gold,
        )
        write_atomically(file, partial(figure.savefig, format="png", dpi=DPI))
    if maps.shape[1:] == (1, 1):
        logger.warning(
            "class activation maps are 1 x 1 for images of %d pixels and show no place; train with "
            "a larger --image_size",
            model.visual.image_size,
        )
    logger.info("pictures: %d in %s", len(files), folder)
    if options.show and not all(ImageShow.show(Image.open(file), str(file)) for file in files):
        logger.warning("no program is here to show pictures in a window; see the files")


def _cluster_labels(
    options: argparse.Namespace, text: TextEncoder, classes: Sequence[str]
) -> list[str]:
    """Return what each cluster is called: its number, class names and most probable words."""
    vocabulary = load_vocabulary(options.models_dir, options.model_name)
    if vocabulary is None:
        frequent = np.arange(len(text.words)) < max(LEAST_NAMING_WORDS, len(text.words) // 3)
    else:
        frequent = vocabulary.counts >= MIN_WORD_COUNT
    names = class_names_by_cluster(text, classes)
    clusters, probabilities = words_to_clusters(text, text.words)
    clusters = np.where(frequent, clusters, NO_CLUSTER)
    labels = []
    for cluster, own in enumerate(words_by_cluster(clusters, probabilities, text.cluster_num)):
        its_names = f": {', '.join(names[cluster])}" if names[cluster] else ""
        shown = ", ".join(format_word(text.words[at]) for at in own[:LABEL_WORDS])
        labels.append(f"cluster {cluster}{its_names}" + (f" ({shown})" if shown else ""))
    return labels


def gold_objects(split: Split, image: int) -> GoldObjects:
    """Return the annotated objects of the image with this index; none without instances."""
    instances = split.instances
    if instances is None:
        return NO_GOLD
    boxes: list[list[float]] = []
    names: list[str] = []
    for row in np.flatnonzero(instances.image == image):
        box, name = instances.boxes[row].tolist(), instances.class_names[instances.class_index[row]]
        if instances.has_own_box[row]:
            boxes.append(box)
            names.append(name)
        else:  # another class of a box that is there
            names[boxes.index(box)] += f", {name}"
    width, height = split.sizes[image].tolist()
    order = sorted(range(len(names)), key=names.__getitem__)
    scaled = gold_boxes(np.array([boxes[row] for row in order]), width, height, MAP_SIZE)
    return GoldObjects(scaled, tuple(names[row] for row in order))


def draw_figure(
    kind: str,
    pixels: np.ndarray,
    labels: Sequence[str],
    cells: np.ndarray,
    boxes: np.ndarray,
    peaks: np.ndarray,
    gold: GoldObjects,
) -> Figure:
    """Draw an image with its gold boxes and, beside it, once more for each activated cluster.

    ``kind`` is ``heatmap`` or ``bbox``. ``pixels`` are (height, width, 3) uint8. ``labels`` name A
    clusters, the strongest first, ``cells`` (A, h, w) are their class activation maps, ``boxes``
    (A, 4) and ``peaks`` (A, 2) where these look. Gold objects stand sorted by class name.
    """
    shown = min(len(labels), MAX_CLUSTERS)
    titles = ["image" if len(labels) else "image (activates no cluster)"]
    if shown < len(labels):
        titles = [f"image, and the strongest\n{shown} of {len(labels)} clusters"]
    notes = {
        "heatmap": "class activation maps of {} cells; +: maximum of the upsampled map",
        "bbox": "dashed: where a class activation map of {} cells, upsampled, reaches half its "
        "maximum",
    }
    note = notes[kind].format(" x ".join(map(str, cells.shape[1:]))) if shown else ""
    numbered = [f"{number} {name}" for number, name in enumerate(gold.class_names, start=1)]
    legend = []  # sorted by name: "1-3 person; 4 dog"
    for name in dict.fromkeys(gold.class_names):
        first, count = gold.class_names.index(name) + 1, gold.class_names.count(name)
        legend.append(f"{first}-{first + count - 1} {name}" if count > 1 else f"{first} {name}")
    if legend:
        note = "; ".join(filter(None, [note, f"solid, gold: {'; '.join(legend)}"]))
    for label, box, peak in zip(labels[:shown], boxes, peaks, strict=False):
        titles.append(textwrap.fill(label, TITLE_WIDTH, max_lines=3, placeholder=" …"))
        if numbered and kind == "bbox":
            overlaps = box_iou(box[None], gold.boxes)[0]  # (G,)
            best = int(overlaps.argmax())
            titles[-1] += f"\nIoU {overlaps[best]:.2f} with {numbered[best]}"
        elif numbered:
            inside = points_in_boxes(peak[None], gold.boxes)[0]  # (G,)
            hits = ", ".join(itertools.compress(numbered, inside)) or "no object"
            titles[-1] += "\n" + textwrap.fill(f"maximum in {hits}", TITLE_WIDTH)

    columns = len(titles) if len(titles) <= 5 else min((4, 3, 5), key=lambda n: -len(titles) % n)
    rows = -(-len(titles) // columns)
    height, width = pixels.shape[:2]
    panel_width = max(PANEL_SIDE * min(1, width / height), NARROWEST_PANEL)
    panel_height = PANEL_SIDE * min(1, height / width)
    note = textwrap.fill(
        note, int(TITLE_WIDTH * columns * panel_width / PANEL_SIDE), break_on_hyphens=False
    )
    above = LINE_HEIGHT * (2.5 + max(title.count("\n") for title in titles))
    whole_height = (panel_height + above) * rows + LINE_HEIGHT * (1.5 + note.count("\n"))
    figure = Figure(figsize=(panel_width * columns, whole_height), layout="constrained")
    figure.suptitle(note, fontsize=FONT_SIZE)
    on_image: dict[str, Any] = {"extent": (0, MAP_SIZE, MAP_SIZE, 0), "aspect": height / width}
    for panel, title in enumerate(titles):
        axes = figure.add_subplot(rows, columns, panel + 1)
        axes.imshow(pixels, **on_image)
        axes.set_axis_off()
        axes.set_title(title, fontsize=FONT_SIZE, parse_math=False)
        if panel and kind == "heatmap":
            map_ = cells[panel - 1]
            axes.imshow(map_, cmap="inferno", alpha=0.5, interpolation="nearest", **on_image)
            x, y = peaks[panel - 1] + 0.5
            axes.plot(x, y, marker="+", color="white", markersize=10, path_effects=OUTLINE)
        for colour, box in zip(itertools.cycle(GOLD_COLOURS), gold.boxes, strict=False):
            _add_box(axes, box, edgecolor=colour, linewidth=1.8, path_effects=OUTLINE)
        if panel and kind == "bbox":
            _add_box(axes, boxes[panel - 1], edgecolor="black", linewidth=2.8)
            _add_box(axes, boxes[panel - 1], edgecolor="white", linewidth=1.8, linestyle="--")
        elif not panel:
            _write_numbers(axes, gold.boxes)
    return figure


def _add_box(axes: Axes, box: np.ndarray, **style: Any) -> None:
    left, top, right, bottom = box.tolist()
    # inclusive edges: a box of one pixel is one pixel wide
    axes.add_patch(Rectangle((left, top), right - left + 1, bottom - top + 1, fill=False, **style))


def _write_numbers(axes: Axes, boxes: np.ndarray) -> None:
    """Number the boxes (G, 4) from 1 on, each at its left edge, the next one lower where taken."""
    taken: list[tuple[float, float]] = []
    for number, (left, top, _, _) in enumerate(boxes.tolist()):
        while any(abs(left - x) < TAG_HEIGHT and abs(top - y) < TAG_HEIGHT for x, y in taken):
            top += TAG_HEIGHT
        taken.append((left, top))
        ground = {"facecolor": GOLD_COLOURS[number % len(GOLD_COLOURS)], "pad": 1.2}
        axes.text(left, top, str(number + 1), fontsize=FONT_SIZE, va="top", bbox=ground)
