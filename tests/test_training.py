"""The training loop: determinism, checkpoints and continuation, what it writes, what it refuses."""

import itertools
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from datasets_src.norms import CONCRETENESS_FILE
from datasets_src.pairs import TrainingPairs, load_training_pairs
from main import main
from models_src import training, visual_encoders
from models_src.model_files import load_text_model, load_visual_model, load_vocabulary
from models_src.settings import TrainingSettings
from models_src.training import BEST_BY, RunOptions, best_epoch, random_start_steps, train
from models_src.visual_encoders import VisualEncoder
from tests.conftest import SMALL, TINY, SmallNetwork, dirs, thin_network
from tests.test_cli import fails
from tests.test_coco import refusal_of
from utils.errors import UserError

ROOT = Path(__file__).parent.parent
DEADLINE = 300  # seconds, for a process on a busy machine
pytestmark = pytest.mark.usefixtures("thin")

GROUPED = {"group_captions": True, "flip_images": True, "batch_size": 8}


def without_norm(_name: str, cluster_num: int, _pretrained: bool) -> nn.Module:
    return SmallNetwork(cluster_num, norm=False, dropout=0.0)


def ignore(_):
    return {}


def run(pairs, folder, evaluate=ignore, report=ignore, settings=None, plan=None, **options):
    options = {"name": "m", "models_dir": folder} | options
    chosen = TrainingSettings(**(SMALL | (settings or {})))
    return train(chosen, pairs, RunOptions(**options), evaluate, report, plan)


def command(data: Path, folder: Path, *options: str) -> list[str]:
    return [*TINY, *dirs(data, folder), *options]


def weights(folder, name="m") -> tuple[dict, dict]:
    return tuple(
        torch.load(folder / half / f"{name}.mdl", weights_only=True) for half in ("visual", "text")
    )


def assert_same(left, right) -> None:
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, tuple):
        assert len(left) == len(right)
        for pair in zip(left, right, strict=True):
            assert_same(*pair)
    else:
        assert left == right


def watch_steps(monkeypatch, stop_at=None, error=None) -> list:
    """Return a list that fills with each joint step's arguments, options and result.

    At the start of one step, from 1 on, this process gets a signal, or ``error`` is raised.
    """
    plain, numbers, seen = training.joint_step, itertools.count(1), []

    def watched(*arguments, **options):
        if next(numbers) == stop_at:
            if error is not None:
                raise error
            os.kill(os.getpid(), signal.SIGINT)
        seen.append((arguments, options, plain(*arguments, **options)))
        return seen[-1][2]

    monkeypatch.setattr(training, "joint_step", watched)
    return seen


def test_same_seed_same_model_and_another_seed_another(pairs, tmp_path, thin):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(pairs, tmp_path / name, settings={"seed": seed, "epochs": 1})
    assert_same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    first, other = (weights(tmp_path / name)[0]["conv.weight"] for name in "ac")
    assert not torch.equal(first, other)


def test_images_activate_only_clusters_that_both_encoders_know(pairs, tmp_path, monkeypatch):
    def off(name):  # the clusters that no image activates
        return set((weights(tmp_path, name)[0]["fc.bias"] < -50).nonzero().flatten().tolist())

    run(pairs, tmp_path, settings={"epochs": 4}, name="words")
    probabilities, clusters = load_text_model(tmp_path, "words")[0].word_posteriors().max(dim=1)
    spoken_of = set(clusters[probabilities >= 0.35].tolist())
    assert spoken_of
    assert off("words") == set(range(SMALL["cluster_num"])) - spoken_of
    # training on begins with what was learned
    checkpoint = torch.load(tmp_path / "words.checkpoint", weights_only=True)
    learned, bias = checkpoint["run"]["visual"]["network.fc.bias"], weights(tmp_path, "words")[0]
    assert torch.equal(learned[list(spoken_of)], bias["fc.bias"][list(spoken_of)])
    assert (learned > -50).all()

    unlike = min(spoken_of)
    others = torch.arange(SMALL["cluster_num"]) != unlike
    monkeypatch.setattr(training, "agreeing_clusters", lambda _sums: others)
    run(pairs, tmp_path, settings={"epochs": 4}, name="both")
    assert off("both") == off("words") | {unlike}
    again = training.new_run(TrainingSettings(**SMALL), pairs, "cpu")
    again.load_state_dict(torch.load(tmp_path / "both.checkpoint", weights_only=True)["run"])
    assert torch.equal(again.agreeing, others)  # for the rows before the next epoch ends
    run(pairs, tmp_path, settings={"text_encoder": "generative"}, name="published")
    assert not off("published")


def stopped(pairs, folder, step, error=None, **others):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        watch_steps(patch, step, error)
        run(pairs, folder, **others)


def train_in_process(folder: Path, pairs: TrainingPairs, encoder: str) -> None:
    """Train, or continue, with a checkpoint after each step."""
    torch.set_num_threads(1)
    visual_encoders._torchvision_network = thin_network
    settings = {"text_encoder": encoder, "flip_images": True, "smallest_crop": 0.6, "epochs": 4}
    run(pairs, folder, settings=settings, resume=True, checkpoint_minutes=0)


@pytest.mark.parametrize("encoder", ["lstm", "gru", "generative"])
def test_a_killed_training_ends_as_an_uninterrupted_one(pairs, tmp_path, encoder):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    folders = [tmp_path / "killed", tmp_path / "straight"]
    process = context.Process(target=train_in_process, args=(folders[0], pairs, encoder))
    process.start()
    began = time.monotonic()
    while not (folders[0] / "m.checkpoint").exists() and process.is_alive():
        assert time.monotonic() - began < DEADLINE
        time.sleep(0.001)
    time.sleep(0.05)
    process.kill()
    process.join()
    assert process.exitcode == -9
    for folder in folders:
        process = context.Process(target=train_in_process, args=(folder, pairs, encoder))
        process.start()
        process.join(DEADLINE)
        assert process.exitcode == 0
    assert_same(*map(weights, folders))
    files = [sorted(path.relative_to(place) for path in place.rglob("*")) for place in folders]
    assert files[0] == files[1]


def test_a_run_killed_before_its_last_report_reports_when_it_is_continued(pairs, tmp_path):
    histories = []

    def killed(history):
        if len(history) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(pairs, tmp_path, report=killed)
    run(pairs, tmp_path, report=lambda rows: histories.append(len(rows)), resume=True)
    assert histories == [1, 2]


def test_a_signal_to_the_whole_process_group_saves_and_stops(demo_data, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "main.py", *command(demo_data, tmp_path, "--epochs=40", "--workers=2")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a group of its own, with the workers in it
    )
    began = time.monotonic()
    while not (tmp_path / "model1.checkpoint").exists() and process.poll() is None:
        assert time.monotonic() - began < DEADLINE
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130, output
    assert "stopped; continue with --resume" in output
    assert output.splitlines()[-1] == "interrupted"
    assert "Traceback" not in output
    assert not (tmp_path / "visual" / "model1.mdl").exists()


def test_more_epochs_train_a_finished_model_on(pairs, tmp_path, caplog):
    caplog.set_level("INFO")
    run(pairs, tmp_path / "straight", settings={"epochs": 3})
    run(pairs, tmp_path, settings={"epochs": 1})
    after_one = weights(tmp_path)
    run(pairs, tmp_path, settings={"epochs": 1}, resume=True)
    assert "'m' has had 1 epochs" in caplog.text
    assert_same(after_one, weights(tmp_path))
    run(pairs, tmp_path, settings={"epochs": 3}, resume=True)
    assert_same(weights(tmp_path / "straight"), weights(tmp_path))
    run(pairs, tmp_path, settings={"epochs": 2}, resume=True)
    assert "'m' has had 3 epochs" in caplog.text
    (tmp_path / "m.checkpoint").unlink()
    run(pairs, tmp_path, settings={"epochs": 3}, resume=True)
    assert "'m' is finished: it has had 3 epochs" in caplog.text
    with pytest.raises(UserError, match="no checkpoint to train on from"):
        run(pairs, tmp_path, settings={"epochs": 4}, resume=True)
    stopped(pairs, tmp_path / "unfinished", 8)
    with pytest.raises(UserError, match="has had 1 epochs; give more"):
        run(pairs, tmp_path / "unfinished", settings={"epochs": 1}, resume=True)


def test_what_overwrites_and_is_killed_at_once_continues_anew(pairs, tmp_path):
    settings = {"seed": 1}
    run(pairs, tmp_path / "straight", settings=settings)
    stopped(pairs, tmp_path, 3)  # the run that is to be overwritten
    killed = KeyboardInterrupt()
    stopped(pairs, tmp_path, 1, killed, settings=settings, overwrite=True)
    run(pairs, tmp_path, settings=settings, resume=True)
    assert_same(weights(tmp_path / "straight"), weights(tmp_path))


def test_resume_refuses_other_settings_and_data(demo_data, tmp_path, monkeypatch, capsys):
    data = shutil.copytree(demo_data, tmp_path / "data")
    words = tmp_path / "words.txt"
    words.write_text("dog\ncat\n")
    own = ["--use_all_images", f"--word_list={words}", "--evaluate_every=100"]
    begun = command(data, tmp_path, *own)
    watch_steps(monkeypatch, 2)
    assert main(begun) == 130
    capsys.readouterr()
    fails(capsys, *begun, mentions="unfinished training")
    resume = [*begun, "--resume"]
    other = ["--cluster_num=21", "--seed=3"]
    fails(capsys, *resume, *other, mentions="cluster_num was 20, is 21; seed was 0")
    fails(capsys, *resume, "--evaluate_every=5", mentions="--evaluate_every was 100, is 5")
    fails(capsys, *command(data, tmp_path, *own[1:]), "--resume", mentions="captions was ")
    norms = data / CONCRETENESS_FILE
    for path, changed, what in (
        (norms, norms.read_text().replace("\t4", "\t3", 1), "norms was"),
        (words, "dog\ncat\nhorse\n", "--word_list was"),
    ):
        before = path.read_text()
        path.write_text(changed)
        fails(capsys, *resume, mentions=what)
        path.write_text(before)
    assert main(resume) == 0


def test_resume_needs_no_file_of_pretrained_weights(pairs, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(SmallNetwork(5).state_dict(), file)
    settings = {"pretrained_visual": str(file), "epochs": 1}
    stopped(pairs, tmp_path / "stopped", 3, settings=settings)
    file.unlink()
    run(pairs, tmp_path / "stopped", settings=settings, resume=True)


def test_a_checkpoint_of_another_version_or_lacking_an_entry_is_refused(pairs, tmp_path):
    stopped(pairs, tmp_path, 2)
    path = tmp_path / "m.checkpoint"
    content = torch.load(path, weights_only=True)
    lacking = {key: value for key, value in content["run"].items() if key != "optimizer"}
    for damaged in (content | {"version": 2}, content | {"run": lacking}):
        torch.save(damaged, path)
        assert str(path) in refusal_of(run, pairs, tmp_path, resume=True)


def test_models_are_overwritten_only_when_asked(pairs, tmp_path, capsys):
    run(pairs, tmp_path, evaluate=lambda _: {BEST_BY["f_score"]: 0.5}, best_by="f_score")
    before = weights(tmp_path)
    with pytest.raises(UserError, match="--overwrite"):
        run(pairs, tmp_path, settings={"seed": 1})
    capsys.readouterr()
    absent = command(tmp_path / "absent", tmp_path, "--model_name=m")
    fails(capsys, *absent, mentions="there is a model 'm'")  # before the data is read
    assert_same(before, weights(tmp_path))
    run(pairs, tmp_path / "again")  # the same seed gives the same model
    assert_same(before, weights(tmp_path / "again"))
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        run(pairs, tmp_path, settings={"precision": "fp16"}, overwrite=True)
    assert (tmp_path / "text" / "m_best.mdl").exists()
    run(pairs, tmp_path, settings={"seed": 1}, overwrite=True, best_by="f_score")
    assert not torch.equal(before[0]["conv.weight"], weights(tmp_path)[0]["conv.weight"])
    assert not (tmp_path / "text" / "m_best.mdl").exists()  # without a figure there is no best
    run(pairs, tmp_path, name="n_best")
    for resume in (False, True):
        with pytest.raises(UserError, match="there is a model 'n_best'"):
            run(pairs, tmp_path, name="n", resume=resume)


def test_both_names_are_locked_while_they_are_trained(pairs, tmp_path):
    locks = []
    run(pairs, tmp_path, report=lambda _: locks.extend(tmp_path.glob("*.lock")))
    assert {lock.name for lock in locks} == {"m.lock", "m_best.lock"}
    assert not list(tmp_path.glob("*.lock"))


@pytest.mark.parametrize(
    ("scores", "best"), [((0.1, 0.4, 0.2), 2), ((0.3, 0.3, 0.1), 1), ((0.1, None, 0.3), 3)]
)
def test_best_epoch_is_kept(pairs, tmp_path, scores, best):
    rows = iter(scores)
    evaluate = lambda _: {BEST_BY["f_score"]: next(rows)}  # noqa: E731
    run(pairs, tmp_path, evaluate, settings={"epochs": 3}, best_by="f_score")
    steps = load_text_model(tmp_path, "m")[2].step // 3
    assert load_text_model(tmp_path, "m_best")[2].step == best * steps
    assert load_visual_model(tmp_path, "m_best")[2].step == best * steps
    vocabulary = load_vocabulary(tmp_path, "m_best")
    assert vocabulary.words == pairs.vocabulary.words
    assert np.array_equal(vocabulary.counts, pairs.vocabulary.counts)


@pytest.mark.parametrize(
    ("random_start", "best"),
    [(0, 0), (10, 1), (11, 3), (25, 3), (40, 3)],  # of 4 epochs of 10 steps
)
def test_agreement_of_random_votes_makes_no_best_epoch(pairs, random_start, best):
    found = training.new_run(TrainingSettings(**SMALL), pairs, "cpu")
    found.random_start = random_start
    for value in (0.9, 0.5, 0.1, 0.3):
        found.epoch, found.step = found.epoch + 1, found.step + 10
        found.history.append({"agreement": value, BEST_BY["f_score"]: -value})
    assert best_epoch(found, 4, "agreement") == best
    assert best_epoch(found, 4, "f_score") == 2


def test_a_loss_that_is_not_finite_stops_training(pairs, tmp_path, monkeypatch):
    plain, numbers = training.joint_step, itertools.count(1)

    def spoiled(visual, *arguments, **options):
        result = plain(visual, *arguments, **options)
        if next(numbers) == 3:  # as too large a rate does; the loss shows it one step later
            torch.nn.init.constant_(visual.head.weight, float("nan"))
        return result

    monkeypatch.setattr(training, "joint_step", spoiled)
    with pytest.raises(UserError, match="not finite after 3 steps"):
        run(pairs, tmp_path, checkpoint_minutes=1e-9)
    assert torch.load(tmp_path / "m.checkpoint", weights_only=True)["run"]["step"] == 2


def damaged_copy(demo_data, folder, count):
    """Copy the demo data; truncate and remove images in turn; return its pairs and those files."""
    shutil.copytree(demo_data, folder)
    pairs = load_training_pairs(folder, use_all_images=False)
    bad = [pairs.split.path(image) for image in np.unique(pairs.split.caption_image)[:count]]
    for path in bad[::2]:
        path.write_bytes(path.read_bytes()[:300])
    for path in bad[1::2]:
        path.unlink()
    return pairs, bad


def test_bad_images_are_left_out_and_an_interrupted_run_ends_bit_identical(
    demo_data, tmp_path, monkeypatch, caplog
):
    pairs, bad = damaged_copy(demo_data, tmp_path / "data", 2)
    histories, steps = {"straight": [], "stopped": []}, watch_steps(monkeypatch)

    def options(name):
        report = lambda history: histories[name].append([dict(row) for row in history])  # noqa: E731
        return {"report": report, "settings": GROUPED}

    run(pairs, tmp_path / "straight", **options("straight"), workers=1)
    good_pairs = (pairs.split.caption_image >= 2).sum()
    assert sum(len(arguments[5]) for arguments, _, _ in steps) == 2 * good_pairs
    named = [line for line in caplog.messages if line.startswith("left out of training: ")]
    assert len(named) == 2
    assert all(any(str(path) in line for line in named) for path in bad)
    assert f"2 of {len(pairs.split.image_ids)} images were left out" in caplog.text

    caplog.clear()
    stopped(pairs, tmp_path / "stopped", len(steps) // 2 + 2, **options("stopped"))
    assert not (tmp_path / "stopped" / "visual" / "m.mdl").exists()
    run(pairs, tmp_path / "stopped", **options("stopped"), resume=True)
    assert_same(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))
    assert histories["straight"] == histories["stopped"]
    assert caplog.text.count("left out of training") == 2  # before and after, all in all


def test_too_many_bad_images_stop_training_in_one_line(demo_data, tmp_path):
    data, _ = damaged_copy(demo_data, tmp_path / "data", 4)
    total = len(data.split.image_ids)
    refused = refusal_of(run, data, tmp_path / "models")
    assert refused.startswith(f"4 of {total} images cannot be read")
    assert not (tmp_path / "models" / "visual" / "m.mdl").exists()


def test_a_batch_of_which_one_image_is_left_is_passed_over(demo_data, tmp_path):
    data, _ = damaged_copy(demo_data, tmp_path / "data", 3)
    settings = {"batch_size": 2, "epochs": 1, "group_captions": True}
    run(data, tmp_path / "models", settings=settings)
    captioned = len(set(data.split.caption_image.tolist()))
    assert load_text_model(tmp_path / "models", "m")[2].step == captioned // 2


@pytest.mark.parametrize(
    ("encoder", "chosen", "expected"),
    [("lstm", None, 10), ("generative", None, 0), ("generative", 7, 7), ("lstm", 1000, 30)],
)
def test_random_start(encoder, chosen, expected):
    settings = TrainingSettings(text_encoder=encoder, random_start_steps=chosen)
    assert random_start_steps(settings, 30) == expected


@pytest.mark.parametrize("chosen", [4, 10_000])  # the second is more than the run has
def test_votes_are_random_at_first_and_rows_are_means(pairs, tmp_path, monkeypatch, chosen):
    rows = []
    steps = watch_steps(monkeypatch)
    run(pairs, tmp_path, report=rows.append, settings={"random_start_steps": chosen})
    seen = [(options["random_votes"], options["teach_text"]) for _, options, _ in steps]
    learns_from = math.ceil(0.67 * min(chosen, len(seen)))
    assert seen == [(step < chosen, step >= learns_from) for step in range(len(seen))]
    assert learns_from < len(seen)
    for row, epoch in zip(rows[-1], np.array_split(np.arange(len(steps)), 2), strict=True):
        results = [steps[step][2] for step in epoch]
        sizes = [len(result.image_bits) for result in results]
        losses = [result.visual_loss.item() for result in results]
        assert row["visual_loss"] == pytest.approx(np.average(losses, weights=sizes), rel=1e-5)
        active = sum(result.image_bits.sum().item() for result in results)
        assert row["clusters_per_image"] == pytest.approx(active / len(pairs))


def test_grouped_captions_come_once_an_epoch_and_images_flip(pairs, tmp_path, monkeypatch):
    steps = {}
    for flip in (False, True):
        seen = watch_steps(monkeypatch)
        settings = GROUPED | {"epochs": 1, "flip_images": flip}
        run(pairs, tmp_path / str(flip), settings=settings)
        steps[flip] = [arguments[3:6] for arguments, _, _ in seen]
    captioned = len(set(pairs.split.caption_image.tolist()))
    assert sum(len(images) for images, _, _ in steps[True]) == captioned
    assert sum(len(tokens) for _, _, tokens in steps[True]) == len(pairs)
    mirrored = []
    for (images, _, _), (flipped, _, _) in zip(steps[False], steps[True], strict=True):
        for image, other in zip(images, flipped, strict=True):
            mirrored.append(not torch.equal(image, other))
            assert torch.equal(other, image.flip(-1) if mirrored[-1] else image)
    assert 0.2 < np.mean(mirrored) < 0.8


@pytest.mark.parametrize("images", [7, 3])
def test_gradients_and_statistics_are_those_of_parts_that_are_all_held(images):
    """What is computed again uses the same chance, and moves no running statistics again."""
    torch.manual_seed(0)
    encoder = VisualEncoder("resnet18", 4, parts=3)
    twin = VisualEncoder("resnet18", 4)
    twin.load_state_dict(encoder.state_dict())
    pixels, weight = torch.rand(images, 3, 16, 16), torch.rand(images, 4)
    torch.manual_seed(5)
    logits = encoder(pixels)
    (logits * weight).sum().backward()
    torch.manual_seed(5)
    expected = torch.cat([twin.network(part) for part in pixels.tensor_split(min(3, images // 2))])
    (expected * weight).sum().backward()
    assert torch.equal(logits, expected)
    assert_same(dict(encoder.state_dict()), dict(twin.state_dict()))
    for own, other in zip(encoder.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-5, atol=1e-7)


def test_training_in_parts_learns_what_whole_batches_do(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(visual_encoders, "_torchvision_network", without_norm)
    for parts in (1, 3):
        settings = {"accumulate": parts, "text_encoder": "generative", "epochs": 1}
        run(pairs, tmp_path / str(parts), settings=settings)
    (whole, counts), (parts, counts_of_parts) = (weights(tmp_path / name) for name in "13")
    assert_same(counts, counts_of_parts)
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("batch_size", "warns"), [(8, False), (2, True)])
def test_a_starving_training_warns_once(pairs, tmp_path, caplog, batch_size, warns):
    """Six steps of many pairs say nothing yet, whatever the pairs are."""
    caplog.set_level("INFO")
    settings = GROUPED | {"visual_threshold": 50.0, "batch_size": batch_size, "epochs": 4}
    run(pairs, tmp_path, settings=settings)
    assert caplog.text.count("starving: 100% of the images") == warns
    lines = [line for line in caplog.messages if "alive" in line]
    assert lines
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("half", ["text", "visual"])
def test_weights_of_another_training_are_refused(pairs, tmp_path, half):
    run(pairs, tmp_path)
    run(pairs, tmp_path, settings={"seed": 1}, name="n")
    shutil.copy(tmp_path / half / "n.mdl", tmp_path / half / "m.mdl")
    load = {"text": load_text_model, "visual": load_visual_model}[half]
    with pytest.raises(UserError, match=r"m\.mdl is not"):
        load(tmp_path, "m")


FAILING = """
import sys
import torch
from models_src import training
from main import main

def fail(*_, **__):
    raise {error}

training.joint_step = fail
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        ("torch.OutOfMemoryError('no memory')", 2, "error: no memory; give a smaller --batch_size"),
        ("ZeroDivisionError('a mistake of ours')", 1, "ZeroDivisionError: a mistake of ours"),
    ],
)
def test_an_unexpected_error_ends_the_workers(demo_data, tmp_path, error, status, told):
    options = command(demo_data, tmp_path, "--workers=2", "--batch_size=4")
    ended = subprocess.run(
        [sys.executable, "-c", FAILING.format(error=error), *options],
        cwd=ROOT,
        timeout=DEADLINE,  # it used to wait for its workers for ever
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == status
    assert told in ended.stderr
    assert ("Traceback" in ended.stderr) == (status == 1)


@pytest.mark.parametrize("extra", [["--accumulate=3", "--evaluate_every=2"], ["--compile"]])
def test_options_that_meet(demo_data, tmp_path, extra, monkeypatch):
    plain = SmallNetwork.compile
    monkeypatch.setattr(SmallNetwork, "compile", lambda network: plain(network, backend="eager"))
    monkeypatch.setattr(training, "require_compiler", lambda _device: None)
    options = ["--visual_threshold=-1", "--epochs=1", "--evaluate_every=5", "--evaluate_images=8"]
    assert main([*command(demo_data, tmp_path, *options), *extra]) == 0
    assert "class_name_classification.f1" in (tmp_path / "model1" / "development.csv").read_text()
