"""Where in an image a cluster sees its object: boxes and points against gold boxes.

Axes: N images, D channels, C clusters, A activated (image, cluster) pairs, h x w the cells of the
last convolutional activation, S the side of a square map in pixels, P predictions and G gold boxes
of one image. Boxes are whole pixels [left, top, right, bottom], all four edges inside the box;
points are (x, y).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from utils.progress import with_bar

if TYPE_CHECKING:
    import torch

UPSAMPLED_AT_ONCE = 64  # maps; 13 MB at 224 x 224


def class_activation_maps(
    features: torch.Tensor,
    head_weight: torch.Tensor,
    image_index: torch.Tensor,
    cluster_index: torch.Tensor,
) -> torch.Tensor:
    """Return the class activation maps of chosen clusters in chosen images (Zhou et al. 2016).

    Args:
        features: (N, D, h, w), the last convolutional activation.
        head_weight: (C, D), the weight of the linear layer on the pooled channels; same type and
            device as ``features``.
        image_index: (A,) integers in 0..N-1.
        cluster_index: (A,) integers in 0..C-1.

    Returns:
        (A, h, w), map a = sum over channels d of
        head_weight[cluster_index[a], d] features[image_index[a], d]; not normalised.
    """
    import torch

    # One matrix product: all N C maps of a few cells are smaller than A copies of D channels.
    maps = torch.einsum("ndhw,cd->nchw", features, head_weight)
    return maps[image_index, cluster_index]


def upsampled_maps(maps: torch.Tensor, size: int = 224) -> torch.Tensor:
    """Normalise each map to 0..1 by its minimum and maximum, then upsample it bicubically.

    Bicubic interpolation weighs rows and columns independently, so that it is two small matrix
    products; ``torch.nn.functional.interpolate`` takes 50 times as long for the same up to
    rounding.

    Args:
        maps: (A, h, w), finite.
        size: S, the side of the result in pixels.

    Returns:
        (A, S, S). Bicubic interpolation may overshoot 0..1 slightly. A constant map becomes all
        zeros.

    Source: Berger et al. 2022.
    """
    import torch

    lowest = maps.amin(dim=(1, 2), keepdim=True)  # (A, 1, 1)
    spread = maps.amax(dim=(1, 2), keepdim=True) - lowest  # (A, 1, 1)
    normalised = (maps - lowest) / torch.where(spread > 0, spread, 1)
    by_row, by_column = (_bicubic_weights(cells, size, maps) for cells in maps.shape[1:])
    return by_row @ (normalised @ by_column.T)


def _bicubic_weights(cells: int, size: int, like: torch.Tensor) -> torch.Tensor:
    """Return how much each of some cells counts in each of ``size`` pixels on a line.

    Returns:
        (size, cells) of the type and device of ``like``; each row sums to 1. Pixel centres are
        aligned, and the cells at the edges repeated.
    """
    import torch

    one_hot = torch.eye(cells, dtype=like.dtype, device=like.device)
    return torch.nn.functional.interpolate(
        one_hot[None, None], size=(size, cells), mode="bicubic", align_corners=False
    )[0, 0]


def component_boxes(maps: np.ndarray) -> np.ndarray:
    """Return the box around the brightest object of each map.

    Of the pixels that reach half the map's maximum, the largest 8-connected component (of equally
    large ones the first in reading order) gives the box.

    Args:
        maps: (A, S, S), finite, no maximum negative.

    Returns:
        (A, 4) int64 in 0..S-1: the inclusive edges [left, top, right, bottom]. An all-zero map
        gives the whole image.

    Source: Berger et al. 2022; Zhou et al. 2016.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count, height, width = maps.shape
    if not count:
        return np.zeros((0, 4), dtype=np.int64)
    # all maps in one line of pixels, a dark column before each row and a dark row before each map
    stride = width + 1
    line = np.zeros(count * (height + 1) * stride + 1, dtype=bool)
    bright = line[:-1].reshape(count, height + 1, stride)[:, 1:, 1:]
    np.greater_equal(maps, maps.max(axis=(1, 2), keepdims=True) / 2, out=bright)
    # what is connected are R runs of bright pixels within rows, far fewer than pixels
    edges = np.flatnonzero(line[1:] != line[:-1]) + 1
    start, end = edges[::2], edges[1::2]  # (R,), (R,) behind the last pixel
    # the runs of the next row that touch a run, be it at a corner, follow each other
    first = np.searchsorted(end, start + stride)  # (R,)
    touching = np.searchsorted(start, end + stride, side="right") - first  # (R,)
    upper = np.repeat(np.arange(len(start)), touching)
    lower = np.arange(len(upper)) - np.repeat(np.cumsum(touching) - touching - first, touching)
    links = coo_matrix((np.ones(len(upper), dtype=bool), (upper, lower)), shape=(len(start),) * 2)
    _, component = connected_components(links, directed=False)  # (R,)

    sizes = np.bincount(component, weights=end - start)  # (components,) pixels
    first_run = np.unique(component, return_index=True)[1]  # (components,)
    run_map, row = np.divmod(start // stride, height + 1)  # (R,), (R,) from 1 on
    # by map, then by falling size, then in reading order: the first of each map is its largest
    order = np.lexsort((first_run, -sizes, run_map[first_run]))
    largest = order[np.unique(run_map[first_run[order]], return_index=True)[1]]  # (A,)
    chosen = component == largest[run_map]  # (R,)
    left, right = start[chosen] % stride, (end[chosen] - 1) % stride  # from 1 on
    row, bounds = row[chosen], np.searchsorted(run_map[chosen], np.arange(count))
    box = [
        np.minimum.reduceat(left, bounds),
        np.minimum.reduceat(row, bounds),
        np.maximum.reduceat(right, bounds),
        np.maximum.reduceat(row, bounds),
    ]
    return np.stack(box, axis=1) - 1


def boxes_and_peaks(maps: torch.Tensor, size: int = 224) -> tuple[np.ndarray, np.ndarray]:
    """Return where in the image each class activation map sees its object.

    Args:
        maps: (A, h, w), finite, not normalised.
        size: S, the side of the image in pixels.

    Returns:
        Of the upsampled maps, (A, 4) int64 boxes (see ``component_boxes``) and (A, 2) int64 points
        (see ``peak_points``).
    """
    boxes = np.zeros((len(maps), 4), dtype=np.int64)
    peaks = np.zeros((len(maps), 2), dtype=np.int64)
    # few at a time: where all clusters of a batch are activated, all of them fill gigabytes
    for start in range(0, len(maps), UPSAMPLED_AT_ONCE):
        part = slice(start, start + UPSAMPLED_AT_ONCE)
        upsampled = upsampled_maps(maps[part], size).cpu().numpy()
        boxes[part], peaks[part] = component_boxes(upsampled), peak_points(upsampled)
    return boxes, peaks


def peak_points(maps: np.ndarray) -> np.ndarray:
    """Return the point (x, y) of each map's maximum, ties first in reading order.

    Args:
        maps: (A, S, S).

    Returns:
        (A, 2) int64.
    """
    count, height, width = maps.shape
    row, column = np.divmod(maps.reshape(count, height * width).argmax(axis=1), width)
    return np.stack([column, row], axis=1)


def gold_boxes(
    boxes_xywh: np.ndarray, image_width: int, image_height: int, size: int = 224
) -> np.ndarray:
    """Bring annotated boxes to the resized image.

    The corners (x, y) and (x + w, y + h) are truncated to whole pixels, scaled by size / width
    and size / height, and truncated again.

    Args:
        boxes_xywh: (G, 4) float, COCO's [x, y, width, height] in pixels of the original image; an
            empty list is G = 0.
        image_width: Width of the original image in pixels.
        image_height: Its height.
        size: S, the side of the square that images are resized to.

    Returns:
        (G, 4) integers [left, top, right, bottom]. A box that ends at the image's edge has S
        itself as its right or bottom edge.

    Source: Berger et al. 2022.
    """
    boxes = np.asarray(boxes_xywh, dtype=np.float64).reshape(-1, 4)
    corners = np.trunc(np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]))
    # Multiplied before divided: a whole result stays whole, and truncation cannot lose a pixel.
    scaled = corners * size / [image_width, image_height, image_width, image_height]
    return scaled.astype(np.int64)


def box_iou(predicted: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return the intersection over union of each predicted with each gold box, in pixels.

    Both edges belong to a box: a side is right - left + 1 long, and equal boxes have IoU 1 however
    small.

    Args:
        predicted: (P, 4) integers, left <= right and top <= bottom.
        gold: (G, 4) integers, likewise.

    Returns:
        (P, G) in 0..1.
    """
    predicted, gold = _boxes(predicted)[:, None], _boxes(gold)[None]  # (P, 1, 4), (1, G, 4)
    start = np.maximum(predicted[..., :2], gold[..., :2])  # (P, G, 2)
    end = np.minimum(predicted[..., 2:], gold[..., 2:])  # (P, G, 2)
    intersection = np.maximum(end - start + 1, 0).prod(axis=-1)  # (P, G)
    predicted_area = (predicted[..., 2:] - predicted[..., :2] + 1).prod(axis=-1)  # (P, 1)
    gold_area = (gold[..., 2:] - gold[..., :2] + 1).prod(axis=-1)  # (1, G)
    iou: np.ndarray = intersection / (predicted_area + gold_area - intersection)
    return iou


def points_in_boxes(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Say which points lie in which boxes, edges included.

    Args:
        points: (P, 2), each (x, y).
        boxes: (G, 4).

    Returns:
        (P, G) bool.
    """
    points, boxes = np.asarray(points).reshape(-1, 1, 2), _boxes(boxes)
    inside: np.ndarray = (points >= boxes[:, :2]) & (points <= boxes[:, 2:])  # (P, G, 2)
    in_both: np.ndarray = inside[..., 0] & inside[..., 1]
    return in_both


def match_boxes(compatible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Match as many predictions and gold boxes as possible, one to one, and say which are matched.

    Args:
        compatible: (P, G) bool, which prediction may be matched with which gold box; P or G may
            be 0.

    Returns:
        (P,) and (G,) bool, with equally many True.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching

    compatible = np.asarray(compatible, dtype=bool)
    predicted, gold = (np.zeros(size, dtype=bool) for size in compatible.shape)
    if compatible.any():
        partner = maximum_bipartite_matching(csr_matrix(compatible), perm_type="column")  # (P,)
        predicted = partner >= 0
        gold[partner[predicted]] = True
    return predicted, gold


def matched_pairs(compatible: np.ndarray) -> int:
    """Return how many pairs ``match_boxes`` finds, in 0..min(P, G)."""
    return int(match_boxes(compatible)[0].sum())


def localization_counts(compatible: Iterable[np.ndarray]) -> np.ndarray:
    """Match predictions and gold boxes one to one within each image.

    A matched prediction is a true positive, an unmatched one a false positive, an unmatched gold
    box a false negative. For boxes "compatible" means ``box_iou`` >= 0.5, for points
    ``points_in_boxes``.

    Args:
        compatible: For each of N images a (P, G) bool array; P and G differ between images and
            may be 0 (shape (0, G) or (P, 0), so that what is missing still counts).

    Returns:
        (N, 3) int64, the true positives, false positives and false negatives of each image. Their
        scores are ``summed_scores``.

    Source: Berger et al. 2022.
    """
    counts = []
    for of_image in with_bar(compatible, "matching boxes", "image"):
        matched = matched_pairs(of_image)
        predictions, golds = of_image.shape
        counts.append((matched, predictions - matched, golds - matched))
    return np.array(counts, dtype=np.int64).reshape(-1, 3)


def random_boxes(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw boxes as a baseline: each spans two uniform pixels of a ``size`` x ``size`` image.

    Returns:
        (count, 4) integers in 0..size-1, left <= right and top <= bottom.
    """
    corners = rng.integers(size, size=(count, 2, 2))  # box, corner, (x, y)
    return np.hstack([corners.min(axis=1), corners.max(axis=1)])


def random_points(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw points as a baseline: (count, 2) uniform pixels (x, y) in 0..size-1."""
    return rng.integers(size, size=(count, 2))


def _boxes(boxes: np.ndarray) -> np.ndarray:
    """Return boxes as an array (boxes, 4), an empty list too."""
    return np.asarray(boxes).reshape(-1, 4)
