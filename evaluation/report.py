"""One page that shows a model: what it scores, its clusters, its words and its pictures.

The page measures what it shows itself and writes nothing but itself: results stay those that the
evaluations stored. ``report_figures.py`` draws, ``templates/report.html`` says what it looks like.

Axes: W words, N test images, C clusters, K categories, P predicted and G gold boxes.
"""

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image, ImageOps
from sklearn.metrics import cohen_kappa_score

from datasets_src.captions import encode_captions
from datasets_src.norms import Norms, load_norms
from datasets_src.splits import Split
from evaluation import cluster_tables, inputs, joint_evaluation
from evaluation.acquisition import TABLE
from evaluation.demonstrations import gold_objects
from evaluation.image_evaluation import MAP_SIZE, MATCH_IOU, activations_by_image, boxes_match
from evaluation.localization import boxes_and_peaks, match_boxes
from evaluation.metrics_table import METRICS, chance_level
from evaluation.report_figures import curves_svg, data_uri, scatter_svg, with_map
from evaluation.reports import HISTORY, flatten, format_word, read_development, read_history
from evaluation.results import data_identity, identity_differences
from evaluation.word_evaluation import (
    WordPredictions,
    known_evaluated_words,
    predict_words,
    word_metrics,
)
from utils.errors import UserError
from utils.files import read_json, write_text

# the page's size is bounded by these and by --num_items, on full COCO, too
FIRST_CLUSTERS = 6  # on the first screen
CLUSTER_IMAGES = 4  # of each cluster
CLUSTER_WORDS = 6
SHOWN_WORDS = 2000  # the most frequent ones, in the table and in the scatter
EXTREME_WORDS = 12  # those whose concreteness is most off, on either side
CLUSTER_SIDE, LOCALIZED_SIDE = 112, 240  # pixels of an image's longer side
FALSE_ALARMS = 4  # boxes drawn in one image, the strongest
SHADES = 4  # of cells: shares up to a quarter, a half, three quarters, and all
DIFFERS_BELOW = 0.2  # kappa up to which agreement is "slight" (Landis and Koch 1977)
BUILT_ALIKE = ("visual_encoder", "text_encoder", "cluster_num", "image_size")

# questions of the tables at the end -> sections of the results; the rest stands under "More"
QUESTIONS = {
    "Do word clusters match human categories?": ("categorization",),
    "Does the model know which words are concrete?": (
        "concreteness", "concreteness_without_reference_words",
    ),
    "Do words that people associate share a cluster?": ("word_association",),
    "Do clusters name what is in an image?": (
        "class_name_classification", "cluster_classification_co_occurrence",
        "cluster_classification_iou",
    ),
    "Do clusters see where things are?": ("bounding_box", "heatmap"),
    "Does an image activate the clusters of its caption?": ("sentence_image_matching",),
    "How many clusters are in use?": ("cluster_counts", "activation"),
}  # fmt: skip
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Subject:
    """What the report is about, and all that is read and measured for it."""

    options: argparse.Namespace
    model: inputs.Model
    norms: Norms
    words: WordPredictions
    images: joint_evaluation.ImageEvaluation
    class_names: list[list[str]]  # of each cluster
    metrics: dict[str, Any]
    data: dict[str, Any]


class _Absent(str):
    """Why a section has no data."""


def report(options: argparse.Namespace) -> None:
    """Write one HTML page about a model."""
    model, pairs = inputs.load_both_halves(options), inputs.training_pairs(options)
    settings = model.recorded_settings
    inputs.warn_of_other_captions(options, settings["origin"]["data_fingerprint"], pairs)
    asked = inputs.test_split(options)
    norms = load_norms(options.datasets_dir, options.word_list)
    words = predict_words(model.text, pairs.vocabulary)
    seed = inputs.chance_seed(options, settings)
    images = joint_evaluation.evaluate_images(model, asked, seed)
    metrics = word_metrics(words, norms, model.text_threshold, seed) | images.metrics
    data = inputs.training_data(pairs, norms) | inputs.image_data(asked, images.split)
    data |= {"dataset": options.dataset, "evaluation_seed": seed}
    names = cluster_tables.class_names_by_cluster(model.text, inputs.single_word_classes(asked))
    subject = _Subject(options, model, norms, words, images, names, metrics, data)
    others = _stored_others(subject)
    page = {
        "model_name": options.model_name,
        "settings": settings,
        "data": data,
        "given": options.given,
        "figures": key_figures(metrics, others),
        "others": others,
        "not_measured": norms.absent | inputs.unmeasured_on_images(asked, options.datasets_dir),
        "questions": question_tables(metrics, others),
        "concreteness": metrics["concreteness"],
    }
    for section in (_curves, _clusters, _heat_map, _concreteness, _localization, _words):
        page |= section(subject)
    page["absent"] = {name: value for name, value in page.items() if isinstance(value, _Absent)}
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    templates.filters |= {"number": two_decimals, "word": format_word}
    path = options.results_dir / f"report_{options.model_name}.html"
    write_text(path, templates.get_template("report.html").render(page))
    logger.info("report (%.1f MB): %s", path.stat().st_size / 1e6, path)


def two_decimals(value: Any) -> str:
    """Return a value as the page shows it; a dash for None."""
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.2f}".replace("-0.00", "0.00") if isinstance(value, float) else str(value)


# ---- numbers


@dataclass(frozen=True)
class Others:
    """Stored models to compare with, their metrics flattened."""

    control: str | None  # trained alike, with random votes to the end
    control_metrics: dict[str, Any]
    baselines: dict[str, dict[str, Any]]  # name -> metrics
    left_out: dict[str, str]  # file -> why

    def beside(self, path: str, own: Mapping[str, Any]) -> dict[str, Any]:
        """Return what stands beside the model's ``own`` metric: chance, control, best baseline."""
        known = [
            (scores[path], name.replace("_", " "))
            for name, scores in self.baselines.items()
            if scores.get(path) is not None
        ]
        return {
            "chance": chance_level(own, path),
            "control": self.control_metrics.get(path),
            "baseline": max(known, default=None),
        }


def _stored_others(subject: _Subject) -> Others:
    """Find the control and the baselines among the stored results of the same data.

    Results without the origin of a joint model are a baseline's. A joint model is the control if
    its votes were random to its last step and it is built as this one; of several, the one of the
    same seed, then the first by name.
    """
    settings = subject.model.recorded_settings
    word_list = inputs.word_list_settings(subject.options)
    own = data_identity({"metrics": subject.metrics, "settings": word_list, "data": subject.data})
    controls: dict[tuple[bool, str], dict[str, Any]] = {}  # first key: whether the seed is another
    baselines: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}
    for path in sorted(subject.options.results_dir.glob("*.json")):
        try:
            stored = read_json(path)
            name, its = stored["model_name"], stored["settings"]
            origin, scores = its.get("origin"), flatten(stored["metrics"])
            is_other = origin and (
                its["random_start_steps"] < origin["step"]
                or any(its[key] != settings[key] for key in BUILT_ALIKE)
            )
            if is_other or stored["utility"].startswith("random_"):
                continue
            differences = identity_differences(data_identity(stored), own)
        except (UserError, KeyError, TypeError, AttributeError):
            continue  # another tool's file, or a damaged one
        if differences:
            left_out[path.name] = ", ".join(differences)
            logger.info("not compared with: %s has %s", path, left_out[path.name])
        elif origin:
            controls.setdefault((its["seed"] != settings.get("seed"), name), {}).update(scores)
        else:
            baselines.setdefault(name, {}).update(scores)
    (_, control), found = min(controls.items(), default=((False, None), {}))
    return Others(control, found, baselines, left_out)


def key_figures(metrics: Mapping[str, Any], others: Others) -> list[dict[str, Any]]:
    """Return the figures of the first screen that are known, each with bars (label, value, width).

    Widths are per cent of 1, or of the largest value where one is above 1.
    """
    flat = flatten(metrics)
    figures = []
    for metric in METRICS:
        if not metric.key or flat.get(metric.path) is None:
            continue
        beside = others.beside(metric.path, flat)
        best, name = beside.pop("baseline") or (None, "")
        values = {"model": flat[metric.path], **beside, name: best}
        known = {name: value for name, value in values.items() if value is not None}
        top = max(1.0, *known.values())
        bars = [(name, value, max(0, round(100 * value / top))) for name, value in known.items()]
        figures.append({"label": metric.label, "bars": bars})
    return figures


def question_tables(metrics: Mapping[str, Any], others: Others) -> dict[str, list[dict[str, Any]]]:
    """Return for each question its tables: a title with the counts, and a row for each score."""
    flat = flatten(metrics)
    question_of = {name: asked for asked, sections in QUESTIONS.items() for name in sections}
    tables: dict[str, dict[str, dict[str, Any]]] = {asked: {} for asked in (*QUESTIONS, "More")}
    for path, value in flat.items():
        section, (group, _, leaf) = path.partition(".")[0], path.rpartition(".")
        if section.endswith("_chance") or "_by_min_count" in path or value is None:
            continue
        title, label = group.replace("_", " ").replace(".", ", "), leaf.replace("_", " ")
        of_question = tables[question_of.get(section, "More")]
        table = of_question.setdefault(group, {"title": title, "counts": [], "rows": []})
        if isinstance(value, int):
            table["counts"].append(f"{label} {value:,}")
            continue
        beside = others.beside(path, flat)
        best = beside["baseline"]
        beside["baseline"] = best and f"{best[0]:.2f} ({best[1]})"
        table["rows"].append({"metric": label, "value": value, **beside})
    return {asked: list(found.values()) for asked, found in tables.items() if found}


def _curves(subject: _Subject) -> dict[str, Any]:
    """Return the learning curves, from the tables that training wrote: by step where it did."""
    options = subject.options
    # a training's best epoch is kept as a model of its own, the tables under the training's name
    for name in (options.model_name, options.model_name.removesuffix("_best")):
        folder = options.results_dir / name
        if (folder / TABLE).is_file():
            return {"curves": curves_svg(*read_development(folder / TABLE), by_step=True)}
        if (folder / HISTORY).is_file():
            history = read_history(folder / HISTORY)
            return {"curves": curves_svg(range(1, len(history) + 1), history, by_step=False)}
    absent = options.results_dir / options.model_name / HISTORY
    return {"curves": _Absent(f"there is no {absent}; training writes it")}


# ---- clusters


def _clusters(subject: _Subject) -> dict[str, Any]:
    """Return the clusters in use, those first whose words and images agree best."""
    model, split, logits = subject.model, subject.images.split, subject.images.logits
    rows = cluster_tables.living_clusters(
        cluster_tables.cluster_rows(
            subject.words,
            subject.class_names,
            logits,
            [split.path(image) for image in range(len(logits))],
            text_threshold=model.text_threshold,
            visual_threshold=model.visual.threshold,
            image_count=CLUSTER_IMAGES,
        )
    )
    if not rows:
        return {"clusters": _Absent("no cluster has words or test images")}
    words = {
        row["cluster"]: [top["word"] for top in row["top_words"][:CLUSTER_WORDS]] for row in rows
    }
    bits = logits >= model.visual.threshold  # (N, C)
    mentions = _mentions(subject, words)  # (N, C)
    captioned = split.first_captions() >= 0  # (N,)
    best = np.argsort(-logits, axis=0, kind="stable")[:CLUSTER_IMAGES]  # (images, C)
    wanted = [(int(i), c) for c in words for i in best[:, c] if bits[i, c]]
    pictures = _cluster_pictures(subject, wanted)
    cards = []
    for row in rows:
        cluster = row["cluster"]
        seen, said = bits[captioned, cluster], mentions[captioned, cluster]
        image_count, mentioned = row["test_image_count"], int(said.sum())
        kappa = None
        if image_count and mentioned and len(np.unique([seen, said])) > 1:  # else undefined
            kappa = float(cohen_kappa_score(seen, said))
        is_judged = min(image_count, mentioned) >= CLUSTER_IMAGES  # fewer agree by accident
        card = {
            "words": words[cluster],
            "mentioned": mentioned,
            "kappa": kappa,
            "differs": kappa is not None and round(kappa, 2) < DIFFERS_BELOW,  # as shown
            "pictures": [pictures[at] for at in wanted if at[1] == cluster and at in pictures],
            "rank": (not is_judged, 2.0 if kappa is None else -kappa),
        }
        cards.append(row | card)
    cards.sort(key=lambda card: card["rank"])
    judged = sum(not card["rank"][0] for card in cards)
    return {"clusters": cards, "first_clusters": FIRST_CLUSTERS, "judged": judged}


def _mentions(subject: _Subject, words: Mapping[int, Sequence[str]]) -> np.ndarray:
    """Return whose captions mention a word of which cluster, (N, C) bool."""
    split, names = subject.images.split, subject.model.text.words
    cluster_of = {word: cluster for cluster, its_words in words.items() for word in its_words}
    clusters = np.array([*(cluster_of.get(word, -1) for word in names), -1])  # (V + 1,)
    captions = encode_captions(split.captions, names)
    image = np.repeat(split.caption_image, np.diff(captions.offsets))  # (T,)
    cluster = clusters[captions.tokens]  # (T,), the last one's for unknown words
    mentions = np.zeros(subject.images.logits.shape, dtype=bool)
    mentions[image[cluster >= 0], cluster[cluster >= 0]] = True
    return mentions


def _cluster_pictures(
    subject: _Subject, wanted: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], dict[str, Any]]:
    """Draw images with the class activation maps of clusters over them.

    One of those wanted, (image, cluster), that is right at the threshold may fall on its other side
    in another batch, and has no picture then.
    """
    split = subject.images.split
    images = np.unique([image for image, _ in wanted]).astype(np.int64)
    pictures = {}
    for image, clusters, maps in activations_by_image(subject.model.visual, split, images):
        for cluster, map_ in zip(clusters.tolist(), maps.cpu().numpy(), strict=True):
            if (image, cluster) in wanted:
                drawn = with_map(_picture(split, image, CLUSTER_SIDE), map_)
                id_ = int(split.image_ids[image])
                pictures[image, cluster] = {"id": id_, "uri": data_uri(drawn)}
    return pictures


def _picture(split: Split, image: int, side: int) -> Image.Image:
    """Return an image whose longer side has so many pixels."""
    return ImageOps.contain(split.images(side).open(image), (side, side))


# ---- words


def _heat_map(subject: _Subject) -> dict[str, Any]:
    """Return how clusters and categories of words meet, of the words that the model knows."""
    norms, words = subject.norms, subject.words
    if norms.categories is None:
        return {"heat_map": _Absent(norms.absent["categorization"])}
    in_file, known = known_evaluated_words(words, norms)
    if not len(known):
        return {"heat_map": _Absent("the model knows no word of the category file")}
    categories, names = norms.categories.category[in_file], norms.categories.names
    known_words = [words.words[at] for at in known]
    return {"heat_map": heat_map(categories, words.clusters[known], names, known_words)}


def heat_map(
    categories: np.ndarray, clusters: np.ndarray, names: Sequence[str], words: Sequence[str]
) -> dict[str, Any]:
    """Return the words of each category in each cluster, ordered so that blocks lie diagonally.

    Categories (W,), indices of the K names, stand by falling number of words (ties: the order of
    the names); a cluster stands with the category it has most words of, the largest first.
    ``columns`` are clusters; ``rows`` (category, cells), a cell None or its words and shade.
    """
    table = pd.DataFrame({"category": categories, "cluster": clusters, "word": list(words)})
    words_of = table.groupby(["category", "cluster"])["word"].agg(list)
    counts = words_of.map(len).unstack(fill_value=0)  # (categories, clusters)
    sizes = counts.sum(axis=1).sort_values(ascending=False, kind="stable")
    counts = counts.loc[sizes.index]
    largest = counts.to_numpy().argmax(axis=0)  # of each cluster
    columns = counts.columns[np.lexsort([counts.columns, -counts.max(), largest])].tolist()

    def cell(category: int, cluster: int) -> dict[str, Any] | None:
        inside = words_of.get((category, cluster), [])
        shade = -(-len(inside) * SHADES // sizes[category]) - 1
        return {"words": inside, "shade": shade} if inside else None

    rows = [(names[row], [cell(row, column) for column in columns]) for row in sizes.index]
    return {"columns": columns, "rows": rows}


def _concreteness(subject: _Subject) -> dict[str, Any]:
    """Return predicted against human concreteness, and the words that are most off.

    Only frequent words: rarer ones get extreme probabilities by accident.
    """
    words, ratings = subject.words, subject.norms.concreteness
    if ratings is None:
        return {"scatter": _Absent(subject.norms.absent["concreteness"])}
    table = pd.DataFrame({"word": list(words.words), "predicted": words.probabilities})
    table["human"] = table["word"].map(ratings)
    is_frequent = words.counts >= cluster_tables.MIN_WORD_COUNT
    table = table[is_frequent & table["human"].notna()]  # words stand by falling count
    if table.empty:
        return {"scatter": _Absent("no frequent training word has a rating")}
    higher = table["predicted"].rank() - table["human"].rank()  # ranks above people's
    by_difference = table["word"][higher.sort_values(kind="stable").index].tolist()
    nearest = table["word"][higher.abs().sort_values(kind="stable").index].tolist()
    extreme = min(EXTREME_WORDS, len(table) // 3)
    shown = table[:SHOWN_WORDS]
    return {
        "scatter": scatter_svg(shown["word"], shown["human"], shown["predicted"]),
        "least_count": cluster_tables.MIN_WORD_COUNT,
        "too_concrete": by_difference[::-1][:extreme],
        "too_abstract": by_difference[:extreme],
        "ranked_alike": nearest[:extreme],
    }


def _words(subject: _Subject) -> dict[str, Any]:
    """Return the table of the most frequent words."""
    words, probabilities = subject.words, subject.words.probabilities
    best = words.clusters[:, None], probabilities[:, None]
    rows = cluster_tables.word_rows(words.words, words.counts, *best, probabilities, subject.norms)
    return {"word_total": len(rows), "words": rows[:SHOWN_WORDS]}


# ---- boxes


def typical_images(counts: np.ndarray, count: int) -> dict[str, list[int]]:
    """Choose images that show hits, misses and false alarms, each once.

    Typical ones: their numbers of gold and of predicted boxes are nearest to the medians (ties:
    the first). ``counts`` are (N, 3) hits, false alarms and misses, ``count`` is the most wanted.
    """
    boxes = np.stack([counts[:, 0] + counts[:, 2], counts[:, 0] + counts[:, 1]], axis=1)  # (N, 2)
    distance = np.abs(boxes - np.median(boxes, axis=0)).sum(axis=1)  # (N,)
    chosen: list[int] = []
    order = np.argsort(distance, kind="stable")
    groups = {}
    for at, (column, title) in enumerate(((0, "Hits"), (2, "Misses"), (1, "False alarms"))):
        fits = [int(i) for i in order if counts[i, column] and i not in chosen]
        groups[title] = fits[: (count - len(chosen)) // (3 - at)]
        chosen += groups[title]
    return {title: images for title, images in groups.items() if images}


def _localization(subject: _Subject) -> dict[str, Any]:
    """Return typical test images with hits, misses and false alarms of predicted boxes."""
    split = subject.images.split
    if split.instances is None:
        return {"localization": _Absent(f"no instances of {split.name}")}
    counts = subject.images.by_image["bounding_box"]
    groups = typical_images(counts, subject.options.num_items)
    if not groups:
        return {"localization": _Absent("no test image has a gold or a predicted box")}
    images = np.array([image for chosen in groups.values() for image in chosen])
    examples: dict[int, dict[str, Any]] = {}
    for image, clusters, maps in activations_by_image(subject.model.visual, split, images):
        boxes, _ = boxes_and_peaks(maps, MAP_SIZE)
        gold = gold_objects(split, image)
        hit, found = match_boxes(boxes_match(boxes, gold.boxes))
        false_alarms = np.flatnonzero(~hit)  # the strongest first
        shown = np.concatenate([np.flatnonzero(hit), false_alarms[:FALSE_ALARMS]])
        labels = [", ".join((f"cluster {c}", *subject.class_names[c])) for c in clusters[shown]]
        examples[image] = {
            "id": int(split.image_ids[image]),
            "uri": data_uri(_picture(split, image, LOCALIZED_SIDE)),
            "predicted": _boxes(boxes[shown], labels, hit[shown]),
            "false_alarms": len(false_alarms),
            "gold": _boxes(gold.boxes, gold.class_names, found),
        }
    return {
        "localization": {title: [examples[i] for i in chosen] for title, chosen in groups.items()},
        "with_hits": int((counts[:, 0] > 0).sum()),
        "image_count": len(counts),
        "shown_false_alarms": FALSE_ALARMS,
        "map_size": MAP_SIZE,
        "match_iou": MATCH_IOU,
    }


def _boxes(boxes: np.ndarray, labels: Sequence[str], hit: np.ndarray) -> list[dict[str, Any]]:
    return [
        {"box": box.tolist(), "label": label, "hit": bool(is_hit)}
        for box, label, is_hit in zip(boxes, labels, hit, strict=True)
    ]
