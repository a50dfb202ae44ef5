"""A training run: how it is carried out, its state, and the checkpoint it continues from."""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from datasets_src.pairs import TrainingPairs
from models_src.development import Development
from models_src.diagnosis import empty_sums
from models_src.hardware import adam, gradient_scaler
from models_src.model_files import load_tensors, model_exists, save_tensors
from models_src.settings import TrainingSettings
from models_src.text_encoders import build_text_encoder
from models_src.text_encoders.interface import TextEncoder
from models_src.visual_encoders import VisualEncoder, build_visual_encoder
from utils.errors import UserError
from utils.provenance import ROOT, git_commit

CHECKPOINT_VERSION = 3


@dataclass(frozen=True)
class RunOptions:
    """How a training run is carried out; nothing here changes more than rounding in its results."""

    name: str
    models_dir: Path
    device: str = "cpu"
    workers: int = 0
    resume: bool = False
    overwrite: bool = False
    checkpoint_minutes: float = 30.0
    compile: bool = False  # whether the CNN is compiled for this device first
    continue_with: str = "--resume"  # what an interrupted user is told to give
    # what metrics are measured against -> its hash; a continued run must have the same
    measured_against: Mapping[str, str | None] = field(default_factory=dict)
    # takes what the log and the tables get, as it arises: its kind, the joint step, values by name
    watch: Callable[[str, int, Mapping[str, float | None]], None] = lambda *_: None

    @property
    def checkpoint_file(self) -> Path:
        """The single file from which the run continues."""
        return self.models_dir / f"{self.name}.checkpoint"


@dataclass
class TrainingRun:
    """All that changes while training, and so all that a checkpoint holds."""

    visual: VisualEncoder
    text: TextEncoder
    optimizer: torch.optim.Optimizer
    scaler: GradScaler
    totals: Tensor  # sums over the current epoch, see diagnosis.step_sums
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    epoch: int = 0  # epochs finished
    batch: int = 0  # batches of the current epoch finished
    step: int = 0  # joint steps taken, those that unreadable images left nothing of included
    warned: bool = False  # of starving or collapse: once is enough
    history: list[dict[str, float | None]] = field(default_factory=list)
    bad_images: set[int] = field(default_factory=set)  # missing or unreadable, by index
    development: Development | None = None  # metrics by step, where they are asked for
    commit: str | None = field(default_factory=lambda: git_commit(ROOT))  # of this session
    began: float = field(default_factory=time.monotonic)  # earlier sessions' time before it

    def seconds(self) -> float:
        """Return how long training has taken so far, over all sessions."""
        return time.monotonic() - self.began

    def is_finite(self) -> bool:
        """Return whether the sums over the epoch and all weights are finite."""
        tensors = [self.totals, *_tensors(self.visual.state_dict()), *_tensors(self.text.state())]
        return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)

    def state(self) -> dict[str, Any]:
        """Return the run as tensors and plain values."""
        return {
            "visual": self.visual.state_dict(),
            "text": self.text.training_state(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "run_id": self.run_id,
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "totals": self.totals,
            "warned": self.warned,
            "history": self.history,
            "bad_images": sorted(self.bad_images),
            "seconds": self.seconds(),
            "development": self.development.state() if self.development is not None else None,
        }

    def load_state(self, state: dict[str, Any], device: str) -> None:
        """Take over what ``state()`` returned."""
        self.visual.load_state_dict(state["visual"])
        self.text.load_training_state(state["text"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state.get("scaler", {}))  # older checkpoints are of fp32
        torch.set_rng_state(state["random"])
        if state["cuda_random"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_random"])
        kinds = {"run_id": str, "epoch": int, "batch": int, "step": int, "warned": bool}
        for name, kind in (kinds | {"history": list}).items():
            if type(state[name]) is not kind:
                raise TypeError(name)
            setattr(self, name, state[name])
        if not all(isinstance(row, dict) for row in self.history):
            raise TypeError("history")
        self.totals = state["totals"].to(device)
        self.bad_images = set(state.get("bad_images", ()))  # older checkpoints have none
        self.began = time.monotonic() - state.get("seconds", 0.0)
        if self.development is not None:
            self.development.load_state(state["development"])


def _tensors(state: Mapping[str, Any]) -> Iterator[Tensor]:
    """Yield the tensors of a state, at whatever depth."""
    for value in state.values():
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping):
            yield from _tensors(value)


def new_run(
    settings: TrainingSettings, pairs: TrainingPairs, device: str, *, is_continued: bool = False
) -> TrainingRun:
    """Return a run before its first step; every random weight follows from the seed.

    The file of pretrained weights is not read for one that is continued, as its checkpoint has all.
    """
    torch.manual_seed(settings.seed)
    visual = build_visual_encoder(settings, device, with_pretrained=not is_continued)
    text = build_text_encoder(settings, pairs.vocabulary.words, device)
    optimizer = adam(visual, settings.visual_learning_rate)
    scaler = gradient_scaler(settings.precision, device)
    totals = empty_sums(settings.cluster_num, device)
    return TrainingRun(visual, text, optimizer, scaler, totals)


@dataclass(frozen=True)
class DataIdentity:
    """What tells a run's data from other data."""

    captions: str  # see ``TrainingPairs.fingerprint``
    image_sizes: Tensor  # (N,) int64 bytes of each image file, -1 of one that cannot be reached
    measured_against: Mapping[str, str | None]  # see ``RunOptions``

    def difference(self, stored: Mapping[str, Any], bad_images: Sequence[int]) -> str | None:
        """Say in what data differs from what a checkpoint has stored; None for nothing.

        Images that the run has found unreadable may have changed: to mend them is no mistake.
        """
        if stored["captions"] != self.captions:
            return "other captions or images"
        changed = stored["image_sizes"] != self.image_sizes  # (N,)
        changed[list(bad_images)] = False
        if changed.any():
            return f"other image files ({int(changed.sum())} have another size or are gone)"
        for name, value in self.measured_against.items():
            if stored["measured_against"].get(name) != value:
                return f"other {name}"
        return None


def save_checkpoint(
    run: TrainingRun, settings: TrainingSettings, data: DataIdentity, path: Path
) -> None:
    """Write all that an exact continuation needs, in one file that is replaced whole."""
    content = {
        "version": CHECKPOINT_VERSION,
        "settings": settings.as_dict(),
        "data": dict(vars(data)),
        "run": run.state(),
    }
    save_tensors(path, content)


def find_checkpoint(options: RunOptions) -> dict[str, Any] | None:
    """Return the checkpoint to continue from, or None to start anew.

    Raises:
        UserError: a finished or unfinished run is in the way.
    """
    in_the_way = [
        name
        for name in (options.name, f"{options.name}_best")
        if model_exists(options.models_dir, name)
    ]
    unfinished = options.checkpoint_file.exists()
    if options.resume:
        if not unfinished:
            best = f"{options.name}_best"
            if in_the_way == [best]:  # of another training, then
                raise _in_the_way(best, options.models_dir)
            return None
        checkpoint = load_tensors(options.checkpoint_file, "the checkpoint")
        version = checkpoint.get("version")
        if type(version) is not int or version != CHECKPOINT_VERSION:
            raise UserError(
                f"{options.checkpoint_file} is no checkpoint of this version; start anew with "
                "--overwrite"
            )
        return checkpoint
    if options.overwrite:
        return None
    if unfinished:
        raise UserError(
            f"{options.checkpoint_file} holds an unfinished training; continue it with --resume, "
            "or give --overwrite to start anew"
        )
    if in_the_way:
        raise _in_the_way(in_the_way[0], options.models_dir)
    return None


def _in_the_way(name: str, models_dir: Path) -> UserError:
    """Return the error for a model that a training would replace."""
    return UserError(
        f"there is a model '{name}' in {models_dir}; give another --model_name, or --overwrite "
        "(without --resume) to replace it"
    )


@contextmanager
def whole_checkpoint(path: Path) -> Iterator[None]:
    """Turn what a checkpoint of other content raises in the ``with`` block into a UserError."""
    try:
        yield
    except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError):
        raise UserError(f"{path} is damaged; start anew with --overwrite") from None


def require_same_run(
    checkpoint: dict[str, Any], settings: TrainingSettings, data: DataIdentity, path: Path
) -> None:
    """Raise a UserError when a checkpoint is of other settings or data, naming the difference."""
    now = settings.as_dict()
    differing = [
        f"{name} was {value!r}, is {now.get(name)!r}"
        for name, value in checkpoint["settings"].items()
        if now.get(name) != value
    ]
    if differing:
        raise UserError(
            f"{path} was trained with other settings ({'; '.join(differing)}); give those, or "
            "--overwrite without --resume to start anew"
        )
    difference = data.difference(checkpoint["data"], checkpoint["run"]["bad_images"])
    if difference is not None:
        raise UserError(
            f"{path} was trained with other data: {difference}; give its --datasets_dir, "
            "--dataset, filter and --word_list, or --overwrite without --resume to start anew"
        )
