"""Trained models on disk: ``models/text/<name>.{cfg,mdl}`` and ``models/visual/<name>.{cfg,mdl}``.

A ``.cfg`` is YAML text, a ``.mdl`` a dict of tensors and plain values that
``torch.load(weights_only=True)`` reads. Both halves name the run and the step they come from.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from models_src.settings import TrainingSettings
from models_src.text_encoders import build_text_encoder
from models_src.text_encoders.interface import TextEncoder
from models_src.visual_encoders import VisualEncoder
from utils.errors import UserError
from utils.files import read_text, write_atomically, write_text

FORMAT_VERSION = 1
HALVES = ("text", "visual")


@dataclass(frozen=True)
class Origin:
    """Where a model comes from: the same in both halves of one training."""

    run: str  # random id of the training run
    step: int  # joint steps taken
    seed: int
    data_fingerprint: str


def model_path(models_dir: Path, half: str, name: str, suffix: str) -> Path:
    """Return the place of a model's file (half text or visual, suffix cfg or mdl)."""
    return models_dir / half / f"{name}.{suffix}"


def model_exists(models_dir: Path, name: str) -> bool:
    """Return whether any file of a model of this name exists."""
    return any(
        model_path(models_dir, half, name, suffix).exists()
        for half in HALVES
        for suffix in ("cfg", "mdl")
    )


def remove_model(models_dir: Path, name: str) -> None:
    """Remove both halves of a model, as far as they exist."""
    for half in HALVES:
        for suffix in ("cfg", "mdl"):
            model_path(models_dir, half, name, suffix).unlink(missing_ok=True)


def save_model(
    models_dir: Path,
    name: str,
    settings: TrainingSettings,
    origin: Origin,
    visual: VisualEncoder,
    text: TextEncoder,
) -> None:
    """Write both halves of a model; each file is replaced whole."""
    contents = {
        "visual": visual.network.state_dict(),
        "text": {"words": list(text.words), "state": text.state()},
    }
    for half, content in contents.items():  # the larger first: where one fails, it is this
        save_tensors(model_path(models_dir, half, name, "mdl"), content)
    for half in contents:
        header = {
            "format_version": FORMAT_VERSION,
            "half": half,
            "origin": vars(origin),
            "settings": settings.as_dict(),
        }
        write_text(
            model_path(models_dir, half, name, "cfg"), yaml.safe_dump(header, sort_keys=False)
        )


def save_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values, whole or not at all."""
    # into memory first: torch turns a full disk into an error of its own
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, lambda file: file.write(buffer.getbuffer()))


def load_tensors(path: Path, what: str) -> dict[str, Any]:
    """Read what ``save_tensors`` wrote, running nothing that the file may hold.

    Raises:
        UserError: the file is missing or no such file.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{what} is missing: no file {path}; train it or put it there") from None
    except Exception as error:  # torch raises many kinds for damaged and foreign files
        raise UserError(
            f"{what} {path} is damaged or no file of this project ({type(error).__name__}); "
            "train it again or restore the file"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{what} {path} is no file of this project; train it again")
    return content


def load_header(models_dir: Path, half: str, name: str) -> tuple[TrainingSettings, Origin]:
    """Read one half's ``.cfg``.

    Raises:
        UserError: there is no such model, or the file is malformed.
    """
    path = model_path(models_dir, half, name, "cfg")
    if not path.is_file():
        known = sorted(file.stem for file in (models_dir / half).glob("*.cfg"))
        raise UserError(
            f"no {half} model '{name}' in {models_dir / half} "
            f"({'there are ' + ', '.join(known) if known else 'there is none'}); train it with "
            f"--utility train_joint_model --model_name {name}"
        )
    try:
        header = yaml.safe_load(read_text(path, "the model's settings"))
        if header["format_version"] != FORMAT_VERSION or header["half"] != half:
            raise KeyError("format_version")
        origin = Origin(**header["origin"])
        if [type(value) for value in vars(origin).values()] != [str, int, int, str]:
            raise KeyError("origin")
        return TrainingSettings(**header["settings"]), origin
    except UserError as error:
        raise UserError(f"{error} (in {path})") from None
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{path} holds no {half} model's settings of this version; train the model again or "
            "restore the file"
        ) from None


def load_text_model(
    models_dir: Path, name: str, device: str = "cpu"
) -> tuple[TextEncoder, TrainingSettings, Origin]:
    """Load the text half of a trained model.

    Raises:
        UserError: there is no such model, or a file is malformed.
    """
    settings, origin = load_header(models_dir, "text", name)
    path = model_path(models_dir, "text", name, "mdl")
    content = load_tensors(path, f"the text model '{name}'")
    try:
        encoder = build_text_encoder(settings, tuple(content["words"]), device)
        encoder.load_state(content["state"])
    except (KeyError, RuntimeError, TypeError):
        raise _unfit(path) from None
    return encoder, settings, origin


def load_visual_model(
    models_dir: Path, name: str, device: str = "cpu"
) -> tuple[VisualEncoder, TrainingSettings, Origin]:
    """Load the visual half of a trained model, ready for evaluation.

    Raises:
        UserError: there is no such model, or a file is malformed.
    """
    settings, origin = load_header(models_dir, "visual", name)
    path = model_path(models_dir, "visual", name, "mdl")
    encoder = VisualEncoder(settings.visual_encoder, settings.cluster_num)
    try:
        encoder.network.load_state_dict(load_tensors(path, f"the visual model '{name}'"))
    except (RuntimeError, TypeError):
        raise _unfit(path) from None
    return encoder.to(device, memory_format=torch.channels_last).eval(), settings, origin


def require_same_origin(text: Origin, visual: Origin, name: str) -> None:
    """Raise a UserError unless both halves of a model come from one training."""
    if text != visual:
        raise UserError(
            f"the text and visual halves of '{name}' come from different trainings (run "
            f"{text.run[:8]} step {text.step}, run {visual.run[:8]} step {visual.step}); restore "
            "the half that belongs to the other"
        )


def _unfit(path: Path) -> UserError:
    """Return the error for weights that do not fit their settings."""
    return UserError(
        f"{path} does not fit the settings in {path.with_suffix('.cfg').name}; train the model "
        "again or restore both files"
    )
