"""The image metrics against slow transcriptions of their definitions."""

import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.nn import functional

from evaluation.classification import (
    classes_from_clusters,
    classification_counts,
    classification_scores,
    co_occurrence_classes,
    iou_classes,
    predicted_classes,
    summed_scores,
)
from evaluation.clip_classification import best_f1_threshold
from evaluation.image_evaluation import MAP_SIZE, random_scores
from evaluation.localization import (
    UPSAMPLED_AT_ONCE,
    box_iou,
    boxes_and_peaks,
    class_activation_maps,
    component_boxes,
    gold_boxes,
    localization_counts,
    match_boxes,
    points_in_boxes,
    random_boxes,
    random_points,
    upsampled_maps,
)
from evaluation.sentence_image_matching import matching_outcomes, matching_scores

SEEDS = range(3)


def draw_bits(rng, rows, columns):
    """Bits of a random density, so that empty rows and columns occur."""
    return rng.random((rows, columns)) < rng.choice([0.05, 0.3, 0.7])


# Classification


@pytest.mark.parametrize("seed", SEEDS)
def test_classification_equals_the_definition(seed):
    rng = np.random.default_rng(seed)
    n, k = rng.integers(1, 8, size=2)
    predicted, gold = draw_bits(rng, n, k), draw_bits(rng, n, k)
    cells = Counter(zip(predicted.ravel().tolist(), gold.ravel().tolist(), strict=True))
    tp, fp, fn = (cells[pair] for pair in ((True, True), (True, False), (False, True)))
    scores = classification_scores(classification_counts(predicted, gold), gold.shape[1])
    assert scores == {
        "true_positives": tp,
        "false_positives": fp,
        "false_negatives": fn,
        "true_negatives": cells[False, False],
        "precision": pytest.approx(tp / (tp + fp)) if tp + fp else None,
        "recall": pytest.approx(tp / (tp + fn)) if tp + fn else None,
        "f1": pytest.approx(2 * tp / (2 * tp + fp + fn)) if tp + fp + fn else None,
    }
    assert {type(value) for value in scores.values()} <= {int, float, type(None)}


@pytest.mark.parametrize(
    ("counts", "ratios"),
    [
        ((0, 0, 0), [None, None, None]),
        ((0, 3, 0), [0.0, None, 0.0]),
        ((0, 0, 3), [None, 0.0, 0.0]),
        ((3, 1, 2), [3 / 4, 3 / 5, 6 / 9]),
    ],
)
def test_undefined_ratios_are_none(counts, ratios):
    assert list(summed_scores(np.array([counts])).values()) == [*counts, *ratios]
    nothing = np.zeros((0, 4), bool)
    empty = classification_scores(classification_counts(nothing, nothing), 4)
    assert set(empty.values()) == {0, None}


@pytest.mark.parametrize("seed", range(10))  # among which many classes tie
def test_cluster_mappings_equal_the_definitions(seed):
    rng = np.random.default_rng(seed)
    n, c, k = rng.integers(1, 9, size=3)
    bits = draw_bits(rng, n, c)
    counts = rng.integers(0, 3, size=(n, k)) * draw_bits(rng, n, k)  # small counts tie often
    gold = counts > 0
    by_instances, by_iou = [], []
    for cluster in range(c):
        instances, overlaps = [], []
        for class_ in range(k):
            instances.append(sum(counts[i, class_] for i in range(n) if bits[i, cluster]))
            both = {i for i in range(n) if bits[i, cluster] and gold[i, class_]}
            either = {i for i in range(n) if bits[i, cluster] or gold[i, class_]}
            overlaps.append(Fraction(len(both), len(either)) if either else Fraction(0))
        for values, mapping in ((instances, by_instances), (overlaps, by_iou)):
            mapping.append(values.index(max(values)) if max(values) else -1)
    assert co_occurrence_classes(bits, counts).tolist() == by_instances
    assert iou_classes(bits, gold).tolist() == by_iou


@pytest.mark.parametrize("seed", SEEDS)
def test_classes_come_from_the_cluster_of_their_name_or_any_of_an_images_clusters(seed):
    rng = np.random.default_rng(seed)
    n, c, k = rng.integers(1, 9, size=3)
    bits = draw_bits(rng, n, c)
    cluster_of_class, class_of_cluster = rng.integers(-1, c, size=k), rng.integers(-1, k, size=c)
    by_name = [[x != -1 and bool(bits[i, x]) for x in cluster_of_class] for i in range(n)]
    by_any = [
        [any(bits[i, x] and class_of_cluster[x] == y for x in range(c)) for y in range(k)]
        for i in range(n)
    ]
    assert predicted_classes(bits, cluster_of_class).tolist() == by_name
    assert classes_from_clusters(bits, class_of_cluster, k).tolist() == by_any


@pytest.mark.parametrize(
    ("scores", "gold", "expected"),
    [
        # from the top: 1/1 found of 3, 1/2, 2/3, 3/4 (f1 6/7), 3/5
        ([0.9, 0.8, 0.7, 0.6, 0.5], [1, 0, 1, 1, 0], (0.6, 6 / 7, 0.75, 1.0)),
        # equal scores go together: apart, the positive of the tied pair would give f1 1
        ([0.5, 0.5, 0.1], [1, 0, 0], (0.5, 2 / 3, 0.5, 1.0)),
        # the highest of equally good ones: at 3, 1 hit of 1 and 2 positives; at 0, 2 hits of 4
        ([3, 2, 1, 0], [1, 0, 0, 1], (3.0, 2 / 3, 1.0, 0.5)),
        ([-2, -1], [1, 1], (-2.0, 1.0, 1.0, 1.0)),
    ],
)
def test_the_threshold_of_best_f1_by_hand(scores, gold, expected):
    found = best_f1_threshold(np.array(scores), np.array(gold, dtype=bool))
    assert tuple(found.values()) == pytest.approx(expected)


# Class activation maps


def test_class_activation_maps_are_weighted_sums_of_channels():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 5, 2, 4, generator=generator)
    head_weight = torch.randn(6, 5, generator=generator)
    image, cluster = torch.tensor([2, 0, 2, 1]), torch.tensor([5, 0, 1, 5])
    maps = class_activation_maps(features, head_weight, image, cluster)
    assert maps.shape == (4, 2, 4)
    for a, y, x in itertools.product(range(4), range(2), range(4)):
        total = sum(head_weight[cluster[a], d] * features[image[a], d, y, x] for d in range(5))
        assert float(maps[a, y, x]) == pytest.approx(float(total), abs=1e-5)


@pytest.mark.parametrize("shape", [(7, 7), (3, 7)])
def test_maps_are_normalised_then_upsampled_bicubically_and_constant_ones_become_zeros(shape):
    maps = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)).double() * 50 - 10
    maps[1] *= 1e6
    maps[2] = -3
    upsampled = upsampled_maps(maps)
    for map_, found in zip(maps[:2], upsampled, strict=False):
        normalised = (map_ - map_.min()) / (map_.max() - map_.min())
        expected = functional.interpolate(normalised[None, None], (224, 224), mode="bicubic")
        torch.testing.assert_close(found, expected[0, 0], rtol=0, atol=1e-6)
    assert not upsampled[2].any()
    assert upsampled_maps(maps[:0]).shape == (0, 224, 224)


# Boxes and points


def slow_component_box(map_):
    """Flood fill from each pixel in reading order."""
    rows, columns = map_.shape
    bright = {(y, x) for y in range(rows) for x in range(columns) if map_[y, x] >= map_.max() / 2}
    largest = []
    for start in sorted(bright):
        if start not in bright:
            continue  # already part of an earlier component
        bright.remove(start)
        component, open_pixels = [start], [start]
        while open_pixels:
            y, x = open_pixels.pop()
            for near in itertools.product((y - 1, y, y + 1), (x - 1, x, x + 1)):
                if near in bright:
                    bright.remove(near)
                    component.append(near)
                    open_pixels.append(near)
        if len(component) > len(largest):
            largest = component
    ys, xs = zip(*largest, strict=True)
    return [min(xs), min(ys), max(xs), max(ys)]


@pytest.mark.parametrize("seed", SEEDS)
def test_component_boxes_equal_a_flood_fill(seed):
    rng = np.random.default_rng(seed)
    # dense and sparse masks with bright pixels at all borders, and smooth maps
    masks = rng.random((30, 9, 14)) ** rng.choice([0.5, 1.0, 1.5, 4], size=(30, 1, 1))
    smooth = upsampled_maps(torch.tensor(rng.standard_normal((3, 7, 7))), size=40).numpy()
    for maps in (masks, smooth):
        boxes = component_boxes(maps)
        assert boxes.dtype == np.int64
        assert boxes.tolist() == [slow_component_box(map_) for map_ in maps]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("#...", ".#..", "..#.", "...#"), [0, 0, 3, 3]),  # corners touch
        # equally large: the one whose first pixel is read first, here the right one
        (("...#", "#..#", "#..#", "#..."), [3, 0, 3, 2]),
        (("....", "....", "....", "...."), [0, 0, 3, 3]),  # an all-zero map
        (("+-..", "....", "....", "...."), [0, 0, 0, 0]),
        (("+h..", "....", "....", "...."), [0, 0, 1, 0]),  # half the maximum belongs to the box
    ],
)
def test_component_box_of_known_masks(lines, expected):
    values = {".": 0.0, "#": 1.0, "+": 0.8, "h": 0.4, "-": 0.39}
    map_ = np.array([[values[cell] for cell in line] for line in lines])
    assert component_boxes(map_[None]).tolist() == [expected]


def test_boxes_and_peaks_are_those_of_the_upsampled_maps():
    # more than are upsampled at once; the last is constant
    maps = torch.randn(UPSAMPLED_AT_ONCE + 9, 7, 7, generator=torch.Generator().manual_seed(0))
    maps[-1] = 2
    whole = upsampled_maps(maps).numpy()
    boxes, peaks = boxes_and_peaks(maps)
    assert boxes.tolist() == component_boxes(whole).tolist()
    assert peaks.tolist() == [[i % 224, i // 224] for i in whole.reshape(len(maps), -1).argmax(1)]
    assert [found.shape for found in boxes_and_peaks(maps[:0])] == [(0, 4), (0, 2)]


def test_gold_boxes_by_hand():
    # Truncated to 10, 20, 99, 59 before the scaling by 100/200 and 100/60.
    assert gold_boxes([[10.9, 20.9, 88.9, 38.9]], 200, 60, 100).tolist() == [[5, 33, 49, 98]]
    # 180 * 224 / 640 is 63 exactly, but 180 * (224 / 640) is less and would lose a pixel.
    assert 180 * (224 / 640) < 63
    assert gold_boxes([[180, 0, 460, 480]], 640, 480).tolist() == [[63, 0, 224, 224]]
    assert gold_boxes([], 640, 480).shape == (0, 4)


def slow_iou(box, other):
    (p, g) = (
        set(itertools.product(range(left, right + 1), range(top, bottom + 1)))
        for left, top, right, bottom in (box, other)
    )
    return len(p & g) / len(p | g)


@pytest.mark.parametrize("seed", SEEDS)
def test_box_iou_counts_pixels(seed):
    rng = np.random.default_rng(seed)
    predicted, gold = random_boxes(5, 9, rng), random_boxes(4, 9, rng)
    expected = [[slow_iou(p, g) for g in gold.tolist()] for p in predicted.tolist()]
    assert box_iou(predicted, gold).tolist() == expected
    assert box_iou(predicted[:0], gold).shape == (0, 4)
    assert box_iou(predicted, []).shape == (5, 0)


def test_random_boxes_and_points_stay_in_the_image():
    boxes = random_boxes(3000, 6, np.random.default_rng(0))
    points = random_points(3000, 6, np.random.default_rng(0))
    assert (boxes[:, :2] <= boxes[:, 2:]).all()
    for values in (*boxes.T, *points.T):
        assert set(values.tolist()) == set(range(6))
    # Uniform points: each of the 36 pixels is drawn about 83 times.
    pixels = np.bincount(points[:, 1] * 6 + points[:, 0], minlength=36)
    assert pixels.min() > 40
    # Of two uniform pixels the columns agree with probability 1/6.
    assert np.mean(boxes[:, 0] == boxes[:, 2]) == pytest.approx(1 / 6, abs=0.03)


def test_points_are_x_then_y_and_boxes_columns_then_rows():
    box = [[2, 5, 4, 9]]  # columns 2 to 4, rows 5 to 9
    points = [[2, 5], [4, 9], [5, 9], [4, 10], [5, 2], [1, 7], [3, 4]]
    assert points_in_boxes(points, box)[:, 0].tolist() == [True, True] + [False] * 5
    assert points_in_boxes([], box).shape == (0, 1)
    assert points_in_boxes(points, []).shape == (7, 0)


def slow_matched_pairs(compatible):
    """The best over every choice for the first prediction."""
    if not compatible:
        return 0
    best = slow_matched_pairs(compatible[1:])
    for j, fits in enumerate(compatible[0]):
        if fits:
            others = [[*row[:j], False, *row[j + 1 :]] for row in compatible[1:]]
            best = max(best, 1 + slow_matched_pairs(others))
    return best


@pytest.mark.parametrize("seed", range(10))
def test_boxes_are_matched_one_to_one_and_as_many_as_possible(seed):
    rng = np.random.default_rng(seed)
    compatible = draw_bits(rng, *rng.integers(0, 6, size=2))
    predicted, gold = match_boxes(compatible)
    assert (len(predicted), len(gold)) == compatible.shape
    most = slow_matched_pairs(compatible.tolist())
    assert predicted.sum() == gold.sum() == most
    # those that are matched can be matched among themselves
    assert slow_matched_pairs(compatible[predicted][:, gold].tolist()) == most


def test_localization_adds_up_over_images():
    of_images = [
        np.array([[1, 1], [1, 0], [1, 1]], bool),  # 2 matched, 1 prediction over
        np.array([[1, 1, 0]], bool),  # 1 matched, 2 gold boxes over
        np.zeros((2, 0), bool),  # predictions without gold boxes
        np.zeros((0, 4), bool),  # gold boxes without predictions
        np.zeros((0, 0), bool),
    ]
    counts = localization_counts(iter(of_images))
    assert counts.tolist() == [[2, 1, 0], [1, 0, 2], [0, 2, 0], [0, 0, 4], [0, 0, 0]]
    assert list(summed_scores(counts).values()) == [3, 3, 6, 3 / 6, 3 / 9, 6 / 15]
    assert summed_scores(localization_counts([]))["f1"] is None


def slow_chance(golds, guesses, seed, of_points):
    """Counts of random guesses, one image and one guess after another."""
    rng = np.random.default_rng(seed)
    hits = guessed = 0
    for gold, count in zip(golds, guesses, strict=True):
        if of_points:
            drawn = rng.integers(MAP_SIZE, size=(count, 2)).tolist()
            fits = [
                [left <= x <= right and top <= y <= bottom for left, top, right, bottom in gold]
                for x, y in drawn
            ]
        else:
            drawn = rng.integers(MAP_SIZE, size=(count, 2, 2)).tolist()
            fits = [
                [slow_iou([min(a, c), min(b, d), max(a, c), max(b, d)], box) >= 0.5 for box in gold]
                for (a, b), (c, d) in drawn
            ]
        hits += slow_matched_pairs(fits)
        guessed += count
    return [hits, guessed - hits, sum(map(len, golds)) - hits]


@pytest.mark.parametrize("metric", ["bounding_box", "heatmap"])
def test_random_guesses_score_as_defined(metric):
    rng = np.random.default_rng(0)
    golds = [random_boxes(count, MAP_SIZE, rng) for count in (2, 0, 3, 1, 4)]
    for guesses in ([2, 0, 3, 1, 4], [4, 3, 0, 5, 1]):  # as many as gold boxes; any
        found = random_scores(metric, golds, guesses, seed=6)
        expected = slow_chance([gold.tolist() for gold in golds], guesses, 6, metric == "heatmap")
        assert list(found.values())[:3] == expected
        assert found == random_scores(metric, golds, guesses, seed=6)


# Sentence-image matching


@pytest.mark.parametrize("seed", SEEDS)
def test_matching_equals_the_definition(seed):
    rng = np.random.default_rng(seed)
    n, c = int(rng.integers(2, 20)), int(rng.integers(1, 5))  # few clusters: many ties
    images, captions = draw_bits(rng, n, c), draw_bits(rng, n, c)
    nearer = ties = trials = 0
    for i in range(n - n % 2):
        other = i + 1 if i % 2 == 0 else i - 1
        to_own = sum(images[i, x] != captions[i, x] for x in range(c))
        to_other = sum(images[i, x] != captions[other, x] for x in range(c))
        nearer += to_own < to_other
        ties += to_own == to_other
        trials += 1
    scores = matching_scores(matching_outcomes(images, captions))
    assert scores == {
        "accuracy": pytest.approx(nearer / trials),
        "accuracy_with_ties": pytest.approx((nearer + ties) / trials),
        "accuracy_half_ties": pytest.approx((nearer + ties / 2) / trials),
        "trial_count": trials,
    }
    assert [type(value) for value in scores.values()] == [float, float, float, int]


def test_one_image_has_no_partner_to_match():
    found = matching_outcomes(np.ones((1, 2), bool), np.ones((1, 2), bool))
    assert list(matching_scores(found).values()) == [None, None, None, 0]
