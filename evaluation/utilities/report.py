"""One page that shows a model: its numbers, its clusters, its words and its pictures."""

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.utilities.common import (
    ImageEvaluation,
    Model,
    chance_seed,
    image_data,
    load_both_halves,
    require_same_captions,
    single_word_classes,
    test_split,
    training_data,
    training_pairs,
    unmeasured_on_images,
    word_list_settings,
)
from evaluation.utilities.evaluations import score_images, text_evaluation
from utils.errors import UserError
from utils.files import parse_json, reading, write_text

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

    from datasets_src.coco import Split
    from datasets_src.norms import Norms
    from datasets_src.pairs import TrainingPairs
    from evaluation.word_evaluation import WordPredictions

# what is looked for among the stored results: the types of --model_type under their own names
BASELINES = ("text_only", "random", "w2v", "bert", "clip", "supervised_concreteness")
# utility -> the model's evaluation that reads the same data; where two have a metric, the later
BASELINE_UTILITIES = {
    "train_text_only_baseline": "text_evaluation",
    "train_concreteness_supervised_model": "text_evaluation",
    "categorization_evaluation": "text_evaluation",
    "association_evaluation": "text_evaluation",
    "concreteness_evaluation": "text_evaluation",
    "clip_classification_evaluation": "visual_evaluation",
}
OF_WORD_LIST = (
    "train_text_only_baseline",
    "categorization_evaluation",
    "association_evaluation",
)

# the page's size is bounded by these and by --num_items, on full COCO, too
SHOWN_WORDS = 2000  # the most frequent ones, in the table and in the scatter
EXTREME_WORDS = 15  # best and worst ones
EXAMPLES = 5  # images of a cluster in the gallery
LOCALIZED = 8  # images with boxes, at most
CLUSTER_SIDE, LOCALIZED_SIDE = 120, 240  # pixels of the longer side

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Subject:
    """What the report is about, and all that is read for it."""

    options: argparse.Namespace
    model: Model
    pairs: "TrainingPairs"
    split: "Split"  # without unreadable images
    norms: "Norms"
    words: "WordPredictions"
    logits: np.ndarray  # (N, C) of the test images
    box_counts: np.ndarray | None  # (N, 3) their hits, false alarms and misses, where known


def report(options: argparse.Namespace) -> None:
    """Write one HTML page about a model, from stored results where they are of this model.

    Raises:
        UserError: the model, the data or an image is missing or malformed.
    """
    from datasets_src.norms import load_norms
    from evaluation.report_page import render_page
    from evaluation.word_evaluation import predict_words

    model = load_both_halves(options)
    pairs = training_pairs(options)
    require_same_captions(options, model.recorded_settings["origin"]["data_fingerprint"], pairs)
    split, filtered = test_split(options)
    # what is absent stands in the page
    norms = load_norms(options.datasets_dir, options.word_list, log_absent=False)
    shared = {
        "origin": model.recorded_settings["origin"],
        "text_threshold": model.text_threshold,
        "evaluation_seed": chance_seed(options, model.recorded_settings),
        "dataset": options.dataset,
    }
    results = {
        "text_evaluation": _stored_or_measured(
            options,
            "text_evaluation",
            text_evaluation,
            {**shared, "word_list_sha256": None, **_without_path(word_list_settings(options))},
            training_data(pairs, norms),
            norms.absent,
        )
    }
    results["visual_evaluation"], split, logits = _image_results(
        options, model, split, filtered, shared
    )
    words = predict_words(model.text, pairs.vocabulary)
    box_counts = _box_counts(options, results["visual_evaluation"], split)
    subject = _Subject(options, model, pairs, split, norms, words, logits, box_counts)
    path = options.results_dir / f"report_{options.model_name}.html"
    write_text(path, render_page(_page(subject, results)))
    logger.info("report (%.1f MB): %s", path.stat().st_size / 1e6, path)


def _image_results(
    options: argparse.Namespace,
    model: Model,
    split: "Split",
    filtered: bool,
    shared: Mapping[str, Any],
) -> tuple[dict[str, Any], "Split", np.ndarray]:
    """Return the results of ``visual_evaluation``, the readable test images, their logits (N, C).

    Every image goes through the CNN once, whether there are stored results or not.
    """
    from evaluation.image_evaluation import image_logits

    measured: list[ImageEvaluation] = []
    results = _stored_or_measured(
        # the word list is not among its options
        argparse.Namespace(**vars(options) | {"word_list": None}),
        "visual_evaluation",
        lambda chosen: measured.append(score_images(chosen, model, split, filtered)),
        {**shared, "visual_threshold": model.visual.threshold},
        image_data(split, split, filtered),
        unmeasured_on_images(split, options.datasets_dir),
    )
    if measured:
        return results, measured[0].split, measured[0].logits
    left_out: list[int] = []
    logits = image_logits(model.visual, split, len(split.image_ids), left_out)
    return results, split.without(left_out), logits


def _box_counts(
    options: argparse.Namespace, results: Mapping[str, Any], split: "Split"
) -> np.ndarray | None:
    """Return the (N, 3) hits, false alarms and misses of the test images' boxes.

    None where ``visual_evaluation`` stored none, or those of another evaluation than the results.
    """
    from evaluation.reports import by_image_file

    path = by_image_file(options.results_dir, "visual_evaluation", options.model_name)
    scores = results["metrics"].get("bounding_box")
    if scores is None or not path.is_file():
        return None
    try:
        with reading(path), np.load(path, allow_pickle=False) as stored:
            counts = np.asarray(stored["bounding_box"])
            same_images = np.array_equal(stored["image_ids"], split.image_ids)
    except UserError:  # damaged, which ends no report
        return None
    names = ("true_positives", "false_positives", "false_negatives")
    is_same = same_images and counts.sum(axis=0).tolist() == [scores[name] for name in names]
    return counts if is_same else None


def _without_path(word_list: Mapping[str, str]) -> dict[str, str]:
    """Return what is recorded of a word list without its path: a moved list is the same one."""
    return {name: value for name, value in word_list.items() if name != "word_list"}


def _stored_or_measured(
    options: argparse.Namespace,
    utility: str,
    evaluate: Callable[[argparse.Namespace], object],
    settings: Mapping[str, Any],
    data: Mapping[str, Any],
    unmeasured: Mapping[str, str],
) -> dict[str, Any]:
    """Return an evaluation's stored results where they are what it would find now, or run it."""
    from evaluation.report_page import difference_from_stored

    path = options.results_dir / f"{utility}_{options.model_name}.json"
    if path.is_file():
        stored: dict[str, Any] = _read(path)
        difference = difference_from_stored(stored, settings, data, unmeasured)
        if difference is None:
            logger.info("%s: stored results are used: %s", utility, path)
            return stored
        logger.info("%s: %s holds those of %s; measured anew", utility, path, difference)
    evaluate(argparse.Namespace(**vars(options) | {"utility": utility}))
    measured: dict[str, Any] = _read(path)
    return measured


def _read(path: Path) -> Any:
    """Return the content of a results file, None where it cannot be read."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _baselines(
    options: argparse.Namespace, results: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return the stored metrics of baselines that were measured on the report's data, by name.

    Returns:
        Them, and the results files that are of other data, with what differs.
    """
    from evaluation.report_page import difference_from_stored

    found: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}
    for name in BASELINES:
        for utility, reference in BASELINE_UTILITIES.items():
            measured = results[reference]
            keys = ["dataset"]
            if utility in OF_WORD_LIST:
                keys.append("word_list_sha256")
            settings = {key: measured["settings"].get(key) for key in keys}
            path = options.results_dir / f"{utility}_{name}.json"
            if not path.is_file():
                continue
            stored = _read(path)
            difference = difference_from_stored(stored, settings, measured["data"], {})
            if difference is None:
                found[name] = found.get(name, {}) | stored["metrics"]
            else:
                left_out[path.name] = difference
                logger.info("left out: the baseline's %s holds those of %s", path, difference)
    return found, left_out


def _page(subject: _Subject, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the template reads; absent names the sections without data, with reasons."""
    from evaluation.report_page import concreteness_rows, metric_rows

    text, visual = results["text_evaluation"], results["visual_evaluation"]
    baselines, left_out = _baselines(subject.options, results)
    by_count = concreteness_rows(text["metrics"], baselines)
    page: dict[str, Any] = {
        "model_name": subject.options.model_name,
        "card": _card(subject, results),
        "metrics": metric_rows({**text["metrics"], **visual["metrics"]}, baselines),
        "baselines": list(baselines),
        "baselines_left_out": left_out,
        "not_measured": {**text["not_measured"], **visual["not_measured"]},
        "concreteness_rows": by_count,
        "concreteness_baselines": [
            name for name in baselines if any(row[name] is not None for row in by_count)
        ],
    }
    labels = _labels(subject)
    page |= _curves(subject)
    page |= _clusters(subject, labels)
    page |= _categories(subject)
    page |= _concreteness(subject)
    page |= _words(subject)
    page |= _localization(subject, labels)
    page |= {"histograms": _histograms(subject)}
    page["absent"] = {name: value.why for name, value in page.items() if isinstance(value, _Absent)}
    return page


@dataclass(frozen=True)
class _Absent:
    """In place of a section without data."""

    why: str


def _card(
    subject: _Subject, results: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[tuple[str, Any]]]:
    """Return what is known of the model: where it comes from, its data, its settings."""
    settings = dict(subject.model.recorded_settings)
    origin = settings.pop("origin")
    data = results["text_evaluation"]["data"] | results["visual_evaluation"]["data"]
    return {
        "Training run": [
            ("run id", origin["run"]),
            ("joint steps", origin["step"]),
            ("seed", origin["seed"]),
            ("fingerprint of its captions", origin["data_fingerprint"]),
            ("git commit of the program", origin["commit"] or "not recorded"),
            ("training time", _hours(origin["training_seconds"])),
        ],
        "Data of this report": [
            ("data set", subject.options.dataset),
            *(
                (name.replace("_", " "), len(value) if isinstance(value, list) else value)
                for name, value in data.items()
            ),
            ("trained on these captions", _trained_on(origin["data_fingerprint"], subject.pairs)),
            (
                "seed of chance levels",
                chance_seed(subject.options, subject.model.recorded_settings),
            ),
            ("seed of samples", subject.options.seed),
        ],
        "Settings": [
            (name.replace("_", " "), f"{value:.6g}" if isinstance(value, float) else value)
            for name, value in settings.items()
        ],
    }


def _hours(seconds: float | None) -> str:
    """Return a duration as hours, minutes and seconds; None is a model that does not say."""
    if seconds is None:
        return "not recorded"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min {rest:02} s"


def _trained_on(fingerprint: str | None, pairs: "TrainingPairs") -> str:
    """Say whether a model was trained on some captions; None is a model that does not say."""
    if fingerprint is None:
        return "not known"
    return "yes" if fingerprint == pairs.fingerprint() else "no"


def _curves(subject: _Subject) -> dict[str, Any]:
    """Return the learning curves, from the tables that training wrote: by step where it did."""
    from evaluation.development import TABLE
    from evaluation.report_page import curve_panels, read_development, read_history

    options = subject.options
    # a training's best epoch is kept as a model of its own, the tables under the training's name
    names = (options.model_name, options.model_name.removesuffix("_best"))
    paths = [options.results_dir / name / "evaluation_by_epoch.csv" for name in names]
    path = next((path for path in paths if path.is_file()), None)
    page: dict[str, Any] = {"curves_by": "epoch"}
    if path is None:
        return page | {"curves": _Absent(f"there is no {paths[0]}; training writes it")}
    by_step = path.with_name(TABLE)
    if by_step.is_file():
        steps, history = read_development(by_step)
        panels = curve_panels(history, steps)
        page["curves_by"] = "joint step, at its logarithm"
    else:
        panels = curve_panels(read_history(path))
    return page | {"curves": panels or _Absent(f"{path} has no values")}


def _labels(subject: _Subject) -> list[list[str]]:
    """Return the class names of each cluster."""
    from evaluation.cluster_tables import class_names_by_cluster
    from evaluation.word_evaluation import words_to_clusters

    text, names = subject.model.text, single_word_classes(subject.split)
    return class_names_by_cluster(names, words_to_clusters(text, names)[0], text.cluster_num)


def _clusters(subject: _Subject, labels: Sequence[list[str]]) -> dict[str, Any]:
    """Return the table of clusters, and the gallery of the first of them."""
    from evaluation.cluster_tables import (
        MIN_WORD_COUNT,
        TOP_WORDS,
        cluster_rows,
        living_clusters,
    )

    model, split = subject.model, subject.split
    files = [split.path(image) for image in range(len(split.image_ids))]
    rows = cluster_rows(
        subject.words,
        labels,
        subject.logits,
        files,
        text_threshold=model.text_threshold,
        visual_threshold=model.visual.threshold,
        image_count=EXAMPLES,
    )
    alive = living_clusters(rows)
    if not alive:
        reason = _Absent("no cluster has words or test images")
        return {"clusters": reason, "gallery": reason}
    shown = [row for row in alive if row["test_image_count"]]
    # what has a name is what people look for first
    shown.sort(key=lambda row: not row["class_names"])
    image_of = {str(file): image for image, file in enumerate(files)}
    wanted = {
        row["cluster"]: [
            image_of[example["image"]] for example in row["example_images"] if example["activates"]
        ]
        for row in shown[: subject.options.num_items]
    }
    pictures = _cluster_pictures(subject, wanted)
    # a logit right at the threshold may fall on its other side in another batch: no map then
    gallery = [
        {**rows[c], "pictures": [pictures[at, c] for at in images if (at, c) in pictures]}
        for c, images in wanted.items()
    ]
    absent = _Absent("no test image activates a cluster")
    return {
        "clusters": alive,
        "gallery": gallery or absent,
        "gallery_total": len(shown),
        "least_count": MIN_WORD_COUNT,
        "top_words": TOP_WORDS,
        "examples": EXAMPLES,
    }


def _cluster_pictures(
    subject: _Subject, wanted: Mapping[int, Sequence[int]]
) -> dict[tuple[int, int], dict[str, Any]]:
    """Draw images, and the class activation maps of clusters that they activate over them.

    Args:
        subject: The model and its test images.
        wanted: Cluster -> images.

    Returns:
        (image, cluster) -> the two pictures and the image's id.
    """
    from evaluation.image_evaluation import MAP_SIZE, activated_maps
    from evaluation.localization import upsampled_maps
    from evaluation.report_page import data_uri, with_map

    model, split = subject.model.visual, subject.split
    pairs = {(image, cluster) for cluster, images in wanted.items() for image in images}
    images = np.unique(np.array([image for image, _ in pairs], dtype=np.int64))
    pictures = {}
    start = 0
    for logits, offset, cluster, maps in activated_maps(model, split, images):
        positions = (images[start + offset]).tolist()
        for number, pair in enumerate(zip(positions, cluster.tolist(), strict=True)):
            if pair in pairs:
                picture = _scaled(split.path(pair[0]), CLUSTER_SIDE)
                map_ = upsampled_maps(maps[number : number + 1], MAP_SIZE)[0].cpu().numpy()
                pictures[pair] = {
                    "id": int(split.image_ids[pair[0]]),
                    "image": data_uri(picture),
                    "map": data_uri(with_map(picture, map_)),
                }
        start += len(logits)
    return pictures


def _scaled(path: Path, side: int) -> "PillowImage":
    """Return an image in its own proportions, its longer side so many pixels."""
    from PIL import ImageOps

    from datasets_src.images import open_rgb

    return ImageOps.contain(open_rgb(path), (side, side))


def _categories(subject: _Subject) -> dict[str, Any]:
    """Return how clusters and categories of words meet, and which words fit best and worst."""
    from evaluation.report_page import CELL_SIDE, category_fit, extremes, heat_map
    from evaluation.word_evaluation import known_evaluated_words

    norms, words = subject.norms, subject.words
    sections = ("heat_map", "category_words")
    if norms.categories is None:
        return dict.fromkeys(sections, _Absent(norms.absent["categorization"]))
    in_file, known = known_evaluated_words(words, norms)
    if not len(known):
        return dict.fromkeys(sections, _Absent("the model knows no word of the category file"))
    names = norms.categories.names
    categories, clusters = norms.categories.category[in_file], words.clusters[known]
    fit = category_fit(categories, clusters)

    def rows(positions: np.ndarray) -> list[dict[str, Any]]:
        return [
            {
                "word": words.words[known[at]],
                "category": names[categories[at]],
                "cluster": int(clusters[at]),
                "fit": float(fit[at]),
                "count": int(words.counts[known[at]]),
            }
            for at in positions
        ]

    best, worst = extremes(fit, EXTREME_WORDS)
    return {
        "heat_map": heat_map(categories, clusters, names),
        "cell_side": CELL_SIDE,
        "category_words": {"best": rows(best), "worst": rows(worst)},
    }


def _concreteness(subject: _Subject) -> dict[str, Any]:
    """Return predicted against human concreteness, and the words where they differ least and most.

    Only frequent words: rarer ones get extreme probabilities by accident.
    """
    from evaluation.cluster_tables import MIN_WORD_COUNT
    from evaluation.report_page import extremes, rank_differences, scatter

    norms, words = subject.norms, subject.words
    sections = ("scatter", "concreteness_words")
    if norms.concreteness is None:
        return dict.fromkeys(sections, _Absent(norms.absent["concreteness"]))
    rated = [
        position
        for position, word in enumerate(words.words)
        if word in norms.concreteness and words.counts[position] >= MIN_WORD_COUNT
    ]
    if not rated:
        return dict.fromkeys(sections, _Absent("no frequent training word has a rating"))
    ratings = np.array([norms.concreteness[words.words[position]] for position in rated])
    predicted, counts = words.probabilities[rated], words.counts[rated]
    differences = rank_differences(predicted, ratings)

    def rows(positions: np.ndarray) -> list[dict[str, Any]]:
        return [
            {
                "word": words.words[rated[at]],
                "rating": float(ratings[at]),
                "predicted": float(predicted[at]),
                "difference": float(differences[at]),
                "count": int(counts[at]),
            }
            for at in positions
        ]

    best, worst = extremes(-np.abs(differences), EXTREME_WORDS)
    shown = slice(SHOWN_WORDS)  # words stand by falling count
    names = [words.words[position] for position in rated[shown]]
    return {
        "scatter": scatter(names, counts[shown], ratings[shown], predicted[shown]),
        "least_rated_count": MIN_WORD_COUNT,
        "rated_total": len(rated),
        "concreteness_words": {"best": rows(best), "worst": rows(worst)},
    }


def _words(subject: _Subject) -> dict[str, Any]:
    """Return the table of the most frequent words."""
    from evaluation.cluster_tables import TOP_CLUSTERS, top_clusters, word_rows
    from evaluation.word_evaluation import posterior_rows

    categories, vocabulary = subject.norms.categories, subject.pairs.vocabulary
    shown = vocabulary.words[:SHOWN_WORDS]
    clusters, probabilities = top_clusters(posterior_rows(subject.model.text, shown), TOP_CLUSTERS)
    rows = word_rows(
        shown,
        vocabulary.counts[:SHOWN_WORDS],
        clusters,
        probabilities,
        probabilities[:, 0],
        subject.norms.concreteness or {},
        {} if categories is None else categories.by_word(),
    )
    return {"words": rows, "word_total": len(vocabulary.words)}


def _localization(subject: _Subject, labels: Sequence[list[str]]) -> dict[str, Any]:
    """Return test images, the best and others at random, with hits, misses and false alarms."""
    from evaluation.demonstrations import gold_objects
    from evaluation.image_evaluation import MAP_SIZE, MATCH_IOU, activated_maps
    from evaluation.localization import box_iou, boxes_and_peaks, match_boxes
    from evaluation.report_page import data_uri, localization_images

    options, split = subject.options, subject.split
    page: dict[str, Any] = {"map_size": MAP_SIZE, "match_iou": MATCH_IOU}
    if split.instances is None:
        return page | {"localization": _Absent(f"no instances of {split.name}")}
    best, drawn = localization_images(
        subject.box_counts,
        len(split.image_ids),
        min(options.num_items, LOCALIZED),
        options.seed,
    )
    images = np.concatenate([best, drawn])
    examples: list[dict[str, Any]] = []
    for logits, offset, cluster, maps in activated_maps(subject.model.visual, split, images):
        all_boxes, _ = boxes_and_peaks(maps, MAP_SIZE)
        for position in range(len(logits)):
            image = int(images[len(examples)])
            gold = gold_objects(split, image)
            assert gold is not None  # there are instances
            chosen = np.flatnonzero(offset == position)
            boxes = all_boxes[chosen]
            hit, found = match_boxes(box_iou(boxes, gold.boxes) >= MATCH_IOU)
            examples.append(
                {
                    "id": int(split.image_ids[image]),
                    "image": data_uri(_scaled(split.path(image), LOCALIZED_SIDE)),
                    "predicted": [
                        {
                            "box": box.tolist(),
                            "label": ", ".join([f"cluster {c}", *labels[c]]),
                            "hit": bool(is_hit),
                        }
                        for box, c, is_hit in zip(boxes, cluster[chosen], hit, strict=True)
                    ],
                    "gold": [
                        {"box": box.tolist(), "label": name, "hit": bool(is_found)}
                        for box, name, is_found in zip(
                            gold.boxes, gold.class_names, found, strict=True
                        )
                    ],
                }
            )
    groups = {"Most hits": examples[: len(best)], "Drawn at random": examples[len(best) :]}
    return page | {"localization": {title: group for title, group in groups.items() if group}}


def _histograms(subject: _Subject) -> dict[str, Any]:
    """Return how many clusters the test images and their first captions activate."""
    from datasets_src.captions import encode_captions
    from evaluation.image_evaluation import caption_bits
    from evaluation.report_page import histogram

    model, split = subject.model, subject.split
    bits = subject.logits >= model.visual.threshold  # (N, C)
    histograms = {"images": histogram(bits.sum(axis=1), "images")}
    first = split.first_captions()
    texts = [split.captions[caption] for caption in first[first >= 0]]
    if texts:
        tokens = encode_captions(texts, model.text.words).padded(np.arange(len(texts)))
        bits = caption_bits(model.text, tokens, model.text_threshold, model.visual.device)
        histograms["captions"] = histogram(bits.sum(axis=1), "captions")
    return histograms
