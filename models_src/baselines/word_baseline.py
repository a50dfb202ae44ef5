"""Trained word baselines on disk: ``models/<kind>/<name>.cfg`` (YAML) and ``.mdl`` (tensors)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
import yaml

from models_src.model_files import ADVICE, load_tensors, model_path, names_in, save_model
from utils.errors import UserError
from utils.files import reading


@dataclass(frozen=True)
class WordBaseline:
    """What a baseline answers for W words; subclasses add arrays (W,)."""

    kind: ClassVar[str]  # its folder, and its --model_type
    utility: ClassVar[str]  # what trains it
    words: tuple[str, ...]
    settings: dict[str, Any]  # plain values that YAML can hold

    def save(self, models_dir: Path, name: str) -> None:
        """Write the baseline, replacing one of the same name."""
        content = {
            key: torch.from_numpy(value) if isinstance(value, np.ndarray) else list(value)
            for key, value in vars(self).items()
            if key != "settings"
        }
        header = {"kind": self.kind, "settings": self.settings}
        save_model(model_path(models_dir, self.kind, name, "cfg"), header, content)

    @classmethod
    def load(cls, models_dir: Path, name: str) -> Self:
        """Read what ``save`` wrote."""
        path = model_path(models_dir, cls.kind, name, "cfg")
        if not path.is_file():
            raise UserError(
                f"no {cls.kind} baseline '{name}' in {path.parent} ({names_in(path.parent)}); "
                f"train it with --utility {cls.utility} --model_name {name}"
            )
        with reading(path, ADVICE):
            settings = yaml.safe_load(path.read_text(encoding="utf-8"))["settings"]
            tensors = load_tensors(path.with_suffix(".mdl"), f"the {cls.kind} baseline '{name}'")
            words = tuple(tensors.pop("words"))
            return cls(words, settings, **{key: value.numpy() for key, value in tensors.items()})

    @classmethod
    def require_free_name(cls, models_dir: Path, name: str, overwrite: bool) -> None:
        """Refuse the name of a baseline that exists, unless it may be replaced."""
        path = model_path(models_dir, cls.kind, name, "cfg")
        if path.exists() and not overwrite:
            raise UserError(
                f"a {cls.kind} baseline '{name}' exists ({path}); give another --model_name, or "
                "--overwrite to replace it"
            )
