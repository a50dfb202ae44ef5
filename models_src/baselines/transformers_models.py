"""Reading models of the transformers package from local folders; nothing is ever downloaded."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.errors import UserError
from utils.files import parse_json, read_text

INSTALL = "pip install -r requirements-baselines.txt"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there is read


@dataclass(frozen=True)
class ModelKind:
    """What a folder must hold to be a model of a kind, and how users name the folder."""

    option: str  # that names the folder
    model_type: str  # in config.json
    example: str  # name of a fitting model on huggingface.co
    # each one needed; " or " parts alternatives and " and " the files of one
    files: tuple[str, ...]

    def folder(self, given: Path | None, datasets_dir: Path) -> Path:
        """Return the folder that the user gave, or where it is looked for otherwise."""
        return given or datasets_dir / self.example.rpartition("/")[2]

    def advice(self) -> str:
        """Return where the files come from, for the end of an error message."""
        return (
            f"download {', '.join(self.files)} of {self.example} from huggingface.co into a "
            f"folder and name it with {self.option}"
        )


def require_folder(folder: Path, kind: ModelKind) -> None:
    """See that a folder holds the files of a model of this kind.

    Raises:
        UserError: the folder or a file is missing, or the model is of another kind.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder} ({kind.option}); {kind.advice()}")
    missing = [needed for needed in kind.files if not _is_there(folder, needed)]
    if missing:
        raise UserError(f"{folder} ({kind.option}) lacks {', '.join(missing)}; {kind.advice()}")
    path = folder / "config.json"
    try:
        config = parse_json(read_text(path, "the model's configuration"))
    except ValueError:
        raise UserError(f"{path} is not valid JSON; {kind.advice()}") from None
    found = config.get("model_type") if isinstance(config, dict) else None
    if found != kind.model_type:
        raise UserError(
            f"{path} is of the model type {found!r}, not {kind.model_type!r}; {kind.advice()}"
        )


def _is_there(folder: Path, needed: str) -> bool:
    """Return whether a folder has all files of one of the alternatives in ``needed``."""
    return any(
        all((folder / name).is_file() for name in alternative.split(" and "))
        for alternative in needed.split(" or ")
    )


def weights_file(folder: Path) -> Path:
    """Return the file of weights that is read from a folder checked by ``require_folder``."""
    return next(folder / name for name in WEIGHTS if (folder / name).is_file())


def model_files(folder: Path) -> list[Path]:
    """Return the files that decide what a model computes, sorted.

    They are the weights that are read, and all settings and vocabularies of network, tokenizer and
    image processor, whatever their names. The folder is one checked by ``require_folder``.
    """
    return sorted([weights_file(folder), *folder.glob("*.json"), *folder.glob("*.txt")])


def load_network(
    class_name: str, folder: Path, kind: ModelKind, device: str, **arguments: Any
) -> Any:
    """Load a network in float32, ready for evaluation.

    Args:
        class_name: Of the network in transformers.
        folder: Checked by ``require_folder``.
        kind: For error messages.
        device: Where the network goes.
        arguments: Passed on to the class.

    Raises:
        UserError: transformers is not installed, or the folder's files do not fit the class.
    """
    network, report = load_part(
        class_name,
        folder,
        kind,
        use_safetensors=weights_file(folder).suffix == ".safetensors",
        weights_only=True,  # a .bin file is a pickle: only tensors are built from it
        dtype=torch.float32,
        attn_implementation="sdpa",  # a configuration could name code on the network instead
        output_loading_info=True,
        **arguments,
    )
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would leave them random
        raise UserError(
            f"{weights_file(folder)} lacks {len(missing)} weights, the first {missing[0]}; "
            f"{kind.advice()}"
        )
    return network.to(device).eval()


def load_part(class_name: str, folder: Path, kind: ModelKind, **arguments: Any) -> Any:
    """Load a network, a tokenizer or an image processor from a folder by its class's name.

    Raises:
        UserError: transformers is not installed, or the folder's files do not fit the class.
    """
    part = _transformers_class(class_name)
    try:
        with _quiet_transformers():
            return part.from_pretrained(folder, local_files_only=True, **arguments)
    except Exception as error:  # many kinds for damaged and foreign files
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot read a {kind.model_type} model from {folder} ({type(error).__name__}: "
            f"{reason}); {kind.advice()}"
        ) from None


def _transformers_class(name: str) -> Any:
    """Return a class of transformers.

    Raises:
        UserError: the package is missing, or of a version without the class.
    """
    # tokenizers that ran in several threads complain when image readers are forked afterwards
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import transformers

        return getattr(transformers, name)
    except (ImportError, AttributeError):
        raise UserError(
            f"BERT and CLIP need the package transformers, which is missing here or has no {name}; "
            f"{INSTALL}"
        ) from None


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers' warnings and progress bars out of the output for a while."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def load_tokenizer(class_name: str, folder: Path, kind: ModelKind, vocabulary_size: int) -> Any:
    """Load a tokenizer and see that its vocabulary fits the network's.

    Raises:
        UserError: as ``load_part``, or a token has no place in the network.
    """
    tokenizer = load_part(class_name, folder, kind)
    if len(tokenizer) > vocabulary_size:
        raise UserError(
            f"the tokenizer in {folder} has {len(tokenizer)} tokens and the network "
            f"{vocabulary_size}, so they do not belong together; {kind.advice()}"
        )
    return tokenizer


def encode(
    tokenizer: Any, texts: Sequence[str], longest: int, device: str
) -> tuple[dict[str, Tensor], Tensor]:
    """Encode a batch of B texts, padded to the L pieces of the longest.

    Args:
        tokenizer: A fast tokenizer.
        texts: B texts.
        longest: Pieces from which a text is cut off.
        device: Where the network is.

    Returns:
        The network's inputs, each (B, L), and each piece's place in its text: its first character
        and the one after its last, (B, L, 2) on the CPU; (0, 0) for padding and special tokens.
    """
    encoded = tokenizer(
        list(texts),
        padding=True,
        truncation=True,
        max_length=longest,
        return_offsets_mapping=True,
        return_tensors="pt",
    )
    offsets = encoded.pop("offset_mapping")
    return dict(encoded.to(device)), offsets


def require_finite(vectors: np.ndarray, folder: Path, kind: ModelKind) -> None:
    """See that the vectors a model computed are numbers.

    Args:
        vectors: Of any shape.
        folder: The model's.
        kind: For the error message.

    Raises:
        UserError: a number is infinite or not a number.
    """
    if not np.isfinite(vectors).all():
        raise UserError(
            f"the {kind.model_type} model in {folder} computes numbers that are not finite, so its "
            f"weights are damaged; {kind.advice()}"
        )
