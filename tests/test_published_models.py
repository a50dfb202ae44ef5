"""Models of the published program: files as it writes them, damaged ones, and hostile ones.

The published classes exist here only while such a file is written.
"""

import contextlib
import json
import os
import pickle
import shutil
import sys
import types
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
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
    PRETRAINED,
    is_published,
    read_safely,
)
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
    assert origin == Origin("published", None, None, None, 3)


@pytest.mark.parametrize("number", [int, np.int64, np.uint8, np.dtype(">i8").type])
def test_discriminative_counts_are_read_whatever_their_numbers(tmp_path, number):
    table = {
        word: [number(count) for count in row]
        for word, row in WORD_COUNTS["word_to_cluster_co_occur"].items()
    }
    write_text(tmp_path, counts=WORD_COUNTS | {"word_to_cluster_co_occur": table})
    text, settings, _ = load_text_model(tmp_path, "old")
    assert settings.text_encoder == "discriminative"
    assert text.words == ("a", "c", "b", "d")
    assert text.counts.dtype == torch.int64
    assert text.word_posteriors().tolist() == [[0.75, 0.25, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_both_modes_hold_the_same_table(tmp_path):
    """Every count comes back in its word's row, whichever way round the file has them."""
    drawn = np.random.default_rng(0).integers(0, 3, size=(9, 3)) * 2**34
    rows = {f"w{row}": counts.tolist() for row, counts in enumerate(drawn)} | {"": [1, 0, 0]}
    columns = [{word: row[c] for word, row in rows.items() if row[c]} for c in range(3)]
    write_text(tmp_path, counts=WORD_COUNTS | {"word_to_cluster_co_occur": rows}, name="rows")
    counts = CLUSTER_COUNTS | {"cluster_to_word_co_occur": columns}
    write_text(tmp_path, counts=counts, name="columns")
    for name in ("rows", "columns"):
        text, _, _ = load_text_model(tmp_path, name)
        found = dict(zip(text.words, text.counts.tolist(), strict=True))
        assert found == {word: row for word, row in rows.items() if any(row) or name == "rows"}
        totals = [sum(rows[word]) for word in text.words]
        assert totals == sorted(totals, reverse=True)


@pytest.mark.parametrize(
    ("changes", "mentions"),
    [
        ({"mode": 2}, "2"),
        ({"mode": 0}, "word_to_cluster_co_occur"),
        ({"cluster_to_word_co_occur": COUNTS[:2]}, "2 clusters"),
        ({"cluster_to_word_co_occur": [{"a": -1}, {}, {}]}, "whole numbers"),
        ({"cluster_to_word_co_occur": [{"a": float("nan")}, {}, {}]}, "whole numbers"),
        ({"cluster_to_word_co_occur": [{7: 1}, {}, {}]}, "words"),
        (WORD_COUNTS | {"word_to_cluster_co_occur": {"a": [1, 2]}}, "2 clusters"),
        (WORD_COUNTS | {"word_to_cluster_co_occur": {"a": [1, 2, 3], "b": [1]}}, ""),
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
        ({"visual_threshold": float("nan")}, "visual_threshold"),
        ({"visual_learning_rate": "fast"}, "visual_learning_rate"),
        ({"cluster_num": 0}, "cluster_num"),
        ({"cluster_num": 4}, "old.mdl"),
    ],
)
def test_settings_that_cannot_be_are_one_line(tmp_path, resnet_state, changes, mentions):
    write_text(tmp_path, CONFIG | changes)
    write_visual(tmp_path, resnet_state, CONFIG | changes)
    for load in (load_text_model, load_visual_model):
        refused(lambda load=load: load(tmp_path, "old"), "old.", mentions)
    write_text(tmp_path, {name: value for name, value in CONFIG.items() if name != "cluster_num"})
    refused(lambda: load_text_model(tmp_path, "old"), "old.cfg", "lacks cluster_num")


# ---- visual half


@pytest.mark.parametrize("change", ["none", "module", "counters", "double", "parameters"])
def test_state_dicts_of_every_kind_give_the_same_network(tmp_path, resnet_state, change):
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
    write_visual(tmp_path, state, zipped=change != "module")
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
    "changes",
    [
        {"fc.weight": None},
        {"fc.weight": torch.full((3, 512), float("nan"))},
        {"fc.weight": torch.ones(5, 512)},
        {"other.weight": torch.ones(3)},
        {5: torch.ones(3)},
    ],
)
def test_state_dicts_that_do_not_fit_are_one_line(tmp_path, resnet_state, changes):
    write_visual(tmp_path, resnet_state | changes)
    refused(lambda: load_visual_model(tmp_path, "old"), "old.mdl")


def test_weights_of_another_network_are_refused(tmp_path, resnet_state):
    write_visual(tmp_path, resnet_state, CONFIG | {"visual_underlying_model": "resnet34"})
    refused(lambda: load_visual_model(tmp_path, "old"), "old.mdl")


# ---- damaged files

HALF_FILES = [(half, suffix) for half in ("text", "visual") for suffix in ("cfg", "mdl")]


def load_half(folder: Path, half: str):
    return {"text": load_text_model, "visual": load_visual_model}[half](folder, "old")


@pytest.mark.parametrize(("half", "suffix"), HALF_FILES)
@pytest.mark.parametrize("damage", ["cut", "absent", None, {"a": 1}], ids=str)
def test_damaged_files_are_one_line(tmp_path, resnet_state, half, suffix, damage):
    write_text(tmp_path)
    write_visual(tmp_path, resnet_state, zipped=False)
    path = tmp_path / half / f"old.{suffix}"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "absent":
        path.unlink()
    else:
        torch.save(damage, path)
    refused(lambda: load_half(tmp_path, half), "old" if damage == "absent" else path.name)


def test_text_is_no_published_config(tmp_path, trained):
    assert not is_published(trained / "models" / "text" / "lstm.cfg")
    assert not is_published(tmp_path / "absent.cfg")
    (tmp_path / "x.cfg").write_text("")
    assert not is_published(tmp_path / "x.cfg")


# ---- hostile files


class Calls:
    """Pickled, this calls a function when it is loaded carelessly."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def touch(marker: Path) -> Calls:
    """Return an object that creates ``marker`` when loaded carelessly."""
    return Calls(os.system, f"touch {marker}")


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


@pytest.mark.parametrize("form", ["zip", "bare pickle"])
@pytest.mark.parametrize(("half", "suffix"), HALF_FILES)
def test_every_file_of_a_model_is_guarded(tmp_path, resnet_state, half, suffix, form):
    write_text(tmp_path)
    write_visual(tmp_path, resnet_state)
    path, marker = tmp_path / half / f"old.{suffix}", tmp_path / "marker"
    if form == "zip":
        torch.save(touch(marker), path)
    else:
        path.write_bytes(pickle.dumps(touch(marker), protocol=2))
    refused(lambda: load_half(tmp_path, half), str(path))
    assert not marker.exists()


@pytest.mark.parametrize(
    "place",
    [
        lambda bad: {"cluster_prob": [[({"x": (1, bad)},)]]},
        lambda bad: {"cluster_prob": {bad: 1}},
        lambda bad: {"cluster_to_word_co_occur": [{"a": bad}, {}, {}]},
    ],
)
def test_calls_within_an_allowed_object_are_refused(models, place):
    path, marker = models / "text" / "old.mdl", models / "marker"
    write_object(path, COUNTS_CLASS, CLUSTER_COUNTS | place(touch(marker)))
    refused(lambda: load_text_model(models, "old"), str(path), "posix.system")
    assert not marker.exists()


class Foreign:
    """A class whose own ``__setstate__`` would run."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __setstate__(self, state):
        state["marker"].touch()


def test_a_foreign_class_is_neither_made_nor_given_its_state(models):
    path = models / "text" / "old.cfg"
    torch.save(Foreign(models / "marker"), path)
    refused(lambda: load_text_model(models, "old"), str(path), f"{__name__}.Foreign")
    assert not (models / "marker").exists()


def test_attributes_of_a_record_are_data(models):
    """Names that mean something to Python mean nothing here."""
    odd = {"__class__": 5, "__setstate__": 6, "__reduce__": 7, "attributes": {}, "__dict__": {}}
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


def convert(models: Path, *more: str) -> int:
    return main(["--utility=convert_published_model", f"--models_dir={models}", *more])


def test_a_published_model_evaluates_as_its_conversion_and_as_ours(
    own_published, demo_data, tmp_path, capsys
):
    assert convert(own_published, "--model_name=old") == 0
    printed = capsys.readouterr().out
    assert "old_converted" in printed
    assert "words, generative" in printed
    for half in ("text", "visual"):
        header = yaml.safe_load((own_published / half / "old_converted.cfg").read_text())
        assert header["origin"]["run"] == "published"
        assert header["settings"]["seed"] is None
    for utility, more in (("text_evaluation", []), ("visual_evaluation", ["--workers=0"])):
        old, converted, own = (
            run(utility, own_published, demo_data, tmp_path, name, "--seed=3", *more)
            for name in ("old", "old_converted", "generative")
        )
        for part in ("metrics", "settings", "data"):
            assert old[part] == converted[part]
        if utility == "text_evaluation":
            assert old["metrics"] == own["metrics"]
        assert (old["settings"]["epochs"], old["settings"]["text_encoder"]) == (None, "generative")


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
    assert torch.equal(before[0][0].score(tokens), after[0][0].score(tokens))
    with torch.no_grad():
        assert torch.equal(before[1][0](images), after[1][0](images))
    require_same_origin(after[0][2], after[1][2], "new")


CONVERT = "--utility=convert_published_model"


def test_a_model_is_not_converted_in_its_own_place(own_published, capsys):
    """A crash between its files would leave neither the one nor the other."""
    before = {path: path.read_bytes() for path in own_published.rglob("old.*")}
    same = [f"--models_dir={own_published}", "--model_name=old", "--new_name=old", "--overwrite"]
    fails(capsys, CONVERT, *same, mentions="give another")
    assert {path: path.read_bytes() for path in own_published.rglob("old.*")} == before


def test_conversion_does_not_replace_a_model_unasked(own_published, capsys):
    before = (own_published / "text" / "generative.cfg").read_bytes()
    arguments = ["--model_name=old", "--new_name=generative"]
    place = f"--models_dir={own_published}"
    fails(capsys, CONVERT, place, *arguments, mentions="--overwrite")
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
    ("name", "mentions"),
    [("absent", "absent"), ("generative", "nothing to convert"), ("old", "old.mdl")],
)
def test_what_cannot_be_converted_is_one_line(own_published, capsys, name, mentions):
    damaged = own_published / "text" / "old.mdl"
    damaged.write_bytes(damaged.read_bytes()[:500])
    before = sorted(own_published.rglob("*"))
    call = [CONVERT, f"--models_dir={own_published}", f"--model_name={name}"]
    fails(capsys, *call, mentions=mentions)
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
        fails(capsys, *arguments, mentions="20 clusters")
