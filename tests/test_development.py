"""Metrics through training: their table, plots and event files, and that they change nothing."""

import sys
from collections import Counter
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from evaluation.acquisition import PLOTS, write_development
from evaluation.categorization import categorization_scores, category_scores
from evaluation.reports import flatten
from evaluation.tensorboard import event_files
from main import main
from models_src.development import Plan, is_measured
from tests.conftest import TINY, dirs, results_of
from tests.test_cli import fails
from tests.test_training import assert_same, run, watch_steps, weights

pytestmark = pytest.mark.usefixtures("thin")


def evaluate(text):
    """Return something that any change of p(c|w) shows in."""
    posteriors = text.word_posteriors()
    return {"model": {"": {"mean": float(posteriors.mean()), "largest": float(posteriors.max())}}}


def evaluate_images(visual, _text):
    """Return something that any change of the CNN shows in, and change it if it can be."""
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return {"logits": visual(images).mean().item()}


def scalars(folder) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard shows of a folder: tag -> (step, value)."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def run_measured(pairs, folder, settings, **options):
    """Train with rows in ``folder/development.csv`` and in ``folder/events``."""
    table = folder / "development.csv"
    plan = Plan(3, evaluate, lambda rows: write_development(table, rows), evaluate_images)
    with event_files(folder / "events", resume="resume" in options) as watch:
        run(pairs, folder, settings=settings, plan=plan, watch=watch, **options)


def test_steps_are_dense_at_first():
    measured = [step for step in range(1, 3001) if is_measured(step, 700)]
    assert measured == [1, 2, 5, 10, 20, 50, 100, 200, 500, 700, 1400, 2100, 2800]
    assert [step for step in range(1, 12) if is_measured(step, 4)] == [1, 2, 4, 8]


@pytest.mark.parametrize(
    "settings",
    [
        {"text_encoder": "gru"},
        {"text_encoder": "generative", "flip_images": True, "group_captions": True},
    ],
)
def test_rows_do_not_change_what_is_trained(pairs, tmp_path, settings):
    settings = settings | {"epochs": 1, "batch_size": 20}
    run(pairs, tmp_path / "without", settings=settings)
    run_measured(pairs, tmp_path / "with", settings)
    assert_same(weights(tmp_path / "without"), weights(tmp_path / "with"))
    assert (tmp_path / "with" / "development.csv").exists()


@pytest.mark.parametrize(("kind", "stopped_at"), [("lstm", 1), ("lstm", 6), ("generative", 7)])
def test_a_continued_run_has_each_row_once(pairs, tmp_path, monkeypatch, kind, stopped_at):
    settings = {"text_encoder": kind}
    run_measured(pairs, tmp_path / "straight", settings)
    watch_steps(monkeypatch, stopped_at)
    with pytest.raises(KeyboardInterrupt):
        run_measured(pairs, tmp_path / "stopped", settings)
    # what was written after the checkpoint, as when a run is killed
    table = tmp_path / "stopped" / "development.csv"
    table.write_text(table.read_text() + "9999,1,1,model,,mean,0.5\n")
    with event_files(tmp_path / "stopped" / "events", resume=True) as watch:
        watch("development", 1000, {"model.mean": 5.0})
    run_measured(pairs, tmp_path / "stopped", settings, resume=True)
    assert table.read_bytes() == (tmp_path / "straight" / "development.csv").read_bytes()
    assert_same(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))
    expected, found = (scalars(tmp_path / name / "events") for name in ("straight", "stopped"))
    assert [step for step, _ in expected["development/model.mean"]][:4] == [1, 2, 3, 6]
    for tags in (expected, found):
        # means over the steps since the log's last line, or since the training was continued
        for tag in [tag for tag in tags if tag.startswith("steps/")]:
            tags[tag] = [step for step, _ in tags[tag]]
    assert found == expected


def test_rows_hold_what_was_seen_since_the_row_before(pairs, tmp_path, monkeypatch):
    steps, found = watch_steps(monkeypatch), []
    plan = Plan(4, evaluate, lambda moments: found.append(list(moments)))
    run(pairs, tmp_path, settings={"batch_size": 20, "epochs": 1}, plan=plan)
    batches = [arguments[5] for arguments, _, _ in steps]
    results = [result for _, _, result in steps]
    (*_, moments) = found
    assert [len(rows) for rows in found] == list(range(1, len(found) + 1))
    last = len(results)
    assert [moment.step for moment in moments] == sorted({1, 2, *range(4, last + 1, 4), last})
    before = 0
    for moment in moments:
        assert moment.pairs == sum(len(tokens) for tokens in batches[: moment.step])
        assert moment.tokens == sum((tokens >= 0).sum() for tokens in batches[: moment.step])
        bits = torch.cat([result.image_bits for result in results[before : moment.step]])
        shown = moment.values["model"][""]["clusters_per_image"]
        assert shown == pytest.approx(bits.sum().item() / len(bits))
        before = moment.step
    assert moments[-1].tokens == len(pairs.captions.tokens)


def test_category_scores_add_up_to_the_f_score():
    rng = np.random.default_rng(0)
    categories, clusters = rng.integers(4, size=30) * 3, rng.integers(6, size=30)
    found = category_scores(categories, clusters)
    counts = {key: scores["word_count"] for key, scores in found.items()}
    assert counts == Counter(categories.tolist())
    mean = sum(scores["f1"] * scores["word_count"] for scores in found.values()) / 30
    assert mean == pytest.approx(categorization_scores(categories, clusters)["f_score"])


def call(demo_data, tmp_path, *extra):
    return [*TINY, *dirs(demo_data, tmp_path / "models", tmp_path), "--model_name=d", *extra]


def test_command_writes_a_tidy_table_plots_and_event_files(demo_data, tmp_path):
    rows = ["--evaluate_every=4", "--words", "Dog", "a", "dog", "--evaluate_images=1000"]
    assert main(call(demo_data, tmp_path, "--tensorboard", *rows)) == 0
    read = partial(pd.read_csv, keep_default_na=False, dtype=str)
    table = read(tmp_path / "d" / "development.csv")
    assert list(table) == ["step", "pairs", "tokens", "kind", "name", "metric", "value"]
    assert not table.duplicated(["step", "kind", "name", "metric"]).any()
    assert list(table[table["kind"] == "word"]["name"].unique()) == ["dog", "a"]
    assert set(table["kind"]) == {"model", "category", "word"}

    # the last row is of the model that was written
    last = table[table["step"] == table["step"].iloc[-1]]
    last = last.set_index(["kind", "name", "metric"])["value"]
    by_epoch = read(tmp_path / "d" / "evaluation_by_epoch.csv", index_col="metric")
    for metric in ("categorization.known_words.f_score", "concreteness.mean_absolute_error"):
        assert last["model", "", metric] == by_epoch.loc[metric].iloc[-1] != ""
    for utility in ("visual_evaluation", "word_clusters"):
        assert main([f"--utility={utility}", *call(demo_data, tmp_path)[len(TINY) :]]) == 0
    of_images = flatten(results_of(tmp_path, "visual_evaluation", "d")["metrics"])
    assert len(of_images) > 20
    for metric, value in of_images.items():
        measured = last["model", "", metric]
        assert (float(measured) if measured else None) == pytest.approx(value, abs=1e-6), metric
    dog = read(tmp_path / "word_clusters_d.csv", index_col="word").loc["dog"]
    assert last["word", "dog", "cluster"] == dog["cluster"]
    probability = pytest.approx(float(dog["probability"]), abs=1e-5)
    assert float(last["word", "dog", "probability"]) == probability
    shown = scalars(tmp_path / "d" / "tensorboard")
    for name, values in by_epoch.iterrows():
        found = [value for _, value in shown.get(f"epochs/{name}", [])]
        assert found == pytest.approx([float(value) for value in values if value], rel=1e-6)
    of_dog = table[(table["name"] == "dog") & (table["metric"] == "probability")]
    assert shown["development/word.dog.probability"] == [
        (int(step), pytest.approx(float(value), rel=1e-6))
        for step, value in zip(of_dog["step"], of_dog["value"], strict=True)
    ]
    assert "development/model.visual_loss" in shown
    assert shown["steps/pairs_per_second"][0][1] > 0
    for plot in PLOTS.values():
        with Image.open(tmp_path / "d" / plot) as picture:
            assert np.asarray(picture.convert("L")).std() > 10  # something is drawn

    # a later training without rows leaves none of this one
    assert main(call(demo_data, tmp_path, "--text_encoder=generative", "--overwrite")) == 0
    assert not list((tmp_path / "d").glob("development*"))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--words", "dog"], "need --evaluate_every"),
        (["--evaluate_images=3"], "need --evaluate_every"),
        (["--evaluate_every=5", "--evaluate_images=0"], "from 1 on"),
        (["--evaluate_every=5", "--words", "dog", "xyzzy"], "--words xyzzy: in no training"),
        (["--evaluate_every=0"], "from 1 on"),
    ],
)
def test_rows_that_cannot_be_are_refused(demo_data, tmp_path, capsys, extra, message):
    fails(capsys, *call(demo_data, tmp_path, *extra), mentions=message)
    assert not (tmp_path / "models" / "text").exists()


def test_event_files_are_made_with_the_first_value_and_leave_out_undefined_ones(tmp_path):
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
    tensorboard = call(demo_data, tmp_path, "--tensorboard")
    fails(capsys, *tensorboard, mentions="pip install tensorboard")
    assert not (tmp_path / "models" / "text").exists()
