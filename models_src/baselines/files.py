"""Trained word baselines on disk: ``models/<kind>/<name>.cfg`` (YAML) and ``.mdl`` (tensors).

Axes: W words.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
import yaml

from models_src.model_files import load_tensors, model_path, save_tensors
from utils.errors import UserError
from utils.files import reading, write_text

FORMAT_VERSION = 1


@dataclass(frozen=True)
class WordBaseline:
    """What a baseline answers for W words; subclasses add arrays (W,)."""

    kind: ClassVar[str]  # its folder, and its --model_type
    utility: ClassVar[str]  # what trains it
    words: tuple[str, ...]
    settings: dict[str, Any]  # plain values that YAML can hold

    def save(self, models_dir: Path, name: str) -> None:
        """Write the baseline, replacing one of the same name."""
        arrays = {
            key: torch.from_numpy(value)
            for key, value in vars(self).items()
            if isinstance(value, np.ndarray)
        }
        save_tensors(
            model_path(models_dir, self.kind, name, "mdl"), {"words": list(self.words), **arrays}
        )
        header = {"format_version": FORMAT_VERSION, "kind": self.kind, "settings": self.settings}
        write_text(
            model_path(models_dir, self.kind, name, "cfg"),
            yaml.safe_dump(header, sort_keys=False, allow_unicode=True),
        )

    @classmethod
    def load(cls, models_dir: Path, name: str) -> Self:
        """Read what ``save`` wrote."""
        path = model_path(models_dir, cls.kind, name, "cfg")
        if not path.is_file():
            known = sorted(file.stem for file in path.parent.glob("*.cfg"))
            raise UserError(
                f"no {cls.kind} baseline '{name}' in {path.parent} "
                f"({'there are ' + ', '.join(known) if known else 'there is none'}); train it with "
                f"--utility {cls.utility} --model_name {name}"
            )
        with reading(path, "train the baseline again or restore the file"):
            settings = yaml.safe_load(path.read_text(encoding="utf-8"))["settings"]
        tensors = path.with_suffix(".mdl")
        with reading(tensors, "train the baseline again or restore the file"):
            content = load_tensors(tensors, f"the {cls.kind} baseline '{name}'")
            words = tuple(content.pop("words"))
            arrays = {key: array.numpy() for key, array in content.items()}
            return cls(words, settings, **arrays)


def require_free_name(models_dir: Path, kind: str, name: str, overwrite: bool) -> None:
    """Refuse the name of a baseline that exists, unless it may be replaced."""
    for suffix in ("cfg", "mdl"):
        path = model_path(models_dir, kind, name, suffix)
        if path.exists() and not overwrite:
            raise UserError(
                f"a {kind} baseline '{name}' exists ({path}); give another --model_name, or "
                "--overwrite to replace it"
            )
