"""Where in an image a cluster sees its object: boxes and points against gold boxes.

Axes: N images, D channels, C clusters, A activated (image, cluster) pairs, h x w the cells of the
last convolutional activation, S the side of a square map in pixels, P predictions and G gold boxes
of one image. Boxes are whole pixels [left, top, right, bottom], all four edges inside the box;
points are (x, y).

Source: Berger et al. 2022.
"""

from collections.abc import Iterable

import numpy as np
import torch
from pycocotools import mask
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from utils.progress import with_bar

UPSAMPLED_AT_ONCE = 64  # maps; 13 MB at 224 x 224
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


def class_activation_maps(
    features: Tensor, head_weight: Tensor, image_index: Tensor, cluster_index: Tensor
) -> Tensor:
    """Return class activation maps (A, h, w) of chosen clusters in chosen images.

    ``features`` (N, D, h, w) are the last convolutional activation of all images, ``head_weight``
    (C, D) is that of the linear layer on the pooled channels. Map a is the sum over channels d of
    head_weight[cluster_index[a], d] features[image_index[a], d], not normalised (Zhou et al. 2016).
    """
    # One matrix product: all N C maps of a few cells are smaller than A copies of D channels.
    maps = torch.einsum("ndhw,cd->nchw", features, head_weight)
    return maps[image_index, cluster_index]


def upsampled_maps(maps: Tensor, size: int = 224) -> Tensor:
    """Normalise maps (A, h, w) to 0..1 by minimum and maximum, then upsample them bicubically.

    Returns (A, S, S). Bicubic interpolation may overshoot 0..1 slightly. A constant map becomes
    all zeros. Rows and columns are weighed independently, in two small matrix products;
    ``torch.nn.functional.interpolate`` takes 50 times as long for the same up to rounding.
    """
    lowest = maps.amin(dim=(1, 2), keepdim=True)  # (A, 1, 1)
    spread = maps.amax(dim=(1, 2), keepdim=True) - lowest  # (A, 1, 1)
    normalised = (maps - lowest) / torch.where(spread > 0, spread, 1)
    by_row, by_column = (  # (S, h), (S, w): how much each cell counts in each pixel of a line
        functional.interpolate(
            torch.eye(cells).to(maps)[None, None], (size, cells), mode="bicubic"
        )[0, 0]
        for cells in maps.shape[1:]
    )
    return by_row @ (normalised @ by_column.T)


def component_boxes(maps: np.ndarray) -> np.ndarray:
    """Return the box around the brightest object of each map (A, S, S), (A, 4) int64 in 0..S-1.

    Of the pixels that reach half the map's maximum, the largest 8-connected component (of equally
    large ones the first in reading order) gives the box (Zhou et al. 2016). No maximum may be
    negative; an all-zero map gives the whole image.
    """
    boxes = np.zeros((len(maps), 4), dtype=np.int64)
    for box, of_cluster in zip(boxes, maps, strict=True):
        components, _ = ndimage.label(of_cluster >= of_cluster.max() / 2, EIGHT_NEIGHBOURS)
        largest = np.bincount(components.ravel())[1:].argmax()
        rows, columns = ndimage.find_objects(components)[largest]
        box[:] = columns.start, rows.start, columns.stop - 1, rows.stop - 1
    return boxes


def boxes_and_peaks(maps: Tensor, size: int = 224) -> tuple[np.ndarray, np.ndarray]:
    """Return where in the image each class activation map (A, h, w) sees its object.

    Returns (A, 4) boxes of the upsampled maps, see ``component_boxes``, and the (A, 2) points
    (x, y) of their maxima, of equal ones the first in reading order.
    """
    boxes = np.zeros((len(maps), 4), dtype=np.int64)
    peaks = np.zeros((len(maps), 2), dtype=np.int64)
    # few at a time: where all clusters of a batch are activated, all of them fill gigabytes
    for start in range(0, len(maps), UPSAMPLED_AT_ONCE):
        part = slice(start, start + UPSAMPLED_AT_ONCE)
        upsampled = upsampled_maps(maps[part], size).cpu().numpy()
        boxes[part] = component_boxes(upsampled)
        row, column = np.divmod(upsampled.reshape(-1, size * size).argmax(axis=1), size)
        peaks[part] = np.stack([column, row], axis=1)
    return boxes, peaks


def gold_boxes(
    boxes_xywh: np.ndarray, image_width: int, image_height: int, size: int = 224
) -> np.ndarray:
    """Bring annotated boxes to the image resized to S x S, (G, 4) int64.

    Given are COCO's [x, y, width, height] in pixels of the original image. The corners (x, y) and
    (x + w, y + h) are truncated to whole pixels, scaled by S / width and S / height, and truncated
    again: a box that ends at the image's edge has S itself as its right or bottom edge.
    """
    boxes = np.asarray(boxes_xywh, dtype=np.float64).reshape(-1, 4)
    corners = np.trunc(np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]))
    # Multiplied before divided: a whole result stays whole, and truncation cannot lose a pixel.
    scaled = corners * size / [image_width, image_height, image_width, image_height]
    return scaled.astype(np.int64)


def box_iou(predicted: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return the intersection over union of predicted (P, 4) and gold (G, 4) boxes, (P, G).

    A side is right - left + 1 long: equal boxes have IoU 1 however small.
    """
    predicted, gold = (np.reshape(boxes, (-1, 4)).astype(float) for boxes in (predicted, gold))
    as_xywh = [np.hstack([b[:, :2], b[:, 2:] - b[:, :2] + 1]) for b in (predicted, gold)]
    no_crowds = np.zeros(len(gold), dtype=np.uint8)
    # pycocotools returns a bare [] without any box
    return np.reshape(mask.iou(*as_xywh, no_crowds), (len(predicted), len(gold)))


def points_in_boxes(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Say which points (P, 2) lie in which boxes (G, 4), edges included, (P, G) bool."""
    points, boxes = np.reshape(points, (-1, 1, 2)), np.reshape(boxes, (-1, 4))
    inside = (points >= boxes[:, :2]) & (points <= boxes[:, 2:])  # (P, G, 2)
    return np.asarray(inside.all(axis=-1))


def match_boxes(compatible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Match as many predictions and gold boxes as possible, one to one.

    ``compatible`` (P, G) bool says which may be matched. Returns (P,) and (G,) bool, which are
    matched; equally many True.
    """
    row, column = linear_sum_assignment(compatible, maximize=True)
    fits = compatible[row, column]
    predicted, gold = (np.zeros(size, dtype=bool) for size in compatible.shape)
    predicted[row[fits]] = gold[column[fits]] = True
    return predicted, gold


def localization_counts(compatible: Iterable[np.ndarray]) -> np.ndarray:
    """Match predictions and gold boxes one to one within each image, and count.

    ``compatible`` holds for each of N images a (P, G) bool array: for boxes ``box_iou`` >= 0.5, for
    points ``points_in_boxes``. P or G may be 0: what is missing still counts. Returns (N, 3) int64:
    matched predictions are true positives, unmatched ones false positives, unmatched gold boxes
    false negatives. Their scores are ``summed_scores``.
    """
    counts = []
    for of_image in with_bar(compatible, "matching boxes", "image"):
        matched = match_boxes(of_image)[0].sum()
        predictions, golds = of_image.shape
        counts.append((matched, predictions - matched, golds - matched))
    return np.array(counts, dtype=np.int64).reshape(-1, 3)


def random_boxes(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw boxes (count, 4), each spanning two uniform pixels of a ``size`` x ``size`` image."""
    corners = rng.integers(size, size=(count, 2, 2))  # box, corner, (x, y)
    return np.hstack([corners.min(axis=1), corners.max(axis=1)])


def random_points(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw points (count, 2), uniform pixels (x, y) of a ``size`` x ``size`` image."""
    return rng.integers(size, size=(count, 2))
