"""A model while it learns: its metrics by step, as a table for R or pandas and as plots."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pandas as pd

from datasets_src.captions import Vocabulary
from datasets_src.norms import Norms
from evaluation.categorization import category_scores
from evaluation.reports import Panel, draw_curves, flatten, metric_panels
from evaluation.word_evaluation import (
    NO_CLUSTER,
    known_evaluated_words,
    predict_words,
    word_metrics,
)
from models_src.development import Moment, Values
from models_src.text_encoders.interface import TextEncoder
from utils.files import write_text

COLUMNS = ("step", "pairs", "tokens", "kind", "name", "metric", "value")
TABLE = "development.csv"
PLOTS = {  # kind of thing -> its plot
    "model": "development_metrics.png",
    "category": "development_categories.png",
    "word": "development_words.png",
}


def development_values(
    text: TextEncoder,
    vocabulary: Vocabulary,
    norms: Norms,
    watched: Sequence[str],
    text_threshold: float,
    seed: int,
) -> Values:
    """Return what a text encoder, its p(c|w) up to date, knows.

    - ``model``: every word metric (see ``word_metrics``) under the name "".
    - ``category``: the ``category_scores`` of the known evaluated words.
    - ``word``: of each watched word its most probable ``cluster``, None for one not known yet, and
      that cluster's ``probability``, which is the word's concreteness.
    """
    predictions = predict_words(text, vocabulary)
    values: Values = {
        "model": {"": flatten(word_metrics(predictions, norms, text_threshold, seed))},
        "word": {},
    }
    if norms.categories is not None:
        in_file, in_predictions = known_evaluated_words(predictions, norms)
        found = category_scores(
            norms.categories.category[in_file], predictions.clusters[in_predictions]
        )
        values["category"] = {
            norms.categories.names[category]: dict(scores) for category, scores in found.items()
        }
    for word in watched:
        place = predictions.words.index(word)
        cluster = int(predictions.clusters[place])
        values["word"][word] = {
            "probability": float(predictions.probabilities[place]),
            "cluster": None if cluster == NO_CLUSTER else cluster,
        }
    return values


def write_development(path: Path, moments: Sequence[Moment]) -> None:
    """Write the table: a line for each value (tidy data), empty where it is undefined."""
    rows = [
        (moment.step, moment.pairs, moment.tokens, kind, name, metric, value)
        for moment in moments
        for kind, names in moment.values.items()
        for name, metrics in names.items()
        for metric, value in metrics.items()
    ]
    write_text(path, pd.DataFrame(rows, columns=COLUMNS, dtype=object).to_csv(index=False))


def draw_development(folder: Path, moments: Sequence[Moment], title: str) -> None:
    """Draw the metrics, the categories' F1 and the watched words' probabilities over steps.

    A plot without anything to show is not there afterwards, whatever stood there.
    """
    clusters = _series(moments, "word", "cluster")
    plots: dict[str, tuple[str, list[Panel]]] = {
        "model": (title, metric_panels([moment.values["model"][""] for moment in moments])),
        "category": (
            f"{title}: F1 of each category and the cluster that fits it best",
            [
                Panel(name, "F1", {name: values})
                for name, values in _series(moments, "category", "f1").items()
            ],
        ),
        "word": (
            f"{title}: probability of a word's best cluster, and its number where it changes",
            [
                Panel(word, "probability", {word: values}, _changes(clusters[word]))
                for word, values in _series(moments, "word", "probability").items()
            ],
        ),
    }
    steps = [moment.step for moment in moments]
    for kind, (heading, panels) in plots.items():
        path = folder / PLOTS[kind]
        if panels:
            draw_curves(path, steps, panels, heading, by_step=True, small=kind != "model")
        else:
            path.unlink(missing_ok=True)


def _series(moments: Sequence[Moment], kind: str, metric: str) -> dict[str, list[float | None]]:
    """Return a metric over moments for each thing of a kind, in order of first appearance."""
    names = dict.fromkeys(name for moment in moments for name in moment.values.get(kind, {}))
    return {
        name: [moment.values[kind].get(name, {}).get(metric) for moment in moments]
        for name in names
    }


def _changes(values: Sequence[float | None]) -> list[str]:
    """Return each value as text where it is another one than before, else ""."""
    return [
        "" if value is None or value == before else f"{value:g}"
        for before, value in pairwise([None, *values])
    ]
