"""Models of the published program, read as data: its files are pickles, and nothing in them is run.

A half of a published model is a ``.cfg`` (an object of the class ``CONFIG_CLASS``) and a ``.mdl``:
for the text an object of the class ``COUNTS_CLASS``, for the images a torchvision state dict.
torch's weights-only reader takes them apart: it calls only what stands in a list. Beside torch's
own functions for tensors that list holds the stand-ins below, under the names that published
files use; each keeps values and does nothing else.

Axes: C clusters, V words, D channels of the last convolution.
"""

import pickletools
import re
import struct
import tarfile
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from array import array
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from models_src.settings import COUNT_THRESHOLD, TrainingSettings
from models_src.visual_encoders import network_shapes
from utils.errors import UserError

CONFIG_CLASS = "models_src.model_configs.cluster_model_config.ClusterModelConfig"
COUNTS_CLASS = "models_src.underlying_models.word_cluster_count_model.WordClusterCountModel"
MODES = ("discriminative", "generative")  # by the count model's attribute ``mode``
PRETRAINED = "published (file not recorded)"  # where a published model began with trained weights
LARGEST_COUNT = 2**40  # beyond any corpus, and sums over words stay exact
LARGEST_TABLE = 2**26  # words times clusters: half a GiB of counts, and a published model has 2**23
WEIGHT_TYPES = (  # of networks and their batch counters
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64,
)  # fmt: skip

# a published attribute -> the setting it is
CONFIG_SETTINGS = {
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

# torch's names for the parts of tensors, as they stand in files
TENSOR_NAMES = re.compile(
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|torch\.\w*Storage|torch\.storage\.\w+"
    r"|torch\.(Tensor|Size|device)|torch\._utils\._rebuild_\w+|torch\.nn\.parameter\.Parameter"
)
STRUCT_CODES = {
    "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I",
    "u8": "Q", "f2": "e", "f4": "f", "f8": "d",
}  # fmt: skip


class PublishedSettings(TrainingSettings):
    """Settings of a published model, whose files tell only some of them.

    ``pretrained_visual`` cannot name a file: it is ``PRETRAINED`` or None, and nothing is loaded
    from it. Its clusters are independent, whatever the text encoder.
    """

    def _fill_in(self) -> None:
        """Put the published values in the place of None."""
        object.__setattr__(self, "cluster_group_size", 1)
        if self.text_threshold is None:
            object.__setattr__(self, "text_threshold", COUNT_THRESHOLD)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain values by name; None for what is not known."""
        return {
            name: value if name in KNOWN_SETTINGS else None
            for name, value in super().as_dict().items()
        }


class Record:
    """Stands in for a published class: the attributes of one object, as read."""

    __slots__ = ("attributes",)

    def __new__(cls) -> "Record":
        """Return a record without attributes; published objects are made without arguments."""
        record = super().__new__(cls)
        record.attributes = {}
        return record

    def __setstate__(self, state: Any) -> None:
        """Keep the attributes; none is set on an object, so that none can change what it does."""
        if type(state) is not dict or not all(type(name) is str for name in state):
            raise ValueError("attributes are no dict of names")
        self.attributes = state


class _NumberType:
    """Stands in for ``numpy.dtype``."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, align: Any = False, copy: Any = True):
        self.code = STRUCT_CODES[code]
        self.order = "<"

    def __setstate__(self, state: Any) -> None:
        """Take over the byte order, the second entry of numpy's description."""
        self.order = {"<": "<", ">": ">", "|": "<", "=": "<"}[state[1]]


def _number(number_type: Any, raw: Any) -> int | float | bool:
    """Stands in for numpy's way of making a number: returns a plain one."""
    number: int | float | bool = struct.unpack(number_type.order + number_type.code, raw)[0]
    return number


def _dict(*default: Any) -> dict[Any, Any]:
    """Stands in for ``collections.defaultdict``: an empty dict."""
    return {}


def _nothing(*arguments: Any) -> None:
    """Stands in for the types that a ``defaultdict`` may name as its default."""


PLAIN_DATA: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _NumberType,
    "numpy.core.multiarray.scalar": _number,
    "numpy._core.multiarray.scalar": _number,
    "collections.defaultdict": _dict,
    "builtins.int": _nothing,
    "builtins.float": _nothing,
    "builtins.list": _nothing,
    "builtins.dict": _nothing,
}


def is_published(config: Path) -> bool:
    """Return whether a ``.cfg`` is a pickle, in whatever container, and not this project's text."""
    try:
        with config.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return False  # reading it as text tells what is wrong
    # a zip, a pickle with its protocol, an old pickle that starts with a global or a mark
    return b"\0" in head or bool(re.match(rb"PK|\x80|\(|[ci][\w.]+\r?\n[\w.]+\r?\n", head))


def read_settings(config: Path) -> PublishedSettings:
    """Read a published ``.cfg``.

    The file says whether images were encoded by a pre-trained CNN, but not from which weights; and
    ``text_encoder`` is only certain with the text ``.mdl`` (see ``read_text_half``).

    Raises:
        UserError: the file is damaged, not the published class, lacks an attribute, or a value is
            not allowed.
    """
    attributes = _read_record(config, "the model's settings", CONFIG_CLASS, tuple(CONFIG_SETTINGS))
    values = {setting: attributes[name] for name, setting in CONFIG_SETTINGS.items()}
    for name, setting in CONFIG_SETTINGS.items():
        value = values[setting]
        if not isinstance(value, str | int | float | None) or len(str(value)) > 100:
            raise UserError(f"{config} has a {name} that is no plain value; restore the file")
    if type(values["pretrained_visual"]) is not bool:
        raise UserError(
            f"{config} has a pretrained_visual_underlying_model that is not true or false; restore "
            "the file"
        )
    trained_start = values["pretrained_visual"] or values["visual_encoder"] == "simclr"
    values["pretrained_visual"] = PRETRAINED if trained_start else None
    if values["text_encoder"] not in MODES:
        values["text_encoder"] = "generative"
    try:
        return PublishedSettings(**values)
    except UserError as error:
        raise UserError(f"{error} (in {config})") from None


def read_text_half(config: Path, model: Path) -> tuple[PublishedSettings, tuple[str, ...], Tensor]:
    """Read the text half of a published model.

    Only counts are taken: the probabilities beside them can be older than the counts.

    Returns:
        The settings, with the text encoder that the counts were made for; V words, the most
        frequent first (ties by alphabet); and their counts N(w,c), (V, C) int64.

    Raises:
        UserError: a file is missing, damaged, not of the published class, the two disagree, or the
            table of counts is larger than ``LARGEST_TABLE``.
    """
    settings = read_settings(config)
    attributes = _read_record(model, "the text model", COUNTS_CLASS, ("cluster_num", "mode"))
    mode = attributes["mode"]
    if type(mode) is not int or mode not in (0, 1):
        raise UserError(f"{model} has neither mode 0 nor mode 1; restore the file")
    by_cluster = mode == 1
    name = "cluster_to_word_co_occur" if by_cluster else "word_to_cluster_co_occur"
    if name not in attributes:
        raise UserError(f"{model} lacks {name}; restore the file")
    _require_cluster_num(model, attributes["cluster_num"], config, settings)
    table = attributes[name]
    if by_cluster:
        if type(table) is not list or not all(isinstance(words, dict) for words in table):
            raise UserError(f"{model} has a {name} that is no list of dicts; restore the file")
        _require_cluster_num(model, len(table), config, settings)
        # a small file can hold one large dict many times
        _require_table_size(model, max(map(len, table)), settings.cluster_num)
        cells = (
            (word, cluster, count)
            for cluster, words in enumerate(table)
            for word, count in words.items()
        )
    else:
        if not isinstance(table, dict) or not all(type(row) is list for row in table.values()):
            raise UserError(f"{model} has a {name} that is no dict of lists; restore the file")
        for row in table.values():
            _require_cluster_num(model, len(row), config, settings)
        _require_table_size(model, len(table), settings.cluster_num)
        cells = (
            (word, cluster, count)
            for word, row in table.items()
            for cluster, count in enumerate(row)
        )
    words, counts = _count_table(cells, settings.cluster_num, model)
    values = {**vars(settings), "text_encoder": MODES[mode]}
    return PublishedSettings(**values), words, counts


def _count_table(
    cells: Iterator[tuple[Any, int, Any]], cluster_num: int, path: Path
) -> tuple[tuple[str, ...], Tensor]:
    """Gather (word, cluster, count) into words and counts (V, C), see ``read_text_half``.

    Raises:
        UserError: a word is no text, a count no whole number from 0 to ``LARGEST_COUNT``, or the
            table larger than ``LARGEST_TABLE``.
    """
    rows: dict[str, int] = {}
    places = array("q")  # row * C + cluster
    counts = array("q")
    for word, cluster, count in cells:
        if type(word) is not str:
            raise UserError(f"{path} counts something that is no word; restore the file")
        row = rows.setdefault(word, len(rows))
        # the range comes first, which nan and infinities fail, too
        if (
            type(count) not in (int, float)
            or not 0 <= count <= LARGEST_COUNT
            or count != int(count)
        ):
            raise UserError(
                f"{path} has a count of the word {word[:40]!r} that is no whole number from 0 to "
                f"{LARGEST_COUNT}; restore the file"
            )
        places.append(row * cluster_num + cluster)
        counts.append(int(count))
    _require_table_size(path, len(rows), cluster_num)
    table = torch.zeros(len(rows) * cluster_num, dtype=torch.int64)
    table[torch.from_numpy(np.array(places))] = torch.from_numpy(np.array(counts))
    table = table.view(len(rows), cluster_num)
    totals = table.sum(dim=1).tolist()  # (V,)
    order = sorted(rows, key=lambda word: (-totals[rows[word]], word))
    index = torch.tensor([rows[word] for word in order], dtype=torch.int64)
    return tuple(order), table[index]


def read_visual_half(config: Path, model: Path) -> tuple[PublishedSettings, dict[str, Tensor]]:
    """Read the visual half of a published model.

    Returns:
        The settings, and a state dict with the names of ``VisualEncoder.network``: without the
        prefix "module." that parallel training leaves and GoogLeNet's auxiliary heads, with the
        batch counters that older files lack.

    Raises:
        UserError: a file is missing, damaged or holds something else, a weight is not finite, the
            weights are not those of the network in the settings, or the last layer has another
            number of clusters.
    """
    settings = read_settings(config)
    state = read_safely(model, "the visual model")
    if not isinstance(state, dict) or not state or not all(type(name) is str for name in state):
        raise UserError(f"{model} holds no state dict; restore the file")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    if settings.visual_encoder == "googlenet":
        state = {name: value for name, value in state.items() if not re.match(r"aux[12]\.", name)}
    if settings.visual_encoder == "vgg16":
        state = _with_single_classifier(state)
    for name, value in state.items():
        if not _is_weight(value):
            raise _no_weight(model, name)
    head = state.get("classifier.weight" if settings.visual_encoder == "vgg16" else "fc.weight")
    if head is None or head.dim() != 2 or not head.numel():
        raise UserError(
            f"{model} has no last layer of a {settings.visual_encoder}, which {config.name} says "
            "it is; restore both files"
        )
    _require_cluster_num(model, len(head), config, settings)
    counters = {
        name.removesuffix("running_mean") + "num_batches_tracked": torch.tensor(0)
        for name in state
        if name.endswith("running_mean")
    }
    state = counters | state
    shapes = network_shapes(settings.visual_encoder, settings.cluster_num)
    found = {name: value.shape for name, value in state.items()}
    unfit = [name for name in shapes | found if shapes.get(name) != found.get(name)]
    if unfit:
        raise UserError(
            f"{model} does not fit a {settings.visual_encoder}, which {config.name} says it is: "
            f"{len(unfit)} entries are missing, foreign or of another shape, the first "
            f"{_printable(unfit[0])}; restore both files"
        )
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise _no_weight(model, name)
    return settings, state


def _with_single_classifier(state: Mapping[str, Any]) -> dict[str, Any]:
    """Rename ``classifier.N.weight`` and ``.bias`` to ``classifier.weight`` where N is one."""
    pattern = r"classifier\.\d+\."
    layers = {match[0] for match in (re.match(pattern, name) for name in state) if match}
    if len(layers) != 1:
        return dict(state)
    return {re.sub("^" + pattern, "classifier.", name): value for name, value in state.items()}


def _is_weight(value: Any) -> bool:
    """Return whether a state dict's value is a plain tensor, finite or not."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.dtype in WEIGHT_TYPES
        and not value.is_nested
        # with strides of 0 a few stored numbers would stand for any amount
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _no_weight(model: Path, name: str) -> UserError:
    """Return the error for an entry of a state dict that cannot be a weight."""
    return UserError(
        f"{model} has an entry {_printable(name)} that is no tensor of finite numbers; restore the "
        "file"
    )


def _require_table_size(path: Path, word_num: int, cluster_num: int) -> None:
    """Raise a UserError if counts of so many words in so many clusters take too much memory."""
    # a row at least: N(c) is kept without any word, too
    if max(word_num, 1) * cluster_num > LARGEST_TABLE:
        raise UserError(
            f"{path} counts {word_num} words in {cluster_num} clusters, of which at most "
            f"{LARGEST_TABLE} pairs are read; restore the file"
        )


def _require_cluster_num(
    model: Path, found: Any, config: Path, settings: PublishedSettings
) -> None:
    """Raise a UserError unless a number of clusters is the one in the settings."""
    if type(found) is not int or found != settings.cluster_num:
        shown = found if type(found) is int else "an unknown number of"
        raise UserError(
            f"{model} has {shown} clusters, {config.name} says {settings.cluster_num}; restore "
            "the file that belongs to the other"
        )


def _read_record(path: Path, what: str, name: str, required: tuple[str, ...]) -> dict[str, Any]:
    """Read one object of the published class ``name`` and return its attributes.

    Raises:
        UserError: the file is missing, damaged or holds something else, or an attribute is missing.
    """
    short = name.rpartition(".")[2]
    record = read_safely(path, what, {name: Record})
    if type(record) is not Record:
        raise UserError(f"{path} holds no {short} of the published program; restore the file")
    missing = [attribute for attribute in required if attribute not in record.attributes]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; restore the file")
    return record.attributes


def read_safely(
    path: Path, what: str, stand_ins: Mapping[str, Callable[..., Any]] | None = None
) -> Any:
    """Read a torch file of either container, running nothing that it may hold.

    Args:
        path: The file.
        what: What it is, for the error message.
        stand_ins: What stands in for the classes it may name, by full name. Without any, the file
            may hold tensors and plain values only.

    Raises:
        UserError: the file is missing, damaged, or names something that it may not.
    """
    allowed = {**PLAIN_DATA, **stand_ins} if stand_ins else {}
    listed: list[Any] = [(stand_in, name) for name, stand_in in allowed.items()]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(listed):
            warnings.simplefilter("ignore")  # of other pickle protocols: they are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{what} is missing: no file {path}; train it or put it there") from None
    except Exception as error:  # torch raises many kinds for damaged and foreign files
        for name in _names_in(path):
            if name not in allowed and not TENSOR_NAMES.fullmatch(name):
                raise UserError(
                    f"{path} names {_printable(name)}, which no model needs and which could run "
                    "code; nothing was run: take the file from a source you trust"
                ) from None
        raise UserError(
            f"{what} {path} is damaged or no file of this kind ({type(error).__name__}); train it "
            "again or restore the file"
        ) from None


def _names_in(path: Path) -> list[str]:
    """Return the full names of what the pickles in a file refer to; nothing is loaded.

    Of a damaged file, those before the damage.
    """
    names: list[str] = []
    try:
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                for entry in archive.namelist():
                    if entry.endswith(".pkl"):
                        with archive.open(entry) as file:
                            _collect_names(file, names)
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                for member in archive:
                    content = archive.extractfile(member) if member.isfile() else None
                    if content is not None:
                        _collect_names(content, names)
        else:
            with path.open("rb") as file:
                _collect_names(file, names)
    except Exception:  # of many kinds, for damaged archives
        pass
    return names


def _collect_names(file: IO[bytes], names: list[str]) -> None:
    """Add the names in the pickles that follow one another in a file, up to the first damage."""
    try:
        while True:
            strings = ("", "")  # the last two pushed: module and name, for STACK_GLOBAL
            memo: dict[int, str] = {}
            last = ""  # what the last operation pushed, where that is a string
            argument: Any
            for operation, argument, _ in pickletools.genops(file):
                kind = operation.name
                if kind in ("GLOBAL", "INST"):
                    names.append(_present_name(*argument.split(" ", 1)))
                elif kind == "STACK_GLOBAL":
                    names.append(".".join(strings))
                elif kind == "MEMOIZE":
                    memo[len(memo)] = last
                elif kind in ("PUT", "BINPUT", "LONG_BINPUT"):
                    memo[argument] = last
                else:
                    if kind in ("GET", "BINGET", "LONG_BINGET"):
                        argument = memo.get(argument, "")
                    last = argument if isinstance(argument, str) else ""
                    if last:
                        strings = (strings[1], last)
    except (ValueError, AttributeError):  # the file's end, or no pickle
        return


def _present_name(module: str, name: str) -> str:
    """Return a full name as Python 3 has it; older pickles hold those of Python 2."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def _printable(text: str) -> str:
    """Return a text of a foreign file as it can stand in a one-line message."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:80])
