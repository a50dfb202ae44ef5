from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest

from models_src.settings import (
    TrainingSettings,
    read_config,
    setting_type,
    settings_from_sources,
)
from models_src.text_encoders import TEXT_ENCODERS
from tests.test_coco import refusal_of

CONFIGS = sorted((Path(__file__).parent.parent / "models_src" / "configs").glob("*.yaml"))


@pytest.fixture
def config(tmp_path):
    """A function that writes a settings file and returns its path."""

    def write(text):
        path = tmp_path / "settings.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_defaults_are_those_of_the_published_program_but_for_the_text_encoder():
    settings = TrainingSettings().as_dict()
    published = {
        "visual_encoder": "resnet50",
        "pretrained_visual": None,
        "freeze_visual": False,
        "visual_learning_rate": 1e-4,
        "text_encoder": "lstm",
        "cluster_num": 100,
        "epochs": 2,
        "batch_size": 50,
        "image_size": 224,
    }
    assert {name: settings[name] for name in published} == published
    assert TrainingSettings(text_encoder="generative").text_threshold == 0.03


def test_published_settings_file_gives_the_published_model():
    (path,) = [path for path in CONFIGS if path.name == "published.yaml"]
    expected = TrainingSettings(
        text_encoder="generative", text_threshold=0.08, cluster_num=150, random_start_steps=0
    )
    assert settings_from_sources(path, {}) == expected


@pytest.mark.parametrize(
    ("given", "text_threshold", "image_share"),
    [
        ({}, 0.01, 0.06),
        ({"text_encoder": "gru", "cluster_num": 150}, 1 / 150, 0.06),
        ({"text_encoder": "generative"}, 0.03, 0),
        ({"text_encoder": "generative", "image_share": 0.1, "text_threshold": 0.2}, 0.2, 0.1),
    ],
)
def test_some_defaults_follow_the_text_encoder(given, text_threshold, image_share):
    settings = TrainingSettings(**given)
    assert settings.text_threshold == pytest.approx(text_threshold)
    assert settings.image_share == image_share
    assert TrainingSettings(**settings.as_dict()) == settings


def test_option_wins_over_file_and_file_over_default(config):
    path = config("epochs: 7\nbatch_size: 8\n")
    settings = settings_from_sources(path, {"epochs": 9, "seed": 3})
    expected = TrainingSettings().as_dict() | {"epochs": 9, "batch_size": 8, "seed": 3}
    assert settings.as_dict() == expected


def test_option_wins_even_with_the_defaults_own_value(config):
    default = TrainingSettings().epochs
    path = config(f"epochs: {default + 1}\nfreeze_visual: true")
    settings = settings_from_sources(path, {"epochs": default, "freeze_visual": False})
    assert settings == TrainingSettings()


def test_without_any_source_the_defaults_stand():
    assert settings_from_sources(None, {}) == TrainingSettings()


def test_settings_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        TrainingSettings().epochs = 3


@pytest.mark.parametrize("text", ["", "\n", "# only a remark\n", "---\n"])
def test_empty_file_changes_nothing(config, text):
    assert read_config(config(text)) == {}
    assert settings_from_sources(config(text), {}) == TrainingSettings()


def test_unknown_keys_are_all_named(config):
    path = config("epochs: 3\nepoch: 4\nlearning-rate: 1\n7: x\n")
    message = refusal_of(read_config, path)
    assert str(path) in message
    unknown, known = message.split(";")
    assert unknown.endswith(": epoch, learning-rate, 7")
    assert all(setting.name in known for setting in fields(TrainingSettings))


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E3", 1000.0), ("'0.5'", 0.5), ("0.0001", 1e-4), ("1.0e-4", 1e-4)],
)
def test_number_that_yaml_takes_for_a_text_is_read_as_a_number(config, text, value):
    path = config(f"visual_learning_rate: {text}\n")
    assert settings_from_sources(path, {}).visual_learning_rate == value
    assert isinstance(settings_from_sources(path, {}).visual_learning_rate, float)


def test_whole_number_stands_for_a_fraction(config):
    assert settings_from_sources(config("visual_threshold: 1"), {}).visual_threshold == 1


ALLOWED = [
    ("visual_threshold", -3.5),
    ("text_threshold", 0),
    ("text_threshold", 1),
    ("visual_learning_rate", 0),
    ("random_start_steps", 0),
    ("batch_size", 2),
    ("image_size", 32),
    ("image_size", 1024),
    ("cluster_num", 10),
    ("seed", 0),
    ("pretrained_visual", "weights.pth"),
    ("pretrained_visual", None),
    ("freeze_visual", True),
    *[("text_encoder", name) for name in TEXT_ENCODERS],
    *[("visual_encoder", name) for name in ("resnet18", "vgg16", "googlenet", "resnet101")],
]


@pytest.mark.parametrize(("name", "value"), ALLOWED)
def test_values_at_the_edges_are_allowed(name, value):
    assert getattr(settings_from_sources(None, {name: value}), name) == value


REFUSED = [
    ("epochs", "3"),
    ("epochs", 2.0),
    ("epochs", True),
    ("epochs", None),
    ("visual_learning_rate", "high"),
    ("visual_learning_rate", float("nan")),
    ("visual_learning_rate", -1e-9),
    ("visual_encoder", 18),
    ("visual_encoder", "ResNet18"),
    ("pretrained_visual", False),
    ("freeze_visual", 1),
    ("batch_size", 1),
    ("image_size", 1025),
    ("text_threshold", 1.01),
    ("random_start_steps", -1),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_wrong_value_of_an_option_is_refused_by_name(name, value):
    message = refusal_of(settings_from_sources, None, {name: value})
    assert message.startswith(f"--{name} ")
    assert str(value) in message


@pytest.mark.parametrize(
    "text", ["epochs: 2.0", "epochs: yes", "text_threshold: 'nan'", "pretrained_visual: 2024-01-01"]
)
def test_wrong_value_in_a_file_is_refused_with_setting_and_file(config, text):
    path = config(f"seed: 4\n{text}\n")
    message = refusal_of(settings_from_sources, path, {})
    assert f"--{text.split(':')[0]} " in message
    assert str(path) in message


def test_wrong_value_in_a_file_is_refused_even_where_an_option_wins(config):
    path = config("epochs: none\n")
    assert str(path) in refusal_of(settings_from_sources, path, {"epochs": 3})


@pytest.mark.parametrize("text", ["epochs: [1", "epochs: 1: 2", "seed: \x01", "[" * 20_000])
def test_malformed_file_is_refused_by_name(config, text):
    path = config(text)
    message = refusal_of(read_config, path)
    assert str(path) in message


@pytest.mark.parametrize("text", ["- epochs\n- 3", "epochs", "3", "[]", "epochs = 3"])
def test_file_without_settings_is_refused(config, text):
    path = config(text)
    assert str(path) in refusal_of(read_config, path)


def test_missing_file_is_refused_by_name(tmp_path):
    for path in (tmp_path / "absent.yaml", tmp_path):
        assert str(path) in refusal_of(settings_from_sources, path, {})


def test_simclr_needs_its_weights():
    message = refusal_of(settings_from_sources, None, {"visual_encoder": "simclr"})
    assert "--pretrained_visual" in message
    options = {"visual_encoder": "simclr", "pretrained_visual": "simclr.pth"}
    assert settings_from_sources(None, options).visual_encoder == "simclr"


def test_every_setting_has_a_plain_type_a_group_and_a_help_text():
    for setting in fields(TrainingSettings):
        plain, optional = setting_type(setting)
        assert plain in (str, int, float, bool)
        assert optional == (setting.default is None)
        assert setting.metadata["group"]
        assert len(setting.metadata["help"]) > 10
    assert (
        "raw logit"
        in {s.name: s for s in fields(TrainingSettings)}["visual_threshold"].metadata["help"]
    )


@pytest.mark.parametrize("path", CONFIGS, ids=[path.name for path in CONFIGS])
def test_settings_files_of_the_project_load(path):
    values = read_config(path)
    assert values
    settings = settings_from_sources(path, {}).as_dict()
    assert {name: settings[name] for name in values} == values


def test_settings_of_a_run_are_read_back_from_their_own_values(config):
    import yaml

    settings = replace(TrainingSettings(), epochs=5, visual_learning_rate=3e-5, seed=8)
    path = config(yaml.safe_dump(settings.as_dict()))
    assert settings_from_sources(path, {}) == settings
