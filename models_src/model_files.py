"""Trained models on disk: ``models/text/<name>.{cfg,mdl}`` and ``models/visual/<name>.{cfg,mdl}``.

A ``.cfg`` is YAML text, a ``.mdl`` a dict of tensors and plain values that
``torch.load(weights_only=True)`` reads. Both halves name the run and the step they come from.
Models of the published program are read in the same places (see ``published_models.py``).
"""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from datasets_src.captions import Vocabulary
from models_src.model_types import MODEL_TYPES
from models_src.published_models import (
    PRETRAINED,
    PublishedSettings,
    is_published,
    read_safely,
    read_text_half,
    read_visual_half,
    settings_in,
)
from models_src.settings import TrainingSettings
from models_src.text_encoders.interface import TextEncoder, build_text_encoder
from models_src.visual_encoders import VisualEncoder, build_visual_encoder
from utils.errors import UserError
from utils.files import reading, sha256_of_file, write_atomically, write_text

FORMAT_VERSION = 1
HALVES = ("text", "visual")
PUBLISHED_RUN = "published"  # in place of a run's id
ADVICE = "train the model again or restore the file"


@dataclass(frozen=True)
class Origin:
    """Where a model comes from: the same in both halves of one training.

    Of a published model only the number of clusters is known.
    """

    run: str  # random id of the training run, PUBLISHED_RUN for the published program's models
    step: int | None = None  # joint steps taken
    seed: int | None = None
    data_fingerprint: str | None = None
    cluster_num: int | None = None  # of a loaded half
    commit: str | None = None  # of the program, see ``git_commit``; that of the last session
    training_seconds: float | None = None  # over all sessions; earlier files have neither

    def __str__(self) -> str:
        if self.run == PUBLISHED_RUN:
            return f"published with {self.cluster_num} clusters"
        return f"run {self.run[:8]} step {self.step}"


def model_path(models_dir: Path, half: str, name: str, suffix: str) -> Path:
    """Return the place of a model's file (half text or visual, suffix cfg or mdl)."""
    return models_dir / half / f"{name}.{suffix}"


def _files(models_dir: Path, name: str, halves: Iterable[str]) -> list[Path]:
    return [model_path(models_dir, half, name, kind) for half in halves for kind in ("cfg", "mdl")]


def model_exists(models_dir: Path, name: str) -> bool:
    """Return whether any file of a model of this name exists."""
    return any(path.exists() for path in _files(models_dir, name, HALVES))


def remove_model(models_dir: Path, name: str, halves: Iterable[str] = HALVES) -> None:
    """Remove a model, as far as it exists."""
    for path in _files(models_dir, name, halves):
        path.unlink(missing_ok=True)


def names_in(folder: Path) -> str:
    """Say which models a folder has."""
    known = sorted(file.stem for file in folder.glob("*.cfg"))
    return f"there are {', '.join(known)}" if known else "there is none"


Halves = Mapping[str, tuple[TrainingSettings, VisualEncoder | TextEncoder]]  # by "text", "visual"


def save_halves(
    models_dir: Path,
    name: str,
    origin: Origin,
    halves: Halves,
    word_counts: np.ndarray | None = None,
) -> None:
    """Write the halves of a model that are given, each with its settings, in the given order.

    ``word_counts`` (V,) are those of the text encoder's words in the training captions.
    """
    named = {key: value for key, value in vars(origin).items() if key != "cluster_num"}
    for half, (settings, encoder) in halves.items():
        if isinstance(encoder, VisualEncoder):
            content = encoder.network.state_dict()
        else:
            content = {"words": list(encoder.words), "state": encoder.state_dict()}
            if word_counts is not None:
                content["word_counts"] = torch.from_numpy(word_counts)
        # the settings have the number of clusters
        header = {"half": half, "origin": named, "settings": settings.as_dict()}
        save_model(model_path(models_dir, half, name, "cfg"), header, content)


def save_model(path: Path, header: Mapping[str, Any], content: dict[str, Any]) -> None:
    """Write ``content`` as a ``.mdl``, and the ``.cfg`` of this path that belongs to it."""
    weights = path.with_suffix(".mdl")
    save_tensors(weights, content)
    known = {"format_version": FORMAT_VERSION, "weights_sha256": sha256_of_file(weights)}
    write_text(path, yaml.safe_dump(known | dict(header), sort_keys=False, allow_unicode=True))


def save_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values, whole or not at all."""
    # into memory first: torch turns a full disk into an error of its own
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, lambda file: file.write(buffer.getbuffer()))


def load_tensors(path: Path, what: str) -> dict[str, Any]:
    """Read what ``save_tensors`` wrote, running nothing that the file may hold."""
    content = read_safely(path, what)
    if not isinstance(content, dict):
        raise UserError(f"{what} {path} is no file of this project; train it again")
    return content


def find_config(models_dir: Path, half: str, name: str) -> Path:
    """Return the place of one half's ``.cfg``, in either format."""
    path = model_path(models_dir, half, name, "cfg")
    if path.is_file():
        return path
    where = f"no {half} model '{name}' in {path.parent}"
    for kind, model_type in MODEL_TYPES.items():
        if model_type.trained and model_path(models_dir, kind, name, "cfg").is_file():
            raise UserError(
                f"{where}, but a baseline of that name; give --model_type {kind} to an "
                "evaluation of words, or another --model_name"
            )
    raise UserError(
        f"{where} ({names_in(path.parent)}); train it with --utility train_joint_model "
        f"--model_name {name}"
        + (", or give the --model_type of a baseline" if half == "text" else "")
    )


def read_header(path: Path, half: str) -> tuple[TrainingSettings, Origin]:
    """Read one half's ``.cfg`` of this project, and see that its ``.mdl`` belongs to it."""
    with reading(path, ADVICE):
        header = yaml.safe_load(path.read_text(encoding="utf-8"))
        if (header["format_version"], header["half"]) != (FORMAT_VERSION, half):
            raise ValueError(f"no {half} model's settings of this version")
        values, kind = dict(header["settings"]), TrainingSettings
        origin = Origin(**header["origin"], cluster_num=values["cluster_num"])
        if origin.run == PUBLISHED_RUN:  # some settings are not known
            values = {key: value for key, value in values.items() if value is not None}
            kind = PublishedSettings
        elif list(map(type, (origin.run, origin.step, origin.seed))) != [str, int, int]:
            raise ValueError("its origin is damaged")
        settings = settings_in(path, values, kind)
        told = header.get("weights_sha256")  # older files do not tell
    weights = path.with_suffix(".mdl")
    if told is not None and weights.is_file() and told != sha256_of_file(weights):
        raise UserError(
            f"{weights} is not what {path} was written with; restore the file, or continue the "
            "training with --resume where it has a checkpoint"
        )
    return settings, origin


def _read_half(models_dir: Path, half: str, name: str) -> tuple[TrainingSettings, Origin, Any]:
    """Return one half's settings, origin, and the content of its ``.mdl`` as saved here."""
    config = find_config(models_dir, half, name)
    path = config.with_suffix(".mdl")
    with reading(path, ADVICE):
        if not is_published(config):
            return *read_header(config, half), load_tensors(path, f"the {half} model '{name}'")
        settings, content = (read_text_half if half == "text" else read_visual_half)(config, path)
        return settings, Origin(PUBLISHED_RUN, cluster_num=settings.cluster_num), content


def load_text_model(
    models_dir: Path, name: str, device: str = "cpu"
) -> tuple[TextEncoder, TrainingSettings, Origin]:
    """Load the text half of a trained model, of this project or published."""
    settings, origin, content = _read_half(models_dir, "text", name)
    with reading(model_path(models_dir, "text", name, "mdl"), ADVICE):
        encoder = build_text_encoder(settings, tuple(content["words"]), device)
        encoder.load_state_dict(content["state"])
    return encoder, settings, origin


def load_vocabulary(models_dir: Path, name: str) -> Vocabulary | None:
    """Return a model's words with their counts in its training captions, by falling count.

    None for published models and those of earlier versions, which do not store counts.
    """
    _, _, content = _read_half(models_dir, "text", name)
    if "word_counts" not in content:
        return None
    return Vocabulary(tuple(content["words"]), content["word_counts"].numpy())


def load_visual_model(
    models_dir: Path, name: str, device: str = "cpu"
) -> tuple[VisualEncoder, TrainingSettings, Origin]:
    """Load the visual half of a trained model, of this project or published, for evaluation."""
    settings, origin, state = _read_half(models_dir, "visual", name)
    encoder = build_visual_encoder(settings, device, with_pretrained=False)
    path = model_path(models_dir, "visual", name, "mdl")
    with reading(path, ADVICE):
        try:
            encoder.network.load_state_dict(state)
        except RuntimeError:  # torch names every weight in lines of their own
            raise UserError(f"{path} does not fit {path.with_suffix('.cfg')}; {ADVICE}") from None
    if settings.pretrained_visual == PRETRAINED:  # the published program had one kind
        encoder.pixel_statistics = "clip"
    return encoder.eval(), settings, origin


def require_same_origin(text: Origin, visual: Origin, name: str) -> None:
    """Raise a UserError unless both halves of a model come from one training.

    Published models do not name their training: there only the number of clusters can differ.
    """
    if text != visual:
        raise UserError(
            f"the text and visual halves of '{name}' come from different trainings "
            f"({text}, {visual}); restore the half that belongs to the other"
        )
