"""Metrics through training: when they are measured, what they hold, that they change nothing."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from datasets_src.captions import TokenizedCaptions
from datasets_src.pairs import load_training_pairs
from evaluation.acquisition import PLOTS, write_development
from evaluation.categorization import categorization_scores, category_scores
from evaluation.reports import flatten
from main import main
from models_src import training
from models_src.development import Development, Plan, is_measured
from models_src.diagnosis import empty_sums
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
    plan = every and Plan(
        every,
        evaluate,
        lambda rows: write_development(folder / "development.csv", rows),
        evaluate_images,
    )
    train(TrainingSettings(**(SMALL | settings)), pairs, RunOptions("m", folder, **options),
          no_metrics, no_report, plan)  # fmt: skip


def test_steps_are_dense_at_first():
    measured = [step for step in range(1, 3001) if is_measured(step, 700)]
    assert measured == [1, 2, 5, 10, 20, 50, 100, 200, 500, 700, 1400, 2100, 2800]
    assert [step for step in range(1, 12) if is_measured(step, 4)] == [1, 2, 4, 8]
    assert all(is_measured(step, 1) for step in range(1, 30))


@pytest.mark.parametrize(
    "settings",
    [
        {"text_encoder": "gru"},
        {"text_encoder": "generative", "flip_images": True, "group_captions": True},
    ],
)
def test_rows_do_not_change_what_is_trained(pairs, tmp_path, settings, thin):  # noqa: F811
    settings = settings | {"epochs": 1, "batch_size": 20}
    run(pairs, tmp_path / "without", None, settings)
    run(pairs, tmp_path / "with", 3, settings)
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


def test_a_step_of_unreadable_images_counts_nothing():
    captions = TokenizedCaptions(np.array([0, 1, 2], dtype=np.int32), np.array([0, 2, 3]))
    development = Development(Plan(1, evaluate, no_report), 2, empty_sums(3))
    development.add(empty_sums(3), captions, np.zeros(0, dtype=np.int64))
    assert (development.pairs, development.tokens) == (0, 0)
    development.add(empty_sums(3), captions, np.array([0, 1, 0]))
    assert (development.pairs, development.tokens) == (3, 5)


def test_category_scores_add_up_to_the_f_score():
    rng = np.random.default_rng(0)
    categories, clusters = rng.integers(4, size=30) * 3, rng.integers(6, size=30)
    found = category_scores(categories, clusters)
    assert {key: scores["word_count"] for key, scores in found.items()} == Counter(
        categories.tolist()
    )
    mean = sum(scores["f1"] * scores["word_count"] for scores in found.values()) / 30
    assert mean == pytest.approx(categorization_scores(categories, clusters)["f_score"])
    #                       a  a  b
    by_hand = category_scores(np.array([0, 0, 1]), np.array([5, 6, 6]))
    assert by_hand == {
        0: {"f1": pytest.approx(2 / 3), "word_count": 2},
        1: {"f1": pytest.approx(2 / 3), "word_count": 1},
    }
    assert category_scores(np.zeros(0), np.zeros(0)) == {}


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

    # the last row is of the model that was written
    last = {
        (row["kind"], row["name"], row["metric"]): row["value"]
        for row in table
        if row["step"] == table[-1]["step"]
    }
    with (tmp_path / "d" / "evaluation_by_epoch.csv").open(newline="") as file:
        by_epoch = {row[0]: row[-1] for row in csv.reader(file)}
    for metric in ("categorization.known_words.f_score", "concreteness.pearson_by_min_count.0.r"):
        assert last["model", "", metric] == by_epoch[metric] != ""
    assert main(call(demo_data, tmp_path, "--utility=visual_evaluation")[len(TINY) :]) == 0
    of_images = flatten(json.loads((tmp_path / "visual_evaluation_d.json").read_text())["metrics"])
    assert len(of_images) > 20
    for metric, value in of_images.items():
        measured = last["model", "", metric]
        assert (float(measured) if measured else None) == pytest.approx(value, abs=1e-6), metric
    places = [f"--models_dir={tmp_path / 'models'}", f"--results_dir={tmp_path}"]
    asked = ["--utility=word_clusters", "--model_name=d", f"--datasets_dir={demo_data}"]
    assert main([*asked, *places]) == 0
    with (tmp_path / "word_clusters_d.csv").open(newline="") as file:
        dog = next(row for row in csv.DictReader(file) if row["word"] == "dog")
    assert last["word", "dog", "cluster"] == dog["cluster"]
    assert float(last["word", "dog", "probability"]) == pytest.approx(
        float(dog["probability"]), abs=1e-5
    )
    f_score = sum(
        float(value) * float(last["category", name, "word_count"])
        for (kind, name, metric), value in last.items()
        if kind == "category" and metric == "f1"
    ) / float(by_epoch["categorization.known_words.word_count"])
    assert f_score == pytest.approx(float(by_epoch["categorization.known_words.f_score"]))
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
        (
            ["--evaluate_every=5", "--words", "dog", "xyzzy"],
            "--words xyzzy: in no training caption",
        ),
        (["--evaluate_every=0"], "from 1 on"),
    ],
)
def test_rows_that_cannot_be_are_refused(demo_data, tmp_path, capsys, extra, message):
    fails(capsys, *call(demo_data, tmp_path, *extra), mentions=message)
    assert not (tmp_path / "models" / "text").exists()
