"""Models of the published program, read as data: its files are pickles, and nothing in them is run.

A half is a ``.cfg`` (a ``CONFIG_CLASS`` object) and a ``.mdl``: for the text a ``COUNTS_CLASS``
object, for the images a torchvision state dict. torch's weights-only reader calls torch's own
functions for tensors and the stand-ins below, which keep values and do nothing else.

Axes: C clusters, V words.
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from models_src.settings import TrainingSettings
from utils.errors import UserError
from utils.files import reading

CONFIG_CLASS = "models_src.model_configs.cluster_model_config.ClusterModelConfig"
COUNTS_CLASS = "models_src.underlying_models.word_cluster_count_model.WordClusterCountModel"
MODES = {0: "discriminative", 1: "generative"}  # by the count model's attribute ``mode``
PRETRAINED = "published (file not recorded)"  # where a published model began with trained weights

CONFIG_SETTINGS = {  # a published attribute -> the setting it is
    "visual_underlying_model": "visual_encoder",
    "pretrained_visual_underlying_model": "pretrained_visual",
    "freeze_visual_parameters": "freeze_visual",
    "visual_threshold": "visual_threshold",
    "visual_learning_rate": "visual_learning_rate",
    "text_underlying_model": "text_encoder",
    "text_threshold": "text_threshold",
    "cluster_num": "cluster_num",
}
# what is known of a published model: the above, and the image and batch size it is evaluated with
KNOWN_SETTINGS = {*CONFIG_SETTINGS.values(), "image_size", "batch_size"}

Settings = TypeVar("Settings", bound=TrainingSettings)


class PublishedSettings(TrainingSettings):
    """Settings of a published model, whose files tell only some of them.

    ``pretrained_visual`` cannot name a file: it is ``PRETRAINED`` or None, and nothing is loaded
    from it.
    """

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain values by name; None for what is not known."""
        settings = super().as_dict()
        return settings | dict.fromkeys(settings.keys() - KNOWN_SETTINGS)


def settings_in(path: Path, values: Mapping[str, Any], kind: type[Settings]) -> Settings:
    """Return the settings that a file holds; a refused value names the file."""
    try:
        return kind(**values)
    except UserError as error:
        raise UserError(f"{error} (in {path})") from None


class _Record:
    """Stands in for a published class: the attributes of one object, none of them set on it."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.attributes = dict(state)


class _NumberType:
    """Stands in for ``numpy.dtype``."""

    def __init__(self, code: str, align: bool = False, copy: bool = True):
        self.code = code

    def __setstate__(self, state: Any) -> None:
        self.code = state[1] + self.code  # the byte order


def _number(number_type: _NumberType, raw: bytes) -> Any:
    """Stands in for numpy's way of making a number: returns a plain one."""
    return np.frombuffer(raw, number_type.code)[0].item()


STAND_INS: list[Any] = [
    (_Record, CONFIG_CLASS),
    (_Record, COUNTS_CLASS),
    (_NumberType, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
    (lambda *default: {}, "collections.defaultdict"),
    *((kind, f"builtins.{kind.__name__}") for kind in (int, float, list, dict)),  # as defaults
]


def read_safely(path: Path, what: str, stand_ins: list[Any] | None = None) -> Any:
    """Read a torch file, running nothing that it may hold.

    Without ``stand_ins``, pairs of what stands in for a name in the file and the name, it may hold
    tensors and plain values only.
    """
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins or []):
            warnings.simplefilter("ignore")  # of other pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{what} is missing: no file {path}; train it or put it there") from None
    except Exception as error:  # torch raises many kinds for damaged and foreign files
        # torch's own advice, to load the file without this guard, is left out
        named = re.search(r"(?:GLOBAL|module) (\S+) (?:was not|whose)", str(error))
        if named:
            raise UserError(
                f"{path} names {named[1]}, which no model needs and which could run code; nothing "
                "was run: take the file from a source you trust"
            ) from None
        raise UserError(
            f"{what} {path} is damaged or no file of this kind ({type(error).__name__}); train it "
            "again or restore the file"
        ) from None


def _read_record(path: Path, what: str) -> dict[str, Any]:
    """Return the attributes of the object of a published class in a file."""
    record = read_safely(path, what, STAND_INS)
    return record.attributes if isinstance(record, _Record) else {}


def is_published(config: Path) -> bool:
    """Return whether a ``.cfg`` is one of torch's files, and not this project's text."""
    with config.open("rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02")


def read_settings(config: Path) -> PublishedSettings:
    """Read a published ``.cfg``.

    The file says whether images were encoded by a pre-trained CNN, but not from which weights; and
    ``text_encoder`` is only certain with the text ``.mdl`` (see ``read_text_half``).
    """
    attributes = _read_record(config, "the model's settings")
    with reading(config, "restore the file"):
        values = {setting: attributes[name] for name, setting in CONFIG_SETTINGS.items()}
    trained_start = values["pretrained_visual"] or values["visual_encoder"] == "simclr"
    values["pretrained_visual"] = PRETRAINED if trained_start else None
    if values["text_encoder"] not in MODES.values():
        values["text_encoder"] = "generative"
    return settings_in(config, values, PublishedSettings)


def read_text_half(config: Path, model: Path) -> tuple[PublishedSettings, dict[str, Any]]:
    """Return the settings, the ``words`` and the ``state`` of a count encoder.

    Words are the most frequent first (ties by alphabet). The settings name the text encoder that
    the counts were made for. The probabilities beside the counts can be older, and are not read.
    """
    settings = read_settings(config)
    attributes = _read_record(model, "the text model")
    with reading(model, "restore the file"):
        mode = MODES[attributes["mode"]]
        if mode == "generative":
            columns = attributes["cluster_to_word_co_occur"]  # C dicts: word -> count
            words = list(dict.fromkeys(word for column in columns for word in column))
            counts = np.array([[column.get(word, 0) for column in columns] for word in words])
        else:
            table = attributes["word_to_cluster_co_occur"]  # word -> C counts
            words, counts = list(table), np.array(list(table.values()))
        counts = counts.astype(np.float64).reshape(len(words), -1)
        whole = (counts >= 0) & (counts == np.floor(counts)) & np.isfinite(counts)
        if not whole.all() or not all(type(word) is str for word in words):
            raise ValueError("its counts are not whole numbers of words")
        if counts.size and counts.shape[1] != settings.cluster_num:
            raise ValueError(
                f"it has {counts.shape[1]} clusters, {config.name} says {settings.cluster_num}"
            )
        order = sorted(range(len(words)), key=lambda row: (-counts[row].sum(), words[row]))
    state = {"word_cluster_counts": torch.from_numpy(counts[order].astype(np.int64))}  # (V, C)
    content = {"words": [words[row] for row in order], "state": state}
    return replace(settings, text_encoder=mode), content


def read_visual_half(config: Path, model: Path) -> tuple[PublishedSettings, dict[str, Tensor]]:
    """Return the settings, and a state dict with the names of ``VisualEncoder.network``.

    That is without GoogLeNet's auxiliary heads and the "module." that parallel training leaves.
    """
    settings = read_settings(config)
    state = read_safely(model, "the visual model")
    with reading(model, "restore the file"):
        state = {name.removeprefix("module."): value for name, value in state.items()}
        if settings.visual_encoder == "googlenet":
            state = {k: value for k, value in state.items() if not re.match(r"aux[12]\.", k)}
        # a VGG's only linear layer may be numbered
        layers = {name.rpartition(".")[0] for name in state if name.startswith("classifier.")}
        if len(layers) == 1:
            state = {re.sub(r"^classifier\.\d+\.", "classifier.", k): v for k, v in state.items()}
        if not all(value.isfinite().all() for value in state.values()):
            raise ValueError("a weight is not finite")
    return settings, state
