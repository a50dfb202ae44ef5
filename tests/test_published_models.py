"""Models of the published program: files as it writes them, damaged ones, and hostile ones.

The published classes exist here only while such a file is written.
"""

import builtins
import contextlib
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import types
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.models import googlenet

from main import main
from models_src.model_files import (
    Origin,
    load_text_model,
    load_visual_model,
    published_origin,
    require_same_origin,
)
from models_src.published_models import (
    CONFIG_CLASS,
    COUNTS_CLASS,
    KNOWN_SETTINGS,
    LARGEST_TABLE,
    PRETRAINED,
    is_published,
    read_safely,
)
from models_src.settings import TrainingSettings
from models_src.visual_encoders import VisualEncoder
from utils.errors import UserError

CONFIG = {
    "visual_underlying_model": "resnet18",
    "pretrained_visual_underlying_model": False,
    "freeze_visual_parameters": False,
    "visual_threshold": 0.5,
    "visual_learning_rate": 1e-4,
    "text_underlying_model": "word_cluster_count_model",
    "text_threshold": 0.08,
    "cluster_num": 3,
}
# N(w,c), (words a, b, c) x (3 clusters): N(c) = 4, 4, 0
COUNTS = [{"a": 3, "b": 1}, {"a": 1, "c": 3}, {}]
CLUSTER_COUNTS = {
    "cluster_num": 3,
    "mode": 1,
    "cluster_to_word_co_occur": COUNTS,
    "cluster_to_word_prob": [{"a": 0.9}, {"c": 0.1}, {}],  # stale
    "cluster_prob": [1 / 3] * 3,
}
WORD_COUNTS = {
    "cluster_num": 3,
    "mode": 0,
    "word_to_cluster_co_occur": {"a": [3, 1, 0], "b": [1, 0, 0], "c": [0, 3, 0], "d": [0, 0, 0]},
}


@contextlib.contextmanager
def published_class(full_name: str):
    """Yield a class of that full name, which can be pickled while the context lasts."""
    module_name, _, name = full_name.rpartition(".")
    parts = module_name.split(".")
    names = [".".join(parts[:end]) for end in range(2, len(parts) + 1)]
    assert not set(names) & set(sys.modules)
    made = type(name, (), {"__module__": module_name})
    try:
        for each in names:
            sys.modules[each] = types.ModuleType(each)
        setattr(sys.modules[module_name], name, made)
        yield made
    finally:
        for each in names:
            sys.modules.pop(each, None)


def write_object(path: Path, full_name: str, attributes: dict, zipped: bool = True, **save) -> None:
    """Write an object of a published class as torch saves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with published_class(full_name) as made:
        thing = made()
        vars(thing).update(attributes)
        torch.save(thing, path, _use_new_zipfile_serialization=zipped, **save)


def write_text(models: Path, config=CONFIG, counts=CLUSTER_COUNTS, name="old", zipped=True) -> None:
    write_object(models / "text" / f"{name}.cfg", CONFIG_CLASS, config, zipped)
    write_object(models / "text" / f"{name}.mdl", COUNTS_CLASS, counts, zipped)


def write_visual(models: Path, state: dict, config=CONFIG, name="old", zipped=True) -> None:
    write_object(models / "visual" / f"{name}.cfg", CONFIG_CLASS, config, zipped)
    path = models / "visual" / f"{name}.mdl"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)


def random_state(encoder: str = "resnet18", cluster_num: int = 3) -> dict[str, torch.Tensor]:
    """Return random weights of an encoder's shapes, without the time that its own start takes."""
    with torch.device("meta"):
        shapes = VisualEncoder(encoder, cluster_num).network.state_dict()
    generator = torch.Generator().manual_seed(5)
    return {
        name: torch.rand(value.shape, generator=generator) / 10
        if value.is_floating_point()
        else torch.tensor(7)
        for name, value in shapes.items()
    }


@pytest.fixture(scope="module")
def resnet_state():
    return random_state()


@pytest.fixture
def models(tmp_path):
    """A folder with the text half of a published model."""
    write_text(tmp_path)
    return tmp_path


def fails(capsys, *arguments: str, mentions: tuple[str, ...]) -> None:
    """Assert that a call is the user's mistake, told in one line."""
    assert main(list(arguments)) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: "), errors
    assert errors.count("\n") == 1, errors
    for text in mentions:
        assert text in errors, errors


def refused(call, *mentions: str) -> None:
    """Assert that a call is refused in one line."""
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    for text in mentions:
        assert text in str(error.value)


# ---- text half


@pytest.mark.parametrize("zipped", [True, False])
def test_generative_counts_are_read_and_probabilities_recomputed(tmp_path, zipped):
    write_text(tmp_path, zipped=zipped)
    text, settings, origin = load_text_model(tmp_path, "old")
    assert text.words == ("a", "c", "b")  # by frequency
    assert text.counts.tolist() == [[3, 1, 0], [0, 3, 0], [1, 0, 0]]
    # p(w|c): a 3/4, 1/4; b 1/4, 0; c 0, 3/4; a uniform prior divides out
    assert text.word_posteriors().tolist() == [[0.75, 0.25, 0], [0, 1, 0], [1, 0, 0]]
    assert settings.text_encoder == "generative"
    assert settings.text_threshold == 0.08
    assert origin == Origin("published", None, None, None, 3)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("number", [int, np.int64, np.int32, np.uint8, np.dtype(">i4").type, float,
                                    np.float64])  # fmt: skip
def test_discriminative_counts_are_read_whatever_their_numbers(tmp_path, zipped, number):
    table = {
        word: [number(count) for count in row]
        for word, row in WORD_COUNTS["word_to_cluster_co_occur"].items()
    }
    write_text(tmp_path, counts=WORD_COUNTS | {"word_to_cluster_co_occur": table}, zipped=zipped)
    text, settings, _ = load_text_model(tmp_path, "old")
    assert settings.text_encoder == "discriminative"
    assert text.words == ("a", "c", "b", "d")
    assert text.counts.dtype == torch.int64
    assert text.word_posteriors().tolist() == [[0.75, 0.25, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_big_endian_and_large_numbers(tmp_path):
    big = np.array([70000, 2, 2**33], dtype=">i8")
    row = [big[0], np.int64(2), np.int64(2**33)]
    assert row[0].dtype.byteorder != "|"
    write_text(tmp_path, counts=WORD_COUNTS | {"word_to_cluster_co_occur": {"a": row}})
    assert load_text_model(tmp_path, "old")[0].counts.tolist() == [[70000, 2, 2**33]]


@pytest.mark.parametrize("default", [int, float, list, dict])
def test_dicts_with_a_default_are_plain_dicts(tmp_path, default):
    table = [defaultdict(default, words) for words in COUNTS]
    write_text(tmp_path, counts=CLUSTER_COUNTS | {"cluster_to_word_co_occur": table})
    assert load_text_model(tmp_path, "old")[0].counts.tolist() == [[3, 1, 0], [0, 3, 0], [1, 0, 0]]


words = st.text(max_size=5)


@settings(max_examples=12, deadline=None)
@given(
    st.dictionaries(words, st.lists(st.integers(0, 2**35), min_size=3, max_size=3), max_size=8),
    st.booleans(),
)
def test_both_modes_hold_the_same_table(tmp_path_factory, rows, zipped):
    """Every count comes back in its word's row, whichever way round the file has them."""
    folder = tmp_path_factory.mktemp("table")
    columns = [{word: row[c] for word, row in rows.items() if row[c]} for c in range(3)]
    write_text(folder, counts=WORD_COUNTS | {"word_to_cluster_co_occur": rows}, name="rows")
    write_text(
        folder,
        counts=CLUSTER_COUNTS | {"cluster_to_word_co_occur": columns},
        name="columns",
        zipped=zipped,
    )
    for name in ("rows", "columns"):
        text, _, _ = load_text_model(folder, name)
        found = dict(zip(text.words, text.counts.tolist(), strict=True))
        present = {word: row for word, row in rows.items() if any(row) or name == "rows"}
        assert found == present
        totals = [sum(rows[word]) for word in text.words]
        assert totals == sorted(totals, reverse=True)


@pytest.mark.parametrize(
    ("changes", "mentions"),
    [
        ({"mode": 2}, "mode"),
        ({"mode": True}, "mode"),
        ({"mode": "generative"}, "mode"),
        ({"mode": 0}, "word_to_cluster_co_occur"),
        ({"cluster_num": 4}, "4 clusters"),
        ({"cluster_num": 3.0}, "clusters"),
        ({"cluster_to_word_co_occur": COUNTS[:2]}, "2 clusters"),
        ({"cluster_to_word_co_occur": {}}, "list of dicts"),
        ({"cluster_to_word_co_occur": None}, "list of dicts"),
        ({"cluster_to_word_co_occur": [{}, {}, []]}, "list of dicts"),
        ({"cluster_to_word_co_occur": [{"a": -1}, {}, {}]}, "'a'"),
        ({"cluster_to_word_co_occur": [{"a": 0.5}, {}, {}]}, "'a'"),
        ({"cluster_to_word_co_occur": [{"a": float("nan")}, {}, {}]}, "'a'"),
        ({"cluster_to_word_co_occur": [{"a": float("inf")}, {}, {}]}, "'a'"),
        ({"cluster_to_word_co_occur": [{"a": np.float64("nan")}, {}, {}]}, "'a'"),
        ({"cluster_to_word_co_occur": [{"a": True}, {}, {}]}, "'a'"),
        ({"cluster_to_word_co_occur": [{"a": "3"}, {}, {}]}, "'a'"),
        ({"cluster_to_word_co_occur": [{"a": 2**50}, {}, {}]}, "'a'"),
        ({"cluster_to_word_co_occur": [{7: 1}, {}, {}]}, "no word"),
        ({"cluster_to_word_co_occur": [{"a": torch.ones(2)}, {}, {}]}, "'a'"),
        (WORD_COUNTS | {"word_to_cluster_co_occur": {"a": [1, 2]}}, "2 clusters"),
        (WORD_COUNTS | {"word_to_cluster_co_occur": {"a": 1}}, "dict of lists"),
        (WORD_COUNTS | {"word_to_cluster_co_occur": [[1, 2, 3]]}, "dict of lists"),
        (WORD_COUNTS | {"word_to_cluster_co_occur": {"a": [1, np.int64(-2), 3]}}, "'a'"),
    ],
)
def test_counts_that_cannot_be_are_one_line(tmp_path, changes, mentions):
    write_text(tmp_path, counts=CLUSTER_COUNTS | changes)
    refused(lambda: load_text_model(tmp_path, "old"), "old.mdl", mentions)


def shared_columns(cluster_num: int, word_num: int) -> dict:
    """Return counts in which all clusters have one and the same dict, written once."""
    column = {f"word{number}": 1 for number in range(word_num)}
    return {"mode": 1, "cluster_to_word_co_occur": [column] * cluster_num}


def shared_rows(cluster_num: int, word_num: int) -> dict:
    """Return counts in which all words have one and the same list, written once."""
    row = [1] * cluster_num
    table = {f"word{number}": row for number in range(word_num)}
    return {"mode": 0, "word_to_cluster_co_occur": table}


def thin_columns(cluster_num: int, word_num: int) -> dict:
    """Return counts of one word for each cluster: few cells, but a large table."""
    columns = [{f"word{number % word_num}": 1} for number in range(cluster_num)]
    return {"mode": 1, "cluster_to_word_co_occur": columns}


@pytest.mark.parametrize(
    ("make", "cluster_num", "word_num"),
    [(shared_columns, 2**17, 2**13), (shared_rows, 2**17, 2**13), (thin_columns, 8200, 8200)],
)
def test_counts_that_grow_beyond_memory_are_one_line(tmp_path, make, cluster_num, word_num):
    assert cluster_num * word_num > LARGEST_TABLE
    counts = {"cluster_num": cluster_num} | make(cluster_num, word_num)
    write_text(tmp_path, CONFIG | {"cluster_num": cluster_num}, counts)
    assert (tmp_path / "text" / "old.mdl").stat().st_size < 2**20
    refused(
        lambda: load_text_model(tmp_path, "old"),
        "old.mdl",
        f"{word_num} words in {cluster_num} clusters",
    )


def test_clusters_without_words_are_bounded_too(tmp_path, monkeypatch):
    monkeypatch.setattr("models_src.published_models.LARGEST_TABLE", 9)
    write_text(tmp_path)  # 3 words in 3 clusters
    assert load_text_model(tmp_path, "old")[0].counts.shape == (3, 3)
    counts = {"cluster_num": 10, "mode": 1, "cluster_to_word_co_occur": [{}] * 10}
    write_text(tmp_path, CONFIG | {"cluster_num": 10}, counts)
    refused(lambda: load_text_model(tmp_path, "old"), "old.mdl", "0 words in 10 clusters")


@pytest.mark.parametrize("missing", ["cluster_num", "mode", "cluster_to_word_co_occur"])
def test_missing_counts_are_named(tmp_path, missing):
    counts = {name: value for name, value in CLUSTER_COUNTS.items() if name != missing}
    write_text(tmp_path, counts=counts)
    refused(lambda: load_text_model(tmp_path, "old"), "old.mdl", f"lacks {missing}")


# ---- settings


@pytest.mark.parametrize("zipped", [True, False])
def test_settings_are_mapped_and_nothing_is_invented(tmp_path, resnet_state, zipped):
    config = CONFIG | {
        "freeze_visual_parameters": True,
        "pretrained_visual_underlying_model": True,
        "visual_threshold": np.float64(-0.25),
        "text_underlying_model": "discriminative",
    }
    write_visual(tmp_path, resnet_state, config, zipped=zipped)
    _, found, origin = load_visual_model(tmp_path, "old")
    recorded = found.as_dict()
    assert {name for name, value in recorded.items() if value is not None} == KNOWN_SETTINGS
    assert recorded["visual_encoder"] == "resnet18"
    assert recorded["freeze_visual"] is True
    assert recorded["pretrained_visual"] == PRETRAINED
    assert recorded["visual_threshold"] == -0.25
    assert recorded["visual_learning_rate"] == 1e-4
    assert recorded["text_encoder"] == "discriminative"
    assert recorded["image_size"] == 224
    assert set(recorded) == set(TrainingSettings().as_dict())
    assert (origin.step, origin.seed, origin.data_fingerprint) == (None, None, None)


@pytest.mark.parametrize(
    ("changes", "mentions"),
    [
        ({"visual_underlying_model": "alexnet"}, "alexnet"),
        ({"visual_underlying_model": None}, "visual_encoder"),
        ({"visual_underlying_model": "x" * 5000}, "visual_underlying_model"),
        ({"pretrained_visual_underlying_model": None}, "pretrained_visual_underlying_model"),
        ({"freeze_visual_parameters": 1}, "freeze_visual"),
        ({"visual_threshold": float("nan")}, "visual_threshold"),
        ({"visual_threshold": [0.5]}, "visual_threshold"),
        ({"visual_threshold": torch.ones(40, 2)}, "visual_threshold"),
        ({"text_threshold": 8}, "text_threshold"),
        ({"text_threshold": np.float64(-1)}, "text_threshold"),
        ({"visual_learning_rate": "fast"}, "visual_learning_rate"),
        ({"cluster_num": 0}, "cluster_num"),
        ({"cluster_num": 3.0}, "cluster_num"),
        ({"cluster_num": 4}, "3 clusters"),
        ({"cluster_num": 10**12}, "3 clusters"),
    ],
)
def test_settings_that_cannot_be_are_one_line(tmp_path, resnet_state, changes, mentions):
    write_text(tmp_path, CONFIG | changes)
    write_visual(tmp_path, resnet_state, CONFIG | changes)
    for load in (load_text_model, load_visual_model):
        refused(lambda load=load: load(tmp_path, "old"), "old.cfg", mentions)


@pytest.mark.parametrize("missing", CONFIG)
def test_missing_settings_are_named(tmp_path, missing):
    write_text(tmp_path, {name: value for name, value in CONFIG.items() if name != missing})
    refused(lambda: load_text_model(tmp_path, "old"), "old.cfg", f"lacks {missing}")


# ---- visual half


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("change", ["none", "module", "counters", "double", "parameters"])
def test_state_dicts_of_every_kind_give_the_same_network(tmp_path, resnet_state, zipped, change):
    state = resnet_state
    if change == "module":
        state = {f"module.{name}": value for name, value in state.items()}
    elif change == "counters":
        state = {name: value for name, value in state.items() if "num_batches" not in name}
    elif change == "double":
        state = {name: value.double() for name, value in state.items()}
    elif change == "parameters":
        state = OrderedDict(
            (name, torch.nn.Parameter(value) if value.is_floating_point() else value)
            for name, value in state.items()
        )
    write_visual(tmp_path, state, zipped=zipped)
    encoder, _, _ = load_visual_model(tmp_path, "old")
    assert not encoder.training
    for name, value in encoder.network.state_dict().items():
        missing = change == "counters" and name.endswith("num_batches_tracked")
        assert torch.equal(value, torch.tensor(0) if missing else resnet_state[name]), name


@pytest.mark.parametrize("layer", ["classifier", "classifier.6"])
def test_the_only_linear_layer_of_a_vgg_has_either_name(tmp_path, layer):
    state = random_state("vgg16")
    named = {name.replace("classifier", layer): value for name, value in state.items()}
    write_visual(tmp_path, named, CONFIG | {"visual_underlying_model": "vgg16"})
    encoder, _, _ = load_visual_model(tmp_path, "old")
    for name, value in encoder.network.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_vgg_with_three_linear_layers_is_refused(tmp_path):
    state = {f"classifier.{n}.weight": torch.ones(3, 3) for n in (0, 3, 6)}
    write_visual(tmp_path, state, CONFIG | {"visual_underlying_model": "vgg16"})
    refused(lambda: load_visual_model(tmp_path, "old"), "old.mdl", "last layer")


def test_googlenet_loses_its_auxiliary_heads(tmp_path):
    state = random_state("googlenet")
    aux = {f"aux{n}.fc2.weight": torch.ones(1000, 3) for n in (1, 2)}
    write_visual(tmp_path, state | aux, CONFIG | {"visual_underlying_model": "googlenet"})
    encoder, _, _ = load_visual_model(tmp_path, "old")
    assert torch.equal(encoder.network.conv1.conv.weight, state["conv1.conv.weight"])
    # such entries are no part of another network
    write_visual(tmp_path, random_state() | aux)
    refused(lambda: load_visual_model(tmp_path, "old"), "old.mdl", "does not fit")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_one_line(tmp_path, resnet_state):
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(1)])
    write_visual(tmp_path, resnet_state | {"fc.bias": nested})
    refused(lambda: load_visual_model(tmp_path, "old"), "old.mdl", "fc.bias")


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_googlenet_that_began_with_trained_weights_rescales_its_input(tmp_path, pretrained):
    """As torchvision's does, which no state dict tells; a converted model must still know it."""
    config = CONFIG | {
        "visual_underlying_model": "googlenet",
        "pretrained_visual_underlying_model": pretrained,
    }
    state = random_state("googlenet")
    write_visual(tmp_path, state, config)
    with torch.device("meta"):  # its random start takes seconds
        expected = googlenet(
            transform_input=pretrained, num_classes=3, aux_logits=False, init_weights=False
        )
    expected.load_state_dict(state, assign=True)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert convert(tmp_path, "--model_name=old", "--new_name=new") == 0
    with torch.inference_mode():
        logits = expected.eval()(images)
        for name in ("old", "new"):
            assert torch.allclose(load_visual_model(tmp_path, name)[0](images), logits), name


@pytest.mark.parametrize("encoder", ["resnet34", "resnet50", "simclr"])
def test_weights_of_another_network_are_refused(tmp_path, resnet_state, encoder):
    write_visual(tmp_path, resnet_state, CONFIG | {"visual_underlying_model": encoder})
    refused(lambda: load_visual_model(tmp_path, "old"), "old.mdl", "does not fit")


@pytest.mark.parametrize(
    ("changes", "mentions"),
    [
        ({"fc.weight": None}, "fc.weight"),
        ({"fc.weight": torch.full((3, 512), float("nan"))}, "fc.weight"),
        ({"conv1.weight": torch.full((64, 3, 7, 7), float("inf"))}, "conv1.weight"),
        ({"fc.weight": torch.ones(5, 512)}, "5 clusters"),
        ({"fc.weight": torch.ones(3)}, "last layer"),
        ({"fc.weight": torch.ones(3, 0)}, "last layer"),
        ({"fc.weight": torch.ones(3, 500)}, "does not fit"),
        ({"fc.weight": torch.ones(3, 512).to_sparse()}, "fc.weight"),
        ({"fc.weight": torch.ones(3, 512, dtype=torch.complex64)}, "fc.weight"),
        ({"fc.weight": torch.ones(3, 512).to(torch.float8_e4m3fn)}, "fc.weight"),
        ({"fc.weight": torch.ones(3, 512, dtype=torch.bool)}, "fc.weight"),
        ({"fc.bias": torch.zeros(1).expand(10**13)}, "fc.bias"),
        ({"fc.bias": torch.zeros(1).expand(3)}, "fc.bias"),
        ({"fc.bias": torch.zeros(4)}, "does not fit"),
        ({"layer4.0.bn1.bias": torch.zeros(512, 1)}, "first layer4.0.bn1.bias"),
        ({"other.weight": torch.ones(3)}, "does not fit"),
        ({"module.fc.weight": torch.ones(3, 512)}, "does not fit"),
        ({"other\n\x1b.weight": 5}, "other??.weight"),
        ({5: torch.ones(3)}, "no state dict"),
    ],
)
def test_state_dicts_that_do_not_fit_are_one_line(tmp_path, resnet_state, changes, mentions):
    write_visual(tmp_path, resnet_state | changes)
    refused(lambda: load_visual_model(tmp_path, "old"), "old.mdl", mentions)


def test_clusters_by_the_trillion_are_one_line(tmp_path, resnet_state):
    """The settings agree with a last layer that has no number in the file, or one."""
    config = CONFIG | {"cluster_num": 10**12}
    for layer in (torch.ones(10**12, 0), torch.ones(1, 1).expand(10**12, 512)):
        write_visual(tmp_path, resnet_state | {"fc.weight": layer}, config)
        refused(lambda: load_visual_model(tmp_path, "old"), "old.mdl")


def test_a_state_dict_without_last_layer_is_refused(tmp_path, resnet_state):
    state = {name: value for name, value in resnet_state.items() if not name.startswith("fc.")}
    write_visual(tmp_path, state)
    refused(lambda: load_visual_model(tmp_path, "old"), "old.mdl", "last layer")


# ---- damaged files


def places(folder: Path, half: str, suffix: str, state: dict) -> Path:
    """Write a published model with a name for each test, and return one of its files."""
    write_text(folder)
    write_visual(folder, state)
    return folder / half / f"old.{suffix}"


def load_half(folder: Path, half: str):
    return {"text": load_text_model, "visual": load_visual_model}[half](folder, "old")


HALF_FILES = [(half, suffix) for half in ("text", "visual") for suffix in ("cfg", "mdl")]


@pytest.mark.parametrize(("half", "suffix"), HALF_FILES)
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_truncated_files_are_one_line(tmp_path, resnet_state, half, suffix, zipped, part):
    write_text(tmp_path, zipped=zipped)
    write_visual(tmp_path, resnet_state, zipped=zipped)
    path = tmp_path / half / f"old.{suffix}"
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    refused(lambda: load_half(tmp_path, half), path.name)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 255), st.booleans())
def test_a_changed_byte_never_ends_in_anything_but_a_user_error(
    tmp_path_factory, position, change, zipped
):
    folder = tmp_path_factory.mktemp("changed")
    write_text(folder, zipped=zipped)
    for suffix in ("cfg", "mdl"):
        path = folder / "text" / f"old.{suffix}"
        content = bytearray(path.read_bytes())
        content[position % len(content)] ^= change
        path.write_bytes(content)
    with contextlib.suppress(UserError):  # a changed number can pass
        load_text_model(folder, "old")


def test_an_archive_with_a_broken_entry_name_is_one_line(models):
    path = models / "text" / "old.mdl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("\u00e9.pkl", pickle.dumps(1))
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xc3\x28"))
    refused(lambda: load_text_model(models, "old"), "old.mdl", "damaged")


@pytest.mark.parametrize("content", [[1, 2], 7, "text", None, {"a": 1}, torch.ones(2)])
@pytest.mark.parametrize(("half", "suffix"), HALF_FILES)
def test_files_of_other_content_are_one_line(tmp_path, resnet_state, half, suffix, content):
    path = places(tmp_path, half, suffix, resnet_state)
    torch.save(content, path)
    refused(lambda: load_half(tmp_path, half), path.name)


def test_the_two_classes_are_not_taken_for_each_other(models):
    write_object(models / "text" / "old.cfg", COUNTS_CLASS, CONFIG)
    refused(lambda: load_text_model(models, "old"), "old.cfg", "WordClusterCountModel")
    write_object(models / "text" / "old.cfg", CONFIG_CLASS, CONFIG)
    write_object(models / "text" / "old.mdl", CONFIG_CLASS, CLUSTER_COUNTS)
    refused(lambda: load_text_model(models, "old"), "old.mdl", "ClusterModelConfig")


@pytest.mark.parametrize("half", ["text", "visual"])
def test_a_missing_mdl_is_one_line(tmp_path, resnet_state, half):
    places(tmp_path, half, "mdl", resnet_state).unlink()
    refused(lambda: load_half(tmp_path, half), "old.mdl", "missing")


def test_text_is_no_published_config(tmp_path, trained):
    assert not is_published(trained / "models" / "text" / "lstm.cfg")
    assert not is_published(tmp_path / "absent.cfg")
    assert not is_published(tmp_path)
    for text in ("", "format_version: 1\n", "comment: mine\nformat_version: 1\n", "{half: text}"):
        (tmp_path / "x.cfg").write_text(text)
        assert not is_published(tmp_path / "x.cfg")


# ---- hostile files


class Calls:
    """Pickled, this calls a function when it is loaded carelessly."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def payloads(marker: Path) -> dict[str, Calls]:
    """Return objects that create ``marker`` when loaded, by the name that must be refused."""
    command, code = f"touch {marker}", f"open({str(marker)!r}, 'w')"
    return {
        "posix.system": Calls(os.system, command),
        "subprocess.Popen": Calls(subprocess.Popen, ["touch", str(marker)]),
        "builtins.eval": Calls(eval, code),
        "builtins.exec": Calls(exec, code),
        "builtins.getattr": Calls(getattr, Calls(builtins.__import__, "os"), "system"),
        "io.open": Calls(open, str(marker), "w"),
        "shutil.rmtree": Calls(shutil.rmtree, str(marker)),
        "torch.hub.load": Calls(torch.hub.load, str(marker), "x"),
        "torch.serialization.load": Calls(torch.load, str(marker)),
        "numpy.save": Calls(np.save, str(marker), 5),
    }


def test_the_payloads_are_real(tmp_path):
    """Else nothing below would mean anything."""
    marker = tmp_path / "marker"
    for name in ("posix.system", "builtins.eval", "builtins.exec", "io.open"):
        pickle.loads(pickle.dumps(payloads(marker)[name]))
        assert marker.exists(), name
        marker.unlink()


@pytest.mark.parametrize("name", payloads(Path()))
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_calls_are_refused_and_named(tmp_path, name, zipped, protocol):
    marker, path = tmp_path / "marker", tmp_path / "x.mdl"
    torch.save(
        payloads(marker)[name],
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    refused(lambda: read_safely(path, "the model"), str(path), name, "nothing was run")
    assert not marker.exists()


@pytest.mark.parametrize(("half", "suffix"), HALF_FILES)
@pytest.mark.parametrize("zipped", [True, False])
def test_every_file_of_a_model_is_guarded(
    tmp_path, resnet_state, demo_data, capsys, half, suffix, zipped
):
    path = places(tmp_path / "models", half, suffix, resnet_state)
    marker = tmp_path / "marker"
    torch.save(payloads(marker)["posix.system"], path, _use_new_zipfile_serialization=zipped)
    where = [f"--models_dir={tmp_path / 'models'}", "--model_name=old"]
    data = [f"--datasets_dir={demo_data}", f"--results_dir={tmp_path / 'results'}"]
    for arguments in (
        ["--utility=visual_evaluation", "--workers=0", *where, *data],
        ["--utility=convert_published_model", *where],
    ):
        fails(capsys, *arguments, mentions=(str(path), "posix.system"))
    assert not marker.exists()
    assert not list((tmp_path / "models").rglob("*converted*"))


@pytest.mark.parametrize("place", ["attribute", "deep", "key", "state", "count", "word"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_calls_within_an_allowed_object_are_refused(models, place, zipped, protocol):
    marker = models / "marker"
    bad = payloads(marker)["posix.system"]
    attributes = {
        "attribute": CLUSTER_COUNTS | {"cluster_prob": bad},
        "deep": CLUSTER_COUNTS | {"cluster_prob": [[({"x": (1, bad)},)]]},
        "key": CLUSTER_COUNTS | {"cluster_prob": {bad: 1}},
        "state": CLUSTER_COUNTS
        | {"cluster_prob": Calls(OrderedDict, state={"__class__": bad, "x": 1})},
        "count": CLUSTER_COUNTS | {"cluster_to_word_co_occur": [{"a": bad}, {}, {}]},
        "word": CLUSTER_COUNTS | {"cluster_to_word_co_occur": [{bad: 1}, {}, {}]},
    }[place]
    path = models / "text" / "old.mdl"
    write_object(path, COUNTS_CLASS, attributes, zipped, pickle_protocol=protocol)
    refused(lambda: load_text_model(models, "old"), str(path), "posix.system")
    assert not marker.exists()


class Sets:
    """A class whose own ``__setstate__`` would run."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __setstate__(self, state):
        state["marker"].touch()


def test_a_foreign_class_is_neither_made_nor_given_its_state(models):
    marker = models / "marker"
    path = models / "text" / "old.cfg"
    torch.save(Sets(marker), path)
    refused(lambda: load_text_model(models, "old"), str(path), f"{__name__}.Sets")
    assert not marker.exists()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(("half", "suffix"), HALF_FILES)
def test_bare_pickles_are_refused(tmp_path, resnet_state, half, suffix, protocol):
    path = places(tmp_path, half, suffix, resnet_state)
    marker = tmp_path / "marker"
    path.write_bytes(pickle.dumps(payloads(marker)["posix.system"], protocol))
    refused(lambda: load_half(tmp_path, half), str(path), "posix.system")
    assert not marker.exists()


@pytest.mark.parametrize(("half", "suffix"), HALF_FILES)
def test_tar_archives_are_refused(tmp_path, resnet_state, half, suffix):
    path = places(tmp_path, half, suffix, resnet_state)
    marker = tmp_path / "marker"
    content = pickle.dumps(payloads(marker)["posix.system"], 2)
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    refused(lambda: load_half(tmp_path, half), str(path), "posix.system")
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("half", "suffix"), HALF_FILES)
def test_torchscript_archives_are_refused(tmp_path, resnet_state, half, suffix):
    path = places(tmp_path, half, suffix, resnet_state)
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), path)
    refused(lambda: load_half(tmp_path, half), str(path), "__torch__")


def put_pickle(path: Path, content: bytes, container: str) -> None:
    """Write a pickle made by hand as the object of a torch file."""
    torch.save([], path, _use_new_zipfile_serialization=container == "zip")
    if container == "zip":
        with zipfile.ZipFile(path) as archive:
            entries = {entry: archive.read(entry) for entry in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for entry, old in entries.items():
                archive.writestr(entry, content if entry.endswith("data.pkl") else old)
    else:
        old = pickle.dumps([], 2)
        whole = path.read_bytes()
        start = whole.rindex(old)
        if whole.endswith(old + old):  # the storage keys are an empty list, too
            start -= len(old)
        path.write_bytes(whole[:start] + content + whole[start + len(old) :])


def global_(name: str) -> bytes:
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def string(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


RECORD = global_(COUNTS_CLASS) + b")\x81"  # made without arguments
SHELL = string("touch MARKER")
HAND_MADE = {
    # what is called is not a function of the list, or not by its listed name
    "reduce an object": (RECORD + SHELL + b"\x85R.", ""),
    "reduce a string": (string("posix.system") + SHELL + b"\x85R.", ""),
    "call a method": (global_("builtins.getattr") + RECORD + string("x") + b"\x86R.", "getattr"),
    "arguments for the class": (global_(COUNTS_CLASS) + SHELL + b"\x85\x81.", ""),
    "attributes in slots": (
        RECORD + b"N}" + string("__class__") + global_("os.system") + b"s\x86b.",
        "os.system",
    ),
    "attributes that are no dict": (RECORD + b"]b.", ""),
    "attributes without names": (RECORD + b"}K\x01K\x02sb.", ""),
    "slots without a global": (RECORD + b"N}" + string("__class__") + b"Ns\x86b.", ""),
    "append to an object": (RECORD + SHELL + b"a.", ""),
    "item of an object": (RECORD + string("x") + SHELL + b"s.", ""),
    "old instance": (b"(" + SHELL + b"iposix\nsystem\n.", "posix.system"),
    "old object": (b"(" + global_("posix.system") + SHELL + b"o.", "posix.system"),
    "extension": (b"\x82\x01.", ""),
    "persistent": (string("posix.system") + b"Q.", ""),
    "persistent module": (
        b"(" + string("module") + global_("os.system") + string("x") * 2 + b"tQ.",
        "os.system",
    ),
    "object numbers": (
        global_("numpy._core.multiarray.scalar")
        + global_("numpy.dtype")
        + string("O8")
        + b"\x85R"
        + SHELL
        + b"\x86R.",
        "",
    ),
    "stack global from the memo": (
        b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94" + b"0" * 2 + b"h\x00h\x01\x93"
        + SHELL + b"\x85R.",
        "posix.system",
    ),
    "a name with control characters": (
        b"\x80\x04" + string("po\nsix") + string("\x1b[31m") + b"\x93.",
        "po?six.?[31m",
    ),
}  # fmt: skip


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("attack", HAND_MADE)
def test_pickles_made_by_hand_are_refused(models, attack, container):
    marker = models / "MARKER"
    content, named = HAND_MADE[attack]
    content = content.replace(SHELL, string(f"touch {marker}"))
    if not content.startswith(b"\x80"):
        content = b"\x80\x02" + content
    path = models / "text" / "old.mdl"
    put_pickle(path, content, container)
    refused(lambda: load_text_model(models, "old"), str(path), named)
    assert not marker.exists()


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_a_pickle_put_by_hand_is_read(models, container):
    """The attacks above fail for what they are, not for how they were put there."""
    path = models / "text" / "old.mdl"
    put_pickle(path, b"\x80\x02" + RECORD + b"}" + string("mode") + b"K\x02sb.", container)
    refused(lambda: load_text_model(models, "old"), str(path), "lacks cluster_num")


def test_attributes_of_a_record_are_data(models):
    """Names that mean something to Python mean nothing here."""
    odd = {"__class__": 5, "__setstate__": 6, "__reduce__": 7, "attributes": {}, "__dict__": {}}
    write_object(models / "text" / "old.mdl", COUNTS_CLASS, CLUSTER_COUNTS)
    with published_class(COUNTS_CLASS) as made:

        class Odd:
            def __reduce__(self):
                return made, (), CLUSTER_COUNTS | odd

        torch.save(Odd(), models / "text" / "old.mdl")
    assert load_text_model(models, "old")[0].counts.tolist() == [[3, 1, 0], [0, 3, 0], [1, 0, 0]]


def test_nothing_stays_allowed_after_reading(models):
    before = set(torch.serialization.get_safe_globals())  # torch gives them in no fixed order
    load_text_model(models, "old")
    assert set(torch.serialization.get_safe_globals()) == before


# ---- use and conversion, through the command line


@pytest.fixture(scope="module")
def published(trained, tmp_path_factory):
    """The trained generative model and an equal one in the published format, named old."""
    folder = tmp_path_factory.mktemp("published")
    for half in ("text", "visual"):
        (folder / half).mkdir()
        for suffix in ("cfg", "mdl"):
            shutil.copy(trained / "models" / half / f"generative.{suffix}", folder / half)
    text, own, _ = load_text_model(folder, "generative")
    visual, _, _ = load_visual_model(folder, "generative")
    config = CONFIG | {
        "cluster_num": own.cluster_num,
        "visual_threshold": own.visual_threshold,
        "text_threshold": own.text_threshold,
    }
    columns = [
        {word: count for word, count in zip(text.words, column, strict=True) if count}
        for column in text.counts.T.tolist()
    ]
    counts = {"cluster_num": own.cluster_num, "mode": 1, "cluster_to_word_co_occur": columns}
    write_text(folder, config, counts)
    write_visual(folder, visual.network.state_dict(), config, zipped=False)
    return folder


@pytest.fixture
def own_published(published, tmp_path):
    """A copy of the published models that a test may change."""
    shutil.copytree(published, tmp_path / "models")
    return tmp_path / "models"


def run(utility: str, models: Path, data: Path, results: Path, name: str, *more: str) -> dict:
    """Run an evaluation and return what it wrote."""
    places = [f"--models_dir={models}", f"--datasets_dir={data}", f"--results_dir={results}"]
    assert main([f"--utility={utility}", f"--model_name={name}", *places, *more]) == 0
    return json.loads((results / f"{utility}_{name}.json").read_text())


def test_text_evaluation_equals_that_of_the_same_counts(published, demo_data, tmp_path):
    found = {
        name: run("text_evaluation", published, demo_data, tmp_path, name)
        for name in ("old", "generative")
    }
    assert found["old"]["metrics"] == found["generative"]["metrics"]
    recorded = found["old"]["settings"]
    assert recorded["seed"] is None
    assert recorded["epochs"] is None
    assert recorded["text_encoder"] == "generative"
    assert recorded["origin"] == {
        "run": "published",
        "step": None,
        "seed": None,
        "data_fingerprint": None,
        "cluster_num": 20,
        "commit": None,
        "training_seconds": None,
    }


def convert(models: Path, *more: str) -> int:
    return main(["--utility=convert_published_model", f"--models_dir={models}", *more])


def test_a_converted_model_evaluates_as_before(own_published, demo_data, tmp_path, capsys):
    assert convert(own_published, "--model_name=old") == 0
    printed = capsys.readouterr().out
    assert "old_converted" in printed
    assert "words, generative" in printed
    for half in ("text", "visual"):
        header = yaml.safe_load((own_published / half / "old_converted.cfg").read_text())
        assert header["origin"]["run"] == "published"
        assert header["settings"]["seed"] is None
    for utility, more in (("text_evaluation", []), ("visual_evaluation", ["--workers=0"])):
        found = [
            run(utility, own_published, demo_data, tmp_path, name, "--seed=3", *more)
            for name in ("old", "old_converted")
        ]
        assert found[0]["metrics"] == found[1]["metrics"]
        assert found[0]["settings"] == found[1]["settings"]
        assert found[0]["data"] == found[1]["data"]


def test_heatmaps_of_a_published_model(published, demo_data, tmp_path):
    arguments = ["--workers=0", "--num_items=2", "--visual_threshold=-5", "--model_name=old"]
    places = [f"--datasets_dir={demo_data}", f"--models_dir={published}"]
    utility = "--utility=heatmap_demonstration"
    assert main([utility, *arguments, *places, f"--results_dir={tmp_path}"]) == 0
    pictures = sorted((tmp_path / "old" / "heatmap_demonstration").glob("*.png"))
    assert len(pictures) == 2
    for picture in pictures:
        with Image.open(picture) as image:
            assert np.asarray(image.convert("L")).std() > 10


@pytest.mark.parametrize("counts", [CLUSTER_COUNTS, WORD_COUNTS])
def test_conversion_keeps_every_prediction(tmp_path, resnet_state, counts):
    write_text(tmp_path, counts=counts)
    write_visual(tmp_path, resnet_state, CONFIG | {"visual_threshold": -1.5})
    assert convert(tmp_path, "--model_name=old", "--new_name=new") == 0
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([[0, 1, 2], [2, -1, -2]])
    before, after = (
        (load_text_model(tmp_path, name), load_visual_model(tmp_path, name))
        for name in ("old", "new")
    )
    for (_, settings_before, origin_before), (_, settings_after, origin_after) in zip(
        before, after, strict=True
    ):
        assert settings_before == settings_after
        assert origin_before == origin_after
    assert before[0][0].words == after[0][0].words
    assert torch.equal(before[0][0].word_posteriors(), after[0][0].word_posteriors())
    assert torch.equal(before[0][0].read(tokens).scores, after[0][0].read(tokens).scores)
    with torch.no_grad():
        assert torch.equal(before[1][0](images), after[1][0](images))
    require_same_origin(after[0][2], after[1][2], "new")


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_a_model_is_not_converted_in_its_own_place(own_published, capsys, overwrite):
    """A crash between its files would leave neither the one nor the other."""
    before = {path: path.read_bytes() for path in own_published.rglob("old.*")}
    same = ["--model_name=old", "--new_name=old", *overwrite]
    arguments = ["--utility=convert_published_model", f"--models_dir={own_published}", *same]
    fails(capsys, *arguments, mentions=("--new_name old", "give another"))
    assert {path: path.read_bytes() for path in own_published.rglob("old.*")} == before


def test_conversion_does_not_replace_a_model_unasked(own_published, capsys):
    before = (own_published / "text" / "generative.cfg").read_bytes()
    arguments = ["--model_name=old", "--new_name=generative"]
    fails(
        capsys,
        "--utility=convert_published_model",
        f"--models_dir={own_published}",
        *arguments,
        mentions=("'generative'", "--overwrite"),
    )
    assert (own_published / "text" / "generative.cfg").read_bytes() == before
    assert convert(own_published, *arguments, "--overwrite") == 0
    assert load_text_model(own_published, "generative")[2] == published_origin(20)


@pytest.mark.parametrize("half", ["text", "visual"])
def test_one_half_alone_is_converted(own_published, capsys, half):
    other = {"text": "visual", "visual": "text"}[half]
    for suffix in ("cfg", "mdl"):
        (own_published / other / f"old.{suffix}").unlink()
    # an older model of the new name has both halves: none of it may stay
    assert convert(own_published, "--model_name=old", "--new_name=generative", "--overwrite") == 0
    assert f"{other}/old.cfg" in capsys.readouterr().out
    assert not (own_published / other / "generative.cfg").exists()
    assert not (own_published / other / "generative.mdl").exists()
    load = {"text": load_text_model, "visual": load_visual_model}[half]
    assert load(own_published, "generative")[1] == load(own_published, "old")[1]


@pytest.mark.parametrize(
    ("name", "mentions"), [("absent", "absent"), ("generative", "nothing to convert")]
)
def test_what_cannot_be_converted_is_one_line(own_published, capsys, name, mentions):
    before = sorted(own_published.rglob("*"))
    fails(
        capsys,
        "--utility=convert_published_model",
        f"--models_dir={own_published}",
        f"--model_name={name}",
        mentions=(mentions,),
    )
    assert sorted(own_published.rglob("*")) == before


def test_a_damaged_half_converts_nothing(own_published, capsys):
    path = own_published / "text" / "old.mdl"
    path.write_bytes(path.read_bytes()[:500])
    before = sorted(own_published.rglob("*"))
    fails(
        capsys,
        "--utility=convert_published_model",
        f"--models_dir={own_published}",
        "--model_name=old",
        mentions=(str(path),),
    )
    assert sorted(own_published.rglob("*")) == before


def test_halves_of_different_cluster_numbers_are_noticed(
    own_published, demo_data, tmp_path, capsys
):
    write_text(own_published)  # of 3 clusters, the visual half has 20
    where = [f"--models_dir={own_published}", "--model_name=old"]
    data = [f"--datasets_dir={demo_data}", f"--results_dir={tmp_path / 'results'}"]
    for arguments in (
        ["--utility=visual_evaluation", "--workers=0", *where, *data],
        ["--utility=convert_published_model", *where],
    ):
        fails(capsys, *arguments, mentions=("3 clusters", "20 clusters"))


def test_a_published_half_does_not_go_with_one_of_ours(own_published, demo_data, tmp_path, capsys):
    for suffix in ("cfg", "mdl"):
        shutil.copy(own_published / "text" / f"generative.{suffix}", own_published / "text" / "x")
        (own_published / "text" / "x").rename(own_published / "text" / f"old.{suffix}")
    fails(
        capsys,
        "--utility=visual_evaluation",
        "--model_name=old",
        f"--models_dir={own_published}",
        f"--datasets_dir={demo_data}",
        f"--results_dir={tmp_path / 'results'}",
        "--workers=0",
        mentions=("different trainings", "published with 20 clusters"),
    )


@pytest.mark.parametrize(
    "line", ["cluster_num: 5", "cluster_num: null", "text_threshold: often", "visual_encoder: 7"]
)
def test_a_converted_header_edited_by_hand_is_one_line(own_published, line):
    convert(own_published, "--model_name=old")
    path = own_published / "text" / "old_converted.cfg"
    key = line.split(":")[0]
    lines = path.read_text().splitlines()
    assert any(old.strip().startswith(key) for old in lines)
    path.write_text("\n".join(f"  {line}" if old.strip().startswith(key) else old for old in lines))
    refused(lambda: load_text_model(own_published, "old_converted"), "old_converted")
