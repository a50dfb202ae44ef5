"""What the clusters of a model hold, as tables: a row for each word, a row for each cluster.

Axes: W words of the training captions by falling count, C clusters, N images.
"""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datasets_src.norms import Norms
from evaluation.reports import format_rows
from evaluation.word_evaluation import WordPredictions, words_to_clusters
from models_src.text_encoders.interface import TextEncoder

MIN_WORD_COUNT = 5  # rarer words get extreme probabilities by accident
TOP_CLUSTERS = 3  # clusters listed for a word
TOP_WORDS = 10  # words listed for a cluster
SHOWN_WORDS = 5  # of them in the printed table
CELL_WIDTH = 24  # characters of class names in the printed table

WORD_COLUMNS = (
    "word", "count", "cluster", "probability", "concreteness", "concreteness_rating", "category",
    *(f"{name}_{k}" for k in range(1, TOP_CLUSTERS + 1) for name in ("cluster", "probability")),
)  # fmt: skip


def top_clusters(posteriors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return each word's ``count`` most probable clusters, ties: the lowest index first.

    Given (W, C) p(c|w), (W, K) int64 clusters, -1 where the probability is 0, and (W, K)
    probabilities; K is the smaller of ``count`` and C.
    """
    order = np.argsort(-posteriors, axis=1, kind="stable")[:, :count]  # (W, K)
    probabilities = np.take_along_axis(posteriors, order, axis=1)
    return np.where(probabilities > 0, order, -1), probabilities


def word_rows(
    words: Sequence[str],
    counts: np.ndarray,
    clusters: np.ndarray,
    probabilities: np.ndarray | None,
    concreteness: np.ndarray | None,
    norms: Norms,
) -> list[dict[str, Any]]:
    """Return one row of ``WORD_COLUMNS`` for each word; None where there is no value.

    ``clusters`` (W, K) fit each word best, the best first, negative for none, ``probabilities``
    (W, K) are their p(c|w), and ``concreteness`` (W,) is the model's own, in 0..1.
    """
    ratings = norms.concreteness or {}
    categories = {} if norms.categories is None else norms.categories.by_word()
    rows = []
    for at, word in enumerate(words):
        row: dict[str, Any] = dict.fromkeys(WORD_COLUMNS)
        row |= {"word": word, "count": int(counts[at])}
        row |= {"concreteness_rating": ratings.get(word), "category": categories.get(word)}
        row["concreteness"] = None if concreteness is None else float(concreteness[at])
        for k, cluster in enumerate(clusters[at].tolist(), start=1):
            if cluster >= 0:
                row[f"cluster_{k}"] = cluster
                if probabilities is not None:
                    row[f"probability_{k}"] = float(probabilities[at, k - 1])
        row |= {"cluster": row["cluster_1"], "probability": row["probability_1"]}
        rows.append(row)
    return rows


def word_rows_as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of words as CSV: twelve significant digits, empty cells for None.

    ``compare_models`` scores words by this table. With eight digits a model whose probabilities
    hardly differ had other scores by it.
    """
    table = pd.DataFrame(rows, columns=WORD_COLUMNS, dtype=object).convert_dtypes()
    return str(table.to_csv(index=False, float_format="%.12g"))


def words_by_cluster(
    clusters: np.ndarray, probabilities: np.ndarray, cluster_num: int
) -> list[np.ndarray]:
    """Return for each of C clusters the positions of the words it is the most probable cluster of.

    The highest probability comes first (ties: the word that stands first). Given are (W,) the most
    probable cluster of each word, ``NO_CLUSTER`` to leave the word out, and its probability.
    """
    order = np.argsort(-probabilities, kind="stable")  # (W,)
    return [order[clusters[order] == cluster] for cluster in range(cluster_num)]


def class_names_by_cluster(text: TextEncoder, class_names: Sequence[str]) -> list[list[str]]:
    """Return for each of C clusters the class names it is the most probable cluster of."""
    clusters, _ = words_to_clusters(text, class_names)  # (K,)
    return [list(compress(class_names, clusters == cluster)) for cluster in range(text.cluster_num)]


def cluster_rows(
    predictions: WordPredictions,
    class_names: Sequence[Sequence[str]],
    logits: np.ndarray,
    files: Sequence[Path],
    *,
    text_threshold: float,
    visual_threshold: float,
    image_count: int,
) -> list[dict[str, Any]]:
    """Describe each of C clusters by its words, its class names, and the images that fit it best.

    ``logits`` (N, C) are of the test images, which are ``files``. ``word_count`` are the words
    whose most probable cluster it is, ``activating_word_count`` those of them that reach the
    threshold, ``token_count`` their occurrences, ``top_words`` those of at least
    ``MIN_WORD_COUNT`` occurrences, by falling probability. ``example_images`` have the highest
    logits (ties: the first), activating or not; ``test_image_count`` images activate it.
    """
    words, counts = predictions.words, predictions.counts
    clusters, probabilities = predictions.clusters, predictions.probabilities
    by_cluster = words_by_cluster(clusters, probabilities, logits.shape[1])
    bits = logits >= visual_threshold  # (N, C)
    best = np.argsort(-logits, axis=0, kind="stable")[:image_count]  # (images, C)
    return [
        {
            "cluster": cluster,
            "word_count": len(its_words),
            "activating_word_count": int((probabilities[its_words] >= text_threshold).sum()),
            "token_count": int(counts[its_words].sum()),
            "top_words": [
                {
                    "word": words[at],
                    "probability": float(probabilities[at]),
                    "count": int(counts[at]),
                }
                for at in its_words[counts[its_words] >= MIN_WORD_COUNT][:TOP_WORDS]
            ],
            "class_names": list(class_names[cluster]),
            "test_image_count": int(bits[:, cluster].sum()),
            "example_images": [
                {
                    "image": str(files[image]),
                    "logit": float(logits[image, cluster]),
                    "activates": bool(bits[image, cluster]),
                }
                for image in best[:, cluster]
            ],
        }
        for cluster, its_words in enumerate(by_cluster)
    ]


def living_clusters(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the clusters with words or images, those of most words first (then most images)."""
    alive = [row for row in rows if row["word_count"] or row["test_image_count"]]
    return sorted(alive, key=lambda row: (-row["word_count"], -row["test_image_count"]))


def format_cluster_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return descriptions of clusters as a readable table."""
    shown = []
    for row in rows:
        names = ", ".join(row["class_names"]) or "-"
        words = [f"{top['word']} {top['probability']:.3f}" for top in row["top_words"]]
        best = Path(row["example_images"][0]["image"]).name if row["test_image_count"] else "-"
        shown.append(
            {
                "cluster": row["cluster"],
                "words": row["word_count"],
                "tokens": row["token_count"],
                "images": row["test_image_count"],
                "class names": textwrap.shorten(names, CELL_WIDTH, placeholder="…"),
                "top words": ", ".join(words[:SHOWN_WORDS]),
                "best image": best,
            }
        )
    return format_rows(shown)
