"""Results on disk."""

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.inputs import word_list_settings
from evaluation.reports import format_metrics
from utils.files import write_atomically, write_json
from utils.provenance import provenance

# entries of stored results that tell their data -> what it means that they differ
IDENTITY = {
    "train_fingerprint": "other training captions",
    "norms_fingerprint": "other norms",
    "word_list_sha256": "another word list",
    "test_fingerprint": "other test captions or boxes",
}

logger = logging.getLogger(__name__)


def data_identity(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells the data of stored results from others, as far as it went into them."""
    stored = {"word_list_sha256": None, **results["settings"], **results["data"]}
    if {"categorization", "word_association"}.isdisjoint(results["metrics"]):
        del stored["word_list_sha256"]  # concreteness is over all rated words in any case
    return {key: stored[key] for key in IDENTITY if key in stored}


def identity_differences(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    """Say in what the data of two results differ; an entry that one of them lacks says nothing."""
    shared = one.keys() & two.keys()
    return [what for key, what in IDENTITY.items() if key in shared and one[key] != two[key]]


def results_file(results_dir: Path, utility: str, model_name: str) -> Path:
    """Return where a utility's results of a model stand; ``.npz`` are those of each image."""
    return results_dir / f"{utility}_{model_name}.json"


def save_results(
    options: argparse.Namespace,
    metrics: Mapping[str, Any],
    settings: Mapping[str, Any],
    data: Mapping[str, Any],
    not_measured: Mapping[str, str] | None = None,
    *,
    by_image: Mapping[str, np.ndarray] | None = None,
    extra: Mapping[str, Any] | None = None,
    table: str | None = None,
) -> None:
    """Write an evaluation's results as JSON and show them as a table.

    ``metrics`` are nested scores, None for what is undefined or not measured; ``settings`` what
    they depend on, with the model's ``origin``; ``data`` what was read, see ``inputs.py``;
    ``not_measured`` the metrics whose data is absent, each with the reason; ``extra`` more
    top-level entries. ``table`` is shown in place of the metrics.

    ``by_image`` is what image metrics are sums of, for a compressed ``.npz`` beside the JSON:
    ``image_ids`` (N,) and under a metric's name (N, 3) true positives, false positives and false
    negatives; of matching, (M, 2) ``matching_image_ids`` and outcomes.
    """
    path = results_file(options.results_dir, options.utility, options.model_name)
    if by_image is not None:
        # first: where a crash lets the two files be of different runs, the sums tell
        arrays: dict[str, Any] = dict(by_image)
        write_atomically(path.with_suffix(".npz"), lambda file: np.savez_compressed(file, **arrays))
    content = {
        "utility": options.utility,
        "model_name": options.model_name,
        "metrics": metrics,
        "settings": {**settings, "dataset": options.dataset} | word_list_settings(options),
        "data": data,
        "not_measured": not_measured or {},
        "provenance": provenance() | {"model": settings.get("origin")},
        **(extra or {}),
    }
    write_json(path, content)
    logger.info("%s", format_metrics(metrics) if table is None else table)
    logger.info("results: %s", path)
