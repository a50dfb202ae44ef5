"""TensorBoard's event files: what they hold, also of a training that was killed and continued."""

import csv
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from datasets_src.pairs import load_training_pairs
from evaluation.tensorboard import event_files
from main import main
from models_src.development import Plan
from models_src.settings import TrainingSettings
from models_src.training import RunOptions, train
from tests.conftest import TINY
from tests.test_cli import fails
from tests.test_training import SMALL, StopAt, no_metrics, no_report


def scalars(folder) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard shows of a folder: tag -> (step, value)."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_command_writes_what_the_tables_have(demo_data, tmp_path):
    call = [*TINY, f"--datasets_dir={demo_data}", f"--models_dir={tmp_path / 'models'}",
            f"--results_dir={tmp_path}", "--model_name=t", "--text_encoder=lstm"]  # fmt: skip
    assert main([*call, "--tensorboard", "--evaluate_every=5", "--words", "dog"]) == 0
    found = scalars(tmp_path / "t" / "tensorboard")
    with (tmp_path / "t" / "evaluation_by_epoch.csv").open(newline="") as file:
        (_, *epochs), *rows = csv.reader(file)
    assert len(epochs) == 2
    for name, *values in rows:
        shown = [value for _, value in found.get(f"epochs/{name}", [])]
        assert shown == pytest.approx([float(value) for value in values if value], rel=1e-6)
    with (tmp_path / "t" / "development.csv").open(newline="") as file:
        dog = [(int(row["step"]), float(row["value"])) for row in csv.DictReader(file)
               if (row["name"], row["metric"]) == ("dog", "probability")]  # fmt: skip
    assert len(dog) > 3
    assert found["development/word.dog.probability"] == [
        (step, pytest.approx(value, rel=1e-6)) for step, value in dog
    ]
    assert "development/model.visual_loss" in found
    assert found["steps/pairs_per_second"][0][1] > 0


def test_a_continued_training_shows_each_step_once(demo_data, tmp_path, monkeypatch):
    stopped_at = 6
    pairs = load_training_pairs(demo_data, use_all_images=False)

    def run(name, resume=False):
        with event_files(tmp_path / name / "events", resume=resume) as watch:
            options = RunOptions("m", tmp_path / name, resume=resume, watch=watch)
            plan = Plan(2, lambda _text: {"model": {"": {"one": 1.0}}}, no_report)
            settings = TrainingSettings(**(SMALL | {"text_encoder": "generative"}))
            train(settings, pairs, options, no_metrics, no_report, plan)

    run("straight")
    StopAt(monkeypatch, stopped_at)
    with pytest.raises(KeyboardInterrupt):
        run("stopped")
    # values after the checkpoint, as of a run that was killed
    with event_files(tmp_path / "stopped" / "events", resume=True) as watch:
        watch("development", stopped_at // 2 * 2 + 2, {"model.one": 5.0})
        watch("steps", 1000, {"visual_loss": 5.0})
    run("stopped", resume=True)
    expected, found = (scalars(tmp_path / name / "events") for name in ("straight", "stopped"))
    for tags in (expected, found):
        # means over the steps since the log's last line, or since the training was continued
        for tag in [tag for tag in tags if tag.startswith("steps/")]:
            tags[tag] = [(step, None) for step, _ in tags[tag]]
    assert found == expected
    assert [step for step, _ in found["development/model.one"]][:3] == [1, 2, 4]


def test_values_that_are_undefined_are_left_out(tmp_path):
    with event_files(tmp_path / "none", resume=False):
        pass
    assert not (tmp_path / "none").exists()
    for value in (1.0, 0.5):  # another training leaves nothing of the first
        with event_files(tmp_path / "some", resume=False) as watch:
            watch("epochs", 3, {"a": None, "b": value})
            # without waiting for the end
            assert scalars(tmp_path / "some") == {"epochs/b": [(3, value)]}


def test_without_tensorboard_the_option_is_refused(demo_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    places = [f"--{place}_dir={tmp_path}" for place in ("models", "results")]
    call = [*TINY, *places, f"--datasets_dir={demo_data}", "--tensorboard"]
    fails(capsys, *call, mentions="pip install tensorboard")
    assert not (tmp_path / "text").exists()
