"""Trained baselines on disk: ``models/<kind>/<name>.cfg`` (YAML) and ``.mdl`` (tensors).

Axes: W words.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from models_src.model_files import load_tensors, model_path, save_tensors
from utils.errors import UserError
from utils.files import read_text, sha256_of_file, write_text

FORMAT_VERSION = 1


def require_free_name(models_dir: Path, kind: str, name: str, overwrite: bool) -> None:
    """Raise a UserError where a baseline of this name exists and may not be replaced."""
    paths = [model_path(models_dir, kind, name, suffix) for suffix in ("cfg", "mdl")]
    taken = [str(path) for path in paths if path.exists()]
    if taken and not overwrite:
        raise UserError(
            f"a {kind} baseline '{name}' exists ({taken[0]}); give another --model_name, or "
            "--overwrite to replace it"
        )


def save_baseline(
    models_dir: Path,
    kind: str,
    name: str,
    words: Sequence[str],
    arrays: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
) -> None:
    """Write a baseline's answers for W words and its settings, replacing one of the same name.

    Args:
        models_dir: Folder of all models.
        kind: The baseline's folder in it.
        name: The model's name.
        words: W words.
        arrays: Its answers by name, (W,) each.
        settings: Plain values that YAML can hold.

    Raises:
        UserError: a file cannot be written.
    """
    tensors = model_path(models_dir, kind, name, "mdl")
    answers = {array: torch.from_numpy(values) for array, values in arrays.items()}
    save_tensors(tensors, {"words": list(words), **answers})
    header = {
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "mdl_sha256": sha256_of_file(tensors),  # so that files of two trainings are not mixed
        "settings": dict(settings),
    }
    write_text(
        model_path(models_dir, kind, name, "cfg"),
        yaml.safe_dump(header, sort_keys=False, allow_unicode=True),
    )


def load_baseline(
    models_dir: Path, kind: str, name: str, utility: str, arrays: Sequence[str]
) -> tuple[tuple[str, ...], list[np.ndarray], dict[str, Any]]:
    """Read what ``save_baseline`` wrote.

    Args:
        models_dir: Folder of all models.
        kind: The baseline's folder in it.
        name: The model's name.
        utility: What trains such a baseline, for the error message.
        arrays: Names of its answers.

    Returns:
        W words, the answers (W,) in the order of ``arrays``, and the settings.

    Raises:
        UserError: there is no such baseline, or a file is malformed.
    """
    path = model_path(models_dir, kind, name, "cfg")
    if not path.is_file():
        known = sorted(file.stem for file in path.parent.glob("*.cfg"))
        raise UserError(
            f"no {kind} baseline '{name}' in {path.parent} "
            f"({'there are ' + ', '.join(known) if known else 'there is none'}); train it with "
            f"--utility {utility} --model_name {name}"
        )
    try:
        header = yaml.safe_load(read_text(path, "the baseline's settings"))
        if (header["format_version"], header["kind"]) != (FORMAT_VERSION, kind):
            raise KeyError("format_version")
        settings, digest = dict(header["settings"]), header["mdl_sha256"]
    except (yaml.YAMLError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
        raise UserError(
            f"{path} holds no {kind} baseline's settings of this version; train it again or "
            "restore the file"
        ) from None
    tensors = path.with_suffix(".mdl")
    content = load_tensors(tensors, f"the {kind} baseline '{name}'")
    if sha256_of_file(tensors) != digest:
        raise UserError(
            f"{path} and {tensors.name} come from different trainings; restore the file that "
            "belongs to the other or train the baseline again"
        )
    try:
        words = tuple(content["words"])
        answers = [content[array].numpy() for array in arrays]
        fits = all(values.shape == (len(words),) for values in answers)
    except (AttributeError, KeyError, TypeError):
        fits = False
    if not fits:
        raise UserError(f"{tensors} holds no {kind} baseline; train it again or restore the file")
    return words, answers, settings
