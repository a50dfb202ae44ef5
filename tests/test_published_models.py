"""Models of the published program: files as it writes them, damaged ones, and hostile ones.

The published classes exist here only while such a file is written.
"""

import contextlib
import os
import pickle
import sys
import types
from collections import OrderedDict, defaultdict
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torchvision.models import googlenet

from main import main
from models_src.model_files import Origin, load_text_model, load_visual_model
from models_src.published_models import CONFIG_CLASS, COUNTS_CLASS, MODES, PRETRAINED, read_safely
from models_src.settings import TrainingSettings
from models_src.visual_encoders import VisualEncoder
from tests.test_cli import fails
from tests.test_coco import refusal_of

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
    module, _, name = full_name.rpartition(".")
    made = type(name, (), {"__module__": module})
    modules = {module.rpartition(".")[0]: None, module: types.SimpleNamespace(**{name: made})}
    with mock.patch.dict(sys.modules, modules):
        yield made


def write_object(path: Path, full_name: str, attributes: dict, zipped: bool) -> None:
    """Write an object of a published class as torch saves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with published_class(full_name) as made:
        thing = made()
        vars(thing).update(attributes)
        torch.save(thing, path, _use_new_zipfile_serialization=zipped)


def write_text(models: Path, config=CONFIG, counts=CLUSTER_COUNTS, zipped=True) -> None:
    write_object(models / "text/old.cfg", CONFIG_CLASS, config, zipped)
    write_object(models / "text/old.mdl", COUNTS_CLASS, counts, zipped)


def write_visual(models: Path, state: dict, config=CONFIG, zipped=True) -> None:
    write_object(models / "visual/old.cfg", CONFIG_CLASS, config, zipped)
    torch.save(state, models / "visual/old.mdl", _use_new_zipfile_serialization=zipped)


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


def refused(call, *mentions: str) -> None:
    """Assert that a call is refused in one line."""
    message = refusal_of(call)
    for text in mentions:
        assert text in message


# ---- text half


@pytest.mark.parametrize("zipped", [True, False])
def test_generative_counts_are_read_and_probabilities_recomputed(tmp_path, zipped):
    columns = [defaultdict(int, words) for words in COUNTS]
    counts = CLUSTER_COUNTS | {"cluster_to_word_co_occur": columns}
    write_text(tmp_path, counts=counts, zipped=zipped)
    text, settings, origin = load_text_model(tmp_path, "old")
    assert text.words == ("a", "c", "b")  # by frequency
    assert text.counts.tolist() == [[3, 1, 0], [0, 3, 0], [1, 0, 0]]
    # p(w|c): a 3/4, 1/4; b 1/4, 0; c 0, 3/4; a uniform prior divides out
    assert text.word_posteriors().tolist() == [[0.75, 0.25, 0], [0, 1, 0], [1, 0, 0]]
    assert settings.text_encoder == "generative"
    assert settings.text_threshold == 0.08
    assert origin == Origin("published", cluster_num=3)


@pytest.mark.parametrize("number", [int, np.int64, np.uint8, np.dtype(">i8").type])
def test_discriminative_counts_are_read_whatever_their_numbers(tmp_path, number):
    table = WORD_COUNTS["word_to_cluster_co_occur"]
    table = {word: [number(count) for count in counts] for word, counts in table.items()}
    write_text(tmp_path, counts=WORD_COUNTS | {"word_to_cluster_co_occur": table})
    text, settings, _ = load_text_model(tmp_path, "old")
    assert settings.text_encoder == "discriminative"
    assert text.words == ("a", "c", "b", "d")
    assert text.counts.dtype == torch.int64
    assert text.word_posteriors().tolist() == [[0.75, 0.25, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("changes", "mentions"),
    [
        ({"mode": 2}, "old.mdl"),
        ({"mode": 0}, "word_to_cluster_co_occur"),
        ({"cluster_to_word_co_occur": COUNTS[:2]}, "2 clusters"),
        ({"cluster_to_word_co_occur": [{"a": -1}, {}, {}]}, "whole numbers"),
        ({"cluster_to_word_co_occur": [{"a": float("nan")}, {}, {}]}, "whole numbers"),
        ({"cluster_to_word_co_occur": [{7: 1}, {}, {}]}, "words"),
        (WORD_COUNTS | {"word_to_cluster_co_occur": {"a": [1, 2]}}, "2 clusters"),
        (WORD_COUNTS | {"word_to_cluster_co_occur": {"a": [1, 2, 3], "b": [1]}}, "old.mdl"),
    ],
)
def test_counts_that_cannot_be_are_one_line(tmp_path, changes, mentions):
    write_text(tmp_path, counts=CLUSTER_COUNTS | changes)
    refused(lambda: load_text_model(tmp_path, "old"), "old.mdl", mentions)


# ---- settings


def test_settings_are_mapped_and_nothing_is_invented(tmp_path, resnet_state):
    config = CONFIG | {
        "freeze_visual_parameters": True,
        "pretrained_visual_underlying_model": True,
        "visual_threshold": np.float64(-0.25),
        "text_underlying_model": "discriminative",
    }
    write_visual(tmp_path, resnet_state, config)
    _, found, origin = load_visual_model(tmp_path, "old")
    recorded = found.as_dict()
    assert set(recorded) == set(TrainingSettings().as_dict())
    assert {name: value for name, value in recorded.items() if value is not None} == {
        "visual_encoder": "resnet18",
        "pretrained_visual": PRETRAINED,
        "freeze_visual": True,
        "visual_threshold": -0.25,
        "visual_learning_rate": 1e-4,
        "text_encoder": "discriminative",
        "text_threshold": 0.08,
        "cluster_num": 3,
        "image_size": 224,
        "batch_size": 50,
    }
    assert origin == Origin("published", cluster_num=3)


@pytest.mark.parametrize(
    ("config", "mentions"),
    [
        (CONFIG | {"visual_underlying_model": "alexnet"}, "alexnet' is unknown"),
        (CONFIG | {"visual_threshold": float("nan")}, "--visual_threshold must be"),
        (CONFIG | {"visual_learning_rate": "fast"}, "--visual_learning_rate must be"),
        (CONFIG | {"cluster_num": 0}, "--cluster_num is 0; give at least 1 (in "),
        (CONFIG | {"cluster_num": 4}, "it has 3 clusters, old.cfg says 4"),
        ({"cluster_num": 3}, "'visual_underlying_model' is missing"),
    ],
)
def test_settings_that_cannot_be_are_one_line(tmp_path, config, mentions):
    write_text(tmp_path, config)
    refused(lambda: load_text_model(tmp_path, "old"), "old.cfg", mentions)


# ---- visual half


@pytest.mark.parametrize(
    ("network", "change"),
    [
        ("resnet18", lambda name, value: (f"module.{name}", value)),
        ("resnet18", lambda name, value: (name, value.double())),
        ("vgg16", lambda name, value: (name, value)),
        ("vgg16", lambda name, value: (name.replace("classifier", "classifier.6"), value)),
    ],
)
def test_state_dicts_of_every_kind_give_the_same_network(tmp_path, network, change):
    state = random_state(network)
    changed = dict(change(name, value) for name, value in state.items())
    write_visual(tmp_path, changed, CONFIG | {"visual_underlying_model": network}, zipped=False)
    encoder, _, _ = load_visual_model(tmp_path, "old")
    assert not encoder.training
    for name, value in encoder.network.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_old_state_dicts_without_counters_of_batches_and_of_parameters(tmp_path, resnet_state):
    state = OrderedDict(
        (name, torch.nn.Parameter(value))
        for name, value in resnet_state.items()
        if "num_batches" not in name
    )
    write_visual(tmp_path, state)
    encoder, _, _ = load_visual_model(tmp_path, "old")
    for name, value in encoder.network.state_dict().items():
        assert torch.equal(value, resnet_state[name] if name in state else torch.tensor(0)), name


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_googlenet_that_began_with_trained_weights_rescales_its_input(tmp_path, pretrained):
    """As torchvision's does, which no state dict tells; a converted model must still know it."""
    config = CONFIG | {
        "visual_underlying_model": "googlenet",
        "pretrained_visual_underlying_model": pretrained,
    }
    state = random_state("googlenet")
    aux = {f"aux{n}.fc2.weight": torch.ones(1000, 3) for n in (1, 2)}  # left out
    write_visual(tmp_path, state | aux, config)
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
            encoder = load_visual_model(tmp_path, name)[0]
            assert torch.allclose(encoder(images), logits), name
            assert encoder.pixel_statistics == "clip"  # the published program's for all networks


@pytest.mark.parametrize(
    ("changes", "network", "mentions"),
    [
        ({"fc.weight": None}, "resnet18", "old.mdl"),
        ({"fc.weight": torch.full((3, 512), float("nan"))}, "resnet18", "not finite"),
        ({"fc.weight": torch.ones(5, 512)}, "resnet18", "does not fit"),
        ({5: torch.ones(3)}, "resnet18", "old.mdl"),
        ({}, "resnet34", "does not fit"),
    ],
)
def test_state_dicts_that_do_not_fit_are_one_line(
    tmp_path, resnet_state, changes, network, mentions
):
    config = CONFIG | {"visual_underlying_model": network}
    write_visual(tmp_path, resnet_state | changes, config)
    refused(lambda: load_visual_model(tmp_path, "old"), "old.mdl", mentions)


# ---- damaged and hostile files

LOADERS = {"text": load_text_model, "visual": load_visual_model}


class Calls:
    """Pickled, this calls a function when it is loaded carelessly."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def touch(marker: Path) -> Calls:
    """Return an object that creates ``marker`` when loaded carelessly."""
    return Calls(os.system, f"touch {marker}")


@pytest.mark.parametrize("half", LOADERS)
@pytest.mark.parametrize("suffix", ["cfg", "mdl"])
@pytest.mark.parametrize("damage", ["cut", "absent", "nothing", "dict", "call", "bare call"])
def test_damaged_and_hostile_files_are_one_line(tmp_path, half, suffix, damage):
    write_text(tmp_path)
    write_visual(tmp_path, {"fc.weight": torch.ones(3, 512)}, zipped=False)
    path, marker = tmp_path / half / f"old.{suffix}", tmp_path / "marker"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "absent":
        path.unlink()
    elif damage == "bare call":
        path.write_bytes(pickle.dumps(touch(marker), protocol=2))
    else:
        torch.save({"nothing": None, "dict": {"a": 1}, "call": touch(marker)}[damage], path)
    mentioned = "old" if damage == "absent" else str(path)
    refused(lambda: LOADERS[half](tmp_path, "old"), mentioned)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (lambda marker: Calls(eval, f"open({str(marker)!r}, 'w')"), "eval"),
        (lambda marker: Calls(getattr, Calls(__import__, "os"), "system"), "getattr"),
        (touch, "posix.system"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_calls_are_refused_and_named(tmp_path, attack, named, zipped):
    marker, path = tmp_path / "marker", tmp_path / "x.mdl"
    torch.save(attack(marker), path, _use_new_zipfile_serialization=zipped)
    refused(lambda: read_safely(path, "the model"), str(path), named, "nothing was run")
    assert not marker.exists()
    if attack is touch:
        pickle.loads(pickle.dumps(attack(marker)))
        assert marker.exists()  # the attack is real


@pytest.mark.parametrize(
    "place",
    [
        lambda bad: {"cluster_prob": [[({"x": (1, bad)},)]]},
        lambda bad: {"cluster_prob": {bad: 1}},
        lambda bad: {"cluster_to_word_co_occur": [{"a": bad}, {}, {}]},
    ],
)
def test_calls_within_an_allowed_object_are_refused(tmp_path, place):
    marker = tmp_path / "marker"
    write_text(tmp_path, counts=CLUSTER_COUNTS | place(touch(marker)))
    refused(lambda: load_text_model(tmp_path, "old"), "old.mdl", "posix.system")
    assert not marker.exists()


class Foreign:
    """A class whose own ``__setstate__`` would run."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __setstate__(self, state):
        state["marker"].touch()


def test_a_foreign_class_is_neither_made_nor_given_its_state(tmp_path):
    write_text(tmp_path)
    torch.save(Foreign(tmp_path / "marker"), tmp_path / "text" / "old.cfg")
    refused(lambda: load_text_model(tmp_path, "old"), "old.cfg", f"{__name__}.Foreign")
    assert not (tmp_path / "marker").exists()


def test_attributes_of_a_record_are_data_and_nothing_stays_allowed(tmp_path):
    """Names that mean something to Python mean nothing here."""
    allowed = set(torch.serialization.get_safe_globals())  # torch gives them in no fixed order
    write_text(tmp_path)
    odd = {"__class__": 5, "__setstate__": 6, "__reduce__": 7, "attributes": {}, "__dict__": {}}
    with published_class(COUNTS_CLASS) as made:

        class Odd:
            def __reduce__(self):
                return made, (), CLUSTER_COUNTS | odd

        torch.save(Odd(), tmp_path / "text" / "old.mdl")
    assert load_text_model(tmp_path, "old")[0].counts.tolist() == [[3, 1, 0], [0, 3, 0], [1, 0, 0]]
    assert set(torch.serialization.get_safe_globals()) == allowed


# ---- conversion

CONVERT = "--utility=convert_published_model"


@pytest.fixture
def models(tmp_path, resnet_state):
    """A folder with both halves of a published model, and of its conversion, named new."""
    write_text(tmp_path)
    write_visual(tmp_path, resnet_state, CONFIG | {"visual_threshold": -1.5})
    assert convert(tmp_path, "--model_name=old", "--new_name=new") == 0
    return tmp_path


def convert(models: Path, *more: str) -> int:
    return main([CONVERT, f"--models_dir={models}", *more])


@pytest.mark.parametrize("counts", [CLUSTER_COUNTS, WORD_COUNTS])
def test_conversion_keeps_every_prediction(models, capsys, counts):
    write_text(models, counts=counts)
    assert convert(models, "--model_name=old") == 0
    assert f"words, {MODES[counts['mode']]}" in capsys.readouterr().out
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([[0, 1, 2], [2, -1, -2]])
    (text, *of_text), (new_text, *of_new_text) = (
        load_text_model(models, name) for name in ("old", "old_converted")
    )
    (visual, *of_visual), (new_visual, *of_new_visual) = (
        load_visual_model(models, name) for name in ("old", "old_converted")
    )
    assert (of_text, of_visual) == (of_new_text, of_new_visual)  # settings and origin
    assert text.words == new_text.words
    assert torch.equal(text.word_posteriors(), new_text.word_posteriors())
    assert torch.equal(text.score(tokens), new_text.score(tokens))
    with torch.no_grad():
        assert torch.equal(visual(images), new_visual(images))


@pytest.mark.parametrize(
    ("name", "more", "mentions"),
    [
        ("absent", [], "absent"),
        ("new", [], "nothing to convert"),
        ("old", [], "old.mdl"),
        ("old", ["--new_name=new"], "--overwrite"),
        # a crash between its files would leave neither the one nor the other
        ("old", ["--new_name=old", "--overwrite"], "give another"),
    ],
)
def test_what_cannot_be_converted_is_one_line(models, capsys, name, more, mentions):
    damaged = models / "text" / "old.mdl"
    damaged.write_bytes(damaged.read_bytes()[:500])
    before = {path: path.read_bytes() for path in models.glob("*/*")}
    call = [CONVERT, f"--models_dir={models}", f"--model_name={name}", *more]
    fails(capsys, *call, mentions=mentions)
    assert {path: path.read_bytes() for path in models.glob("*/*")} == before


@pytest.mark.parametrize(("half", "other"), [("text", "visual"), ("visual", "text")])
def test_one_half_alone_replaces_a_whole_model(models, capsys, half, other):
    for suffix in ("cfg", "mdl"):
        (models / other / f"old.{suffix}").unlink()
    assert convert(models, "--model_name=old", "--new_name=new", "--overwrite") == 0
    assert f"{other}/old.cfg" in capsys.readouterr().out
    assert not list((models / other).glob("new.*"))
    assert LOADERS[half](models, "new")[1:] == LOADERS[half](models, "old")[1:]


def test_halves_of_different_cluster_numbers_are_noticed(models, demo_data, capsys):
    counts = CLUSTER_COUNTS | {"cluster_num": 4, "cluster_to_word_co_occur": [*COUNTS, {}]}
    write_text(models, CONFIG | {"cluster_num": 4}, counts)
    where = [f"--models_dir={models}", "--model_name=old", f"--datasets_dir={demo_data}"]
    where.append(f"--results_dir={models}")
    for utility in ("visual_evaluation", "convert_published_model"):
        fails(capsys, f"--utility={utility}", *where, mentions="4 clusters")
