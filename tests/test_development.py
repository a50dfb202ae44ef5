"""Metrics through training: when they are measured, what they hold, that they change nothing."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from datasets_src.pairs import load_training_pairs
from evaluation.acquisition import PLOTS, write_development
from evaluation.categorization import categorization_scores, category_scores
from evaluation.reports import flatten
from main import main
from models_src import training
from models_src.development import Plan, is_measured
from models_src.settings import TrainingSettings
from models_src.training import RunOptions, train
from tests.conftest import TINY
from tests.test_cli import fails
from tests.test_training import SMALL, StopAt, assert_same, no_metrics, no_report, thin, weights  # noqa: F401


@pytest.fixture(scope="module")
def pairs(demo_data):
    return load_training_pairs(demo_data, use_all_images=False)


def evaluate(text):
    """Return something that any change of p(c|w) shows in."""
    posteriors = text.word_posteriors()
    return {"model": {"": {"mean": float(posteriors.mean()), "largest": float(posteriors.max())}}}


def evaluate_images(visual, _text):
    """Return something that any change of the CNN shows in, and change it if it can be."""
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return {"logits": visual(images).mean().item()}


def run(pairs, folder, every, settings, **options):
    """Train with rows, in ``folder/development.csv``; none with ``every`` None."""
    table = folder / "development.csv"
    plan = every and Plan(
        every, evaluate, lambda rows: write_development(table, rows), evaluate_images
    )
    chosen, how = TrainingSettings(**(SMALL | settings)), RunOptions("m", folder, **options)
    train(chosen, pairs, how, no_metrics, no_report, plan)


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
def test_rows_do_not_change_what_is_trained(pairs, tmp_path, settings, thin):  # noqa: F811
    settings = settings | {"epochs": 1, "batch_size": 20}
    for name, every in (("without", None), ("with", 3)):
        run(pairs, tmp_path / name, every, settings)
    assert_same(weights(tmp_path / "without"), weights(tmp_path / "with"))
    assert (tmp_path / "with" / "development.csv").exists()


@pytest.mark.parametrize(("kind", "stopped_at"), [("lstm", 1), ("lstm", 6), ("generative", 7)])
def test_a_continued_run_has_each_row_once(pairs, tmp_path, monkeypatch, kind, stopped_at, thin):  # noqa: F811
    settings = {"text_encoder": kind}
    run(pairs, tmp_path / "straight", 3, settings)
    StopAt(monkeypatch, stopped_at)
    with pytest.raises(KeyboardInterrupt):
        run(pairs, tmp_path / "stopped", 3, settings)
    # a row that was written after the checkpoint, as when a run is killed
    table = tmp_path / "stopped" / "development.csv"
    table.write_text(table.read_text() + "9999,1,1,model,,mean,0.5\n")
    run(pairs, tmp_path / "stopped", 3, settings, resume=True)
    assert table.read_bytes() == (tmp_path / "straight" / "development.csv").read_bytes()
    assert_same(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))


def test_rows_hold_what_was_seen_since_the_row_before(pairs, tmp_path, monkeypatch):
    results, batches = [], []
    plain = training.joint_step

    def kept(*arguments, **options):
        batches.append(arguments[5])
        results.append(plain(*arguments, **options))
        return results[-1]

    monkeypatch.setattr(training, "joint_step", kept)
    found = []
    plan = Plan(4, evaluate, lambda moments: found.append(list(moments)))
    train(TrainingSettings(**(SMALL | {"batch_size": 20, "epochs": 1})), pairs,
          RunOptions("m", tmp_path), no_metrics, no_report, plan)  # fmt: skip
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
    places = [f"--datasets_dir={demo_data}", f"--models_dir={tmp_path / 'models'}"]
    return [*TINY, *places, f"--results_dir={tmp_path}", "--model_name=d", *extra]


def test_command_writes_a_tidy_table_and_plots(demo_data, tmp_path):
    rows = ["--evaluate_every=4", "--words", "Dog", "a", "dog", "--evaluate_images=1000"]
    assert main(call(demo_data, tmp_path, "--text_encoder=lstm", *rows)) == 0
    with (tmp_path / "d" / "development.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["step", "pairs", "tokens", "kind", "name", "metric", "value"]
    keys = [(row["step"], row["kind"], row["name"], row["metric"]) for row in table]
    assert len(set(keys)) == len(keys)
    words = dict.fromkeys(row["name"] for row in table if row["kind"] == "word")
    assert list(words) == ["dog", "a"]
    assert {row["kind"] for row in table} == {"model", "category", "word"}

    # the last row is of the model that was written
    last = {
        (row["kind"], row["name"], row["metric"]): row["value"]
        for row in table
        if row["step"] == table[-1]["step"]
    }
    with (tmp_path / "d" / "evaluation_by_epoch.csv").open(newline="") as file:
        by_epoch = {row[0]: row[-1] for row in csv.reader(file)}
    for metric in ("categorization.known_words.f_score", "concreteness.mean_absolute_error"):
        assert last["model", "", metric] == by_epoch[metric] != ""
    for utility in ("visual_evaluation", "word_clusters"):
        assert main([f"--utility={utility}", *call(demo_data, tmp_path)[len(TINY) :]]) == 0
    of_images = flatten(json.loads((tmp_path / "visual_evaluation_d.json").read_text())["metrics"])
    assert len(of_images) > 20
    for metric, value in of_images.items():
        measured = last["model", "", metric]
        assert (float(measured) if measured else None) == pytest.approx(value, abs=1e-6), metric
    with (tmp_path / "word_clusters_d.csv").open(newline="") as file:
        dog = next(row for row in csv.DictReader(file) if row["word"] == "dog")
    assert last["word", "dog", "cluster"] == dog["cluster"]
    assert float(last["word", "dog", "probability"]) == pytest.approx(
        float(dog["probability"]), abs=1e-5
    )
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
