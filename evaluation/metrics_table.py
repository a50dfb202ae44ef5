"""The metrics that tables, pages and curves show: one row each, and no other list of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CHANCE_SUFFIX = "_chance"  # of a section that holds another's chance levels
EQUAL_GUESS_SUFFIX = "_equal_guess_chance"  # where there is one, tables compare with it


@dataclass(frozen=True)
class Metric:
    """One score in the results of the evaluations; the higher, the better."""

    path: str  # its place in the metrics of a results file, names joined by dots
    label: str
    resampled_over: str | None = None  # "words", "images" or "pairs": units of significance tests
    chance: float | None = None  # level without any knowledge, where results need not hold it
    key: bool = False  # whether it is among the eight that terminal and report show first


def chance_level(flat: Mapping[str, Any], path: str) -> float | None:
    """Return the chance level of a score in metrics flattened by ``flatten``; None without."""
    if path in BY_PATH and BY_PATH[path].chance is not None:
        return BY_PATH[path].chance
    section, _, rest = path.partition(".")
    places = (f"{section}{suffix}.{rest}" for suffix in (EQUAL_GUESS_SUFFIX, CHANCE_SUFFIX))
    return next((flat[place] for place in places if place in flat), None)


_WORDS = "categorization.known_words"
_R = "concreteness.pearson_by_min_count"
_MATCHING = "sentence_image_matching"

METRICS = (
    Metric(f"{_WORDS}.adjusted_mutual_info", "words: adjusted mutual information", "words",
           key=True),
    Metric(f"{_WORDS}.f_score", "words: F-score", "words", key=True),
    Metric(f"{_WORDS}.v_measure", "words: V-measure"),
    Metric("categorization.all_words.f_score", "all words: F-score"),
    Metric(f"{_R}.0.r", "concreteness r"),
    Metric(f"{_R}.20.r", "concreteness r, count > 20", "words", 0.0, key=True),
    Metric("concreteness.frequency_baseline_by_min_count.20.r", "log frequency r, count > 20"),
    Metric("word_association.mean_association_strength", "word association", key=True),
    Metric("class_name_classification.f1", "class names f1", "images", key=True),
    Metric("cluster_classification_co_occurrence.f1", "classes by co-occurrence f1", "images"),
    Metric("cluster_classification_iou.f1", "classes by overlap f1", "images"),
    Metric("bounding_box.f1", "boxes f1", "images", key=True),
    Metric("heatmap.f1", "heatmaps f1", "images", key=True),
    Metric(f"{_MATCHING}.accuracy", "sentence-image matching", "pairs"),
    Metric(f"{_MATCHING}.accuracy_half_ties", "matching, ties count half", "pairs", 0.5, key=True),
)  # fmt: skip
BY_PATH = {metric.path: metric for metric in METRICS}
# sections of results that need instances
INSTANCE_SECTIONS = (
    *(metric.path.partition(".")[0] for metric in METRICS if metric.resampled_over == "images"),
    *(f"bounding_box{suffix}" for suffix in (CHANCE_SUFFIX, EQUAL_GUESS_SUFFIX)),
    *(f"heatmap{suffix}" for suffix in (CHANCE_SUFFIX, EQUAL_GUESS_SUFFIX)),
)
