from dataclasses import fields
from pathlib import Path

import pytest

from models_src.settings import (
    TrainingSettings,
    read_config,
    setting_type,
    settings_from_sources,
)
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


def test_every_setting_has_a_plain_type_a_group_and_a_help_text():
    for setting in fields(TrainingSettings):
        plain, optional = setting_type(setting)
        assert plain in (str, int, float, bool)
        assert optional == (setting.default is None)
        assert setting.metadata["group"]
        assert len(setting.metadata["help"]) > 10


@pytest.mark.parametrize(
    ("given", "text_threshold", "image_share"),
    [
        ({}, 0.35, 0.06),
        ({"text_encoder": "gru", "cluster_num": 150}, 0.35, 0.06),
        ({"text_encoder": "generative"}, 0.03, 0),
        ({"text_encoder": "generative", "image_share": 0.1, "text_threshold": 0.2}, 0.2, 0.1),
    ],
)
def test_some_defaults_follow_the_text_encoder(given, text_threshold, image_share):
    settings = TrainingSettings(**given)
    assert settings.text_threshold == text_threshold
    assert settings.image_share == image_share
    assert TrainingSettings(**settings.as_dict()) == settings


def test_option_wins_over_file_and_file_over_default(config):
    default = TrainingSettings().as_dict()
    path = config("epochs: 7\nbatch_size: 8\nfreeze_visual: true\n")
    given = {"epochs": default["epochs"], "seed": 3, "freeze_visual": False}
    settings = settings_from_sources(path, given)
    assert settings.as_dict() == default | {"batch_size": 8, "seed": 3}
    for text in ("", "# only a remark\n", "---\n"):
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
    [("1e-4", 1e-4), ("1E3", 1000.0), ("'0.5'", 0.5), ("0.0001", 1e-4), ("1", 1.0)],
)
def test_numbers_are_read_however_yaml_takes_them(config, text, value):
    """YAML takes 1e-4 for a text, and 1 for a whole number."""
    settings = settings_from_sources(config(f"visual_learning_rate: {text}\n"), {})
    assert settings.visual_learning_rate == value


ALLOWED = {
    "visual_threshold": [-3.5],
    "text_threshold": [0, 1],
    "visual_learning_rate": [0],
    "random_start_steps": [0],
    "batch_size": [2],
    "image_size": [32, 1024],
    "pretrained_visual": ["weights.pth"],
}
REFUSED = {
    "epochs": ["3", 2.0, True, None],
    "visual_learning_rate": ["high", float("nan"), -1e-9],
    "visual_encoder": [18, "ResNet18"],
    "pretrained_visual": [False],
    "freeze_visual": [1],
    "batch_size": [1],
    "image_size": [1025],
    "text_threshold": [1.01],
    "random_start_steps": [-1],
}


@pytest.mark.parametrize(("name", "values"), ALLOWED.items())
def test_values_at_the_edges_are_allowed(name, values):
    for value in values:
        assert getattr(settings_from_sources(None, {name: value}), name) == value


@pytest.mark.parametrize(("name", "values"), REFUSED.items())
def test_wrong_value_of_an_option_is_refused_by_name(name, values):
    for value in values:
        message = refusal_of(settings_from_sources, None, {name: value})
        assert message.startswith(f"--{name} ")
        assert str(value) in message


@pytest.mark.parametrize(
    "text", ["epochs: 2.0", "epochs: yes", "text_threshold: 'nan'", "pretrained_visual: 2024-01-01"]
)
def test_wrong_value_in_a_file_is_refused_even_where_an_option_wins(config, text):
    path = config(f"seed: 4\n{text}\n")
    name = text.split(":")[0]
    for given in ({}, {name: getattr(TrainingSettings(), name)}):
        message = refusal_of(settings_from_sources, path, given)
        assert f"--{name} " in message
        assert str(path) in message


@pytest.mark.parametrize(
    "text", ["epochs: [1", "epochs: 1: 2", "seed: \x01", "[" * 5_000, "- epochs\n- 3", "3", "[]"]
)
def test_malformed_or_missing_file_is_refused_by_name(config, text):
    path = config(text)
    assert str(path) in refusal_of(read_config, path)
    path.unlink()
    for absent in (path, path.parent):
        assert str(absent) in refusal_of(settings_from_sources, absent, {})


def test_simclr_needs_its_weights():
    message = refusal_of(settings_from_sources, None, {"visual_encoder": "simclr"})
    assert "--pretrained_visual" in message
    options = {"visual_encoder": "simclr", "pretrained_visual": "simclr.pth"}
    assert settings_from_sources(None, options).visual_encoder == "simclr"


@pytest.mark.parametrize("path", CONFIGS, ids=[path.name for path in CONFIGS])
def test_settings_files_of_the_project_load(path):
    values = read_config(path)
    assert values
    settings = settings_from_sources(path, {}).as_dict()
    assert {name: settings[name] for name in values} == values
