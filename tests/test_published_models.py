"""Models of the published program: files as it writes them, damaged ones, and hostile ones."""

import itertools
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
from models_src.published_models import CONFIG_CLASS, COUNTS_CLASS, MODES, PRETRAINED
from models_src.settings import TrainingSettings
from models_src.visual_encoders import VisualEncoder
from tests.conftest import dirs
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


def write_object(path: Path, full_name: str, attributes: dict, zipped: bool) -> None:
    """Write an object of a published class, which exists only meanwhile, as torch saves it."""
    module, _, name = full_name.rpartition(".")
    made = type(name, (), {"__module__": module})
    thing = made()
    vars(thing).update(attributes)
    path.parent.mkdir(parents=True, exist_ok=True)
    modules = {module.rpartition(".")[0]: None, module: types.SimpleNamespace(**{name: made})}
    with mock.patch.dict(sys.modules, modules):
        torch.save(thing, path, _use_new_zipfile_serialization=zipped)


def write_text(models: Path, config=CONFIG, counts=CLUSTER_COUNTS, zipped=True, name="old") -> None:
    write_object(models / f"text/{name}.cfg", CONFIG_CLASS, config, zipped)
    write_object(models / f"text/{name}.mdl", COUNTS_CLASS, counts, zipped)


def write_visual(models: Path, state: dict, config=CONFIG, zipped=True, name="old") -> None:
    write_object(models / f"visual/{name}.cfg", CONFIG_CLASS, config, zipped)
    torch.save(state, models / f"visual/{name}.mdl", _use_new_zipfile_serialization=zipped)


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


def refused(load, folder: Path, *mentions: str) -> None:
    """Assert that the model is refused in one line."""
    message = refusal_of(load, folder, "old")
    assert all(text in message for text in mentions), message


# ---- text half


@pytest.mark.parametrize("zipped", [True, False])
def test_generative_counts_are_read_and_probabilities_recomputed(tmp_path, zipped):
    columns = [defaultdict(int, words) for words in COUNTS]
    counts = CLUSTER_COUNTS | {"cluster_to_word_co_occur": columns, "attributes": {}}
    write_text(tmp_path, counts=counts, zipped=zipped)
    allowed = set(torch.serialization.get_safe_globals())
    text, settings, origin = load_text_model(tmp_path, "old")
    assert set(torch.serialization.get_safe_globals()) == allowed
    assert text.words == ("a", "c", "b")  # by frequency
    assert text.counts.tolist() == [[3, 1, 0], [0, 3, 0], [1, 0, 0]]
    # p(w|c): a 3/4, 1/4; b 1/4, 0; c 0, 3/4; a uniform prior divides out
    assert text.word_posteriors().tolist() == [[0.75, 0.25, 0], [0, 1, 0], [1, 0, 0]]
    assert settings.text_encoder == "generative"
    assert settings.text_threshold == 0.08
    assert origin == Origin("published", cluster_num=3)


def test_discriminative_counts_are_read_whatever_their_numbers(tmp_path):
    for number in (int, np.int64, np.uint8, np.dtype(">i8").type):
        table = WORD_COUNTS["word_to_cluster_co_occur"]
        table = {word: [number(count) for count in counts] for word, counts in table.items()}
        write_text(tmp_path, counts=WORD_COUNTS | {"word_to_cluster_co_occur": table})
        text, settings, _ = load_text_model(tmp_path, "old")
        assert settings.text_encoder == "discriminative"
        assert text.words == ("a", "c", "b", "d")
        assert text.counts.dtype == torch.int64
        assert text.word_posteriors().tolist() == [
            [0.75, 0.25, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]
        ]  # fmt: skip


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
    ("config", "changes", "mentions"),  # the settings, and what is changed of the counts
    [
        (CONFIG | {"visual_underlying_model": "alexnet"}, {}, "alexnet' is unknown"),
        (CONFIG | {"visual_threshold": float("nan")}, {}, "--visual_threshold must be"),
        (CONFIG | {"visual_learning_rate": "fast"}, {}, "--visual_learning_rate must be"),
        (CONFIG | {"cluster_num": 0}, {}, "--cluster_num is 0; give at least 1 (in "),
        (CONFIG | {"cluster_num": 4}, {}, "it has 3 clusters, old.cfg says 4"),
        ({"cluster_num": 3}, {}, "'visual_underlying_model' is missing"),
        (CONFIG, {"mode": 2}, "old.mdl"),
        (CONFIG, {"mode": 0}, "word_to_cluster_co_occur"),
        (CONFIG, {"cluster_to_word_co_occur": COUNTS[:2]}, "2 clusters"),
        (CONFIG, {"cluster_to_word_co_occur": [{"a": -1}, {}, {}]}, "whole numbers"),
        (CONFIG, {"cluster_to_word_co_occur": [{"a": float("nan")}, {}, {}]}, "whole numbers"),
        (CONFIG, {"cluster_to_word_co_occur": [{7: 1}, {}, {}]}, "words"),
        (CONFIG, WORD_COUNTS | {"word_to_cluster_co_occur": {"a": [1, 2]}}, "2 clusters"),
        (CONFIG, WORD_COUNTS | {"word_to_cluster_co_occur": {"a": [1, 2, 3], "b": [1]}}, "old.mdl"),
    ],
)
def test_settings_and_counts_that_cannot_be_are_one_line(tmp_path, config, changes, mentions):
    write_text(tmp_path, config, CLUSTER_COUNTS | changes)
    refused(load_text_model, tmp_path, "old.mdl" if changes else "old.cfg", mentions)


# ---- visual half


@pytest.mark.parametrize(
    ("network", "change"),
    [
        ("resnet18", lambda name: f"module.{name}"),
        ("resnet18", lambda name: name),
        ("vgg16", lambda name: name),
        ("vgg16", lambda name: name.replace("classifier", "classifier.6")),
    ],
)
def test_state_dicts_of_every_kind_give_the_same_network(tmp_path, network, change):
    """Under these names, as parameters, in double precision, without counters of batches."""
    state = random_state(network)
    changed = OrderedDict(
        (change(name), torch.nn.Parameter(value.double()))
        for name, value in state.items()
        if "num_batches" not in name
    )
    write_visual(tmp_path, changed, CONFIG | {"visual_underlying_model": network}, zipped=False)
    encoder, _, _ = load_visual_model(tmp_path, "old")
    assert not encoder.training
    for name, value in encoder.network.state_dict().items():
        expected = torch.tensor(0) if "num_batches" in name else state[name]
        assert torch.equal(value, expected), name


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
    refused(load_visual_model, tmp_path, "old.mdl", mentions)


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
def test_damaged_files_are_one_line(tmp_path, half, suffix):
    write_text(tmp_path)
    write_visual(tmp_path, {"fc.weight": torch.ones(3, 512)}, zipped=False)
    path = tmp_path / half / f"old.{suffix}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(LOADERS[half], tmp_path, str(path))
    for content in (None, {"a": 1}):
        torch.save(content, path)
        refused(LOADERS[half], tmp_path, str(path))
    path.unlink()
    refused(LOADERS[half], tmp_path, "old")


class Foreign:
    """A class whose own ``__setstate__`` would run."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __setstate__(self, state):
        state["marker"].touch()


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (lambda marker: Calls(eval, f"open({str(marker)!r}, 'w')"), "eval"),
        (lambda marker: Calls(getattr, Calls(__import__, "os"), "system"), "getattr"),
        (touch, "posix.system"),
        (Foreign, f"{__name__}.Foreign"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_run(tmp_path, attack, named, zipped):
    marker = tmp_path / "marker"
    bad = attack(marker)
    if attack is touch:
        pickle.loads(pickle.dumps(bad))
        marker.unlink()  # it was there: the attack is real
    write_text(tmp_path)
    write_visual(tmp_path, {})
    for half, suffix in itertools.product(LOADERS, ("mdl", "cfg")):
        path = tmp_path / half / f"old.{suffix}"
        torch.save(bad, path, _use_new_zipfile_serialization=zipped)
        refused(LOADERS[half], tmp_path, str(path), named, "nothing was run")
        path.write_bytes(pickle.dumps(bad, protocol=2))
        refused(LOADERS[half], tmp_path, str(path))
    for place in (
        {"cluster_prob": [[({"x": (1, bad)},)]]},
        {"cluster_prob": {bad: 1}},
        {"cluster_to_word_co_occur": [{"a": bad}, {}, {}]},
    ):
        write_text(tmp_path, counts=CLUSTER_COUNTS | place, zipped=zipped)
        refused(load_text_model, tmp_path, "old.mdl", named)
    assert not marker.exists()


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
    (models / "text" / "old.mdl").write_bytes(b"damaged")
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
    where = ["--model_name=old", *dirs(demo_data, models)]
    for utility in ("visual_evaluation", "convert_published_model"):
        fails(capsys, f"--utility={utility}", *where, mentions="4 clusters")
