"""What the clusters of a model hold, as tables: a row for each word, a row for each cluster.

Axes: W words of the training captions by falling count, C clusters, N images.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.word_evaluation import WordPredictions

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
    """Return the ``count`` most probable clusters of each word, ties: the lowest index first.

    Given (W, C) p(c|w), (W, K) int64 clusters, -1 where the probability is 0, and (W, K) float64
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
    ratings: Mapping[str, float],
    categories: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Return one row of ``WORD_COLUMNS`` for each word; None where there is no value.

    Args:
        words: W words.
        counts: (W,) their occurrences in the training captions.
        clusters: (W, K) the clusters that fit each word best, the best first, negative for none.
        probabilities: (W, K) p(c|w) of these; None of a model without.
        concreteness: (W,) the model's own, in 0..1; None of a model without.
        ratings: Human concreteness in 1..5, of some words.
        categories: Human category, of some words.
    """
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
    """Return rows of words as CSV: eight significant digits, empty cells for None."""
    text = io.StringIO()
    writer = csv.DictWriter(text, WORD_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.8g}" if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue()


def format_word_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of words as a readable table."""

    def shown(value: float | None, decimals: int) -> str:
        return "-" if value is None else f"{value:.{decimals}f}"

    lines = [f"{'word':<20}{'count':>9}{'cluster':>9}{'probability':>13}{'rating':>8}  category"]
    lines += [
        f"{row['word']:<20}{row['count']:>9}{shown(row['cluster'], 0):>9}"
        f"{shown(row['probability'], 4):>13}{shown(row['concreteness_rating'], 2):>8}  "
        f"{row['category'] or '-'}"
        for row in rows
    ]
    return "\n".join(lines)


def words_by_cluster(
    clusters: np.ndarray, probabilities: np.ndarray, considered: np.ndarray, cluster_num: int
) -> list[np.ndarray]:
    """Return for each cluster the positions of the words it is the most probable cluster of.

    C arrays, the highest probability first (ties: the word that stands first). Given are (W,) the
    most probable cluster of each word, its probability, and whether the word is considered.
    """
    order = np.argsort(-probabilities, kind="stable")  # (W,)
    order = order[considered[order]]
    return [order[clusters[order] == cluster] for cluster in range(cluster_num)]


def top_words(
    words: Sequence[str],
    clusters: np.ndarray,
    probabilities: np.ndarray,
    considered: np.ndarray,
    cluster_num: int,
) -> list[list[str]]:
    """Return the words of ``words_by_cluster`` themselves, C lists."""
    positions = words_by_cluster(clusters, probabilities, considered, cluster_num)
    return [[words[position] for position in its_own] for its_own in positions]


def class_names_by_cluster(
    class_names: Sequence[str], cluster_of_class: np.ndarray, cluster_num: int
) -> list[list[str]]:
    """Return for each of C clusters the class names it is the most probable cluster of.

    ``cluster_of_class`` (K,) is negative for unknown names.
    """
    names: list[list[str]] = [[] for _ in range(cluster_num)]
    for name, cluster in zip(class_names, cluster_of_class, strict=True):
        if cluster >= 0:
            names[cluster].append(name)
    return names


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
    """Describe each cluster by its words, its class names, and the images that fit it best.

    Args:
        predictions: Of the words of the training captions.
        class_names: Of each cluster.
        logits: (N, C) of the test images.
        files: The N test images.
        text_threshold: The probability from which a word activates its cluster.
        visual_threshold: The logit from which an image does.
        image_count: Example images wanted for each cluster.

    Returns:
        C dicts: ``word_count`` words whose most probable cluster it is, ``activating_word_count``
        of them that reach the threshold, ``token_count`` their occurrences in the training
        captions, ``top_words`` (with at least ``MIN_WORD_COUNT`` occurrences, by falling
        probability), ``class_names``, ``test_image_count`` images that activate it, and
        ``example_images`` of the highest logits (ties: the first), activating or not.
    """
    words, counts = predictions.words, predictions.counts
    probabilities = predictions.probabilities
    cluster_num = logits.shape[1]
    by_cluster = words_by_cluster(
        predictions.clusters, probabilities, predictions.clusters >= 0, cluster_num
    )
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


def living_clusters(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the clusters with words or images, those of most words first (then most images)."""
    alive = [row for row in rows if row["word_count"] or row["test_image_count"]]
    return sorted(alive, key=lambda row: (-row["word_count"], -row["test_image_count"]))


def format_cluster_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return descriptions of clusters as a readable table."""
    lines = [
        f"{'cluster':>7}{'words':>7}{'tokens':>9}{'images':>8}  {'class names':<{CELL_WIDTH}}"
        "  top words; best image"
    ]
    for row in rows:
        names = ", ".join(row["class_names"]) or "-"
        if len(names) > CELL_WIDTH:
            names = names[: CELL_WIDTH - 1] + "…"
        words = ", ".join(
            f"{top['word']} {top['probability']:.3f}" for top in row["top_words"][:SHOWN_WORDS]
        )
        image = Path(row["example_images"][0]["image"]).name if row["test_image_count"] else "-"
        lines.append(
            f"{row['cluster']:>7}{row['word_count']:>7}{row['token_count']:>9}"
            f"{row['test_image_count']:>8}  {names:<{CELL_WIDTH}}  {words or '-'}; {image}"
        )
    return "\n".join(lines)
