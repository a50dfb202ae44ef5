"""The training loop: determinism, checkpoints and continuation, what it writes, what it refuses."""

import logging
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
from torchvision import models

from datasets_src.norms import CONCRETENESS_FILE
from datasets_src.pairs import TrainingPairs, load_training_pairs
from main import main
from models_src import training, visual_encoders
from models_src.model_files import load_text_model, load_visual_model, load_vocabulary
from models_src.settings import TrainingSettings
from models_src.training import BEST_BY, RunOptions, best_epoch, random_start_steps, train
from models_src.visual_encoders import VisualEncoder
from tests.conftest import TINY
from tests.test_cli import fails
from utils.errors import UserError

ROOT = Path(__file__).parent.parent
DEADLINE = 300  # seconds, for a process on a busy machine
ENCODERS = ["lstm", "gru", "generative", "discriminative"]
SMALL = {
    "visual_encoder": "resnet18",
    "image_size": 32,
    "cluster_num": 10,
    "batch_size": 40,
    "epochs": 2,
    "embedding_dim": 8,
    "hidden_dim": 8,
    "random_start_steps": 4,
}


class SmallNetwork(nn.Module):
    """A CNN with what makes parts of a batch differ from a whole, or repetitions from the first."""

    def __init__(self, cluster_num: int, norm: bool = True, dropout: float = 0.2):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(16) if norm else nn.Identity()
        self.second = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(16, cluster_num)

    def forward(self, images):
        features = torch.relu(self.second(torch.relu(self.norm(self.conv(images)))))
        return self.fc(self.dropout(self.avgpool(features).flatten(1)))


def without_norm(_name: str, cluster_num: int, _pretrained: bool) -> nn.Module:
    return SmallNetwork(cluster_num, norm=False, dropout=0.0)


def with_norm(_name: str, cluster_num: int, _pretrained: bool) -> nn.Module:
    return SmallNetwork(cluster_num)


thin_network = with_norm


@pytest.fixture
def thin(monkeypatch) -> None:
    """Train a thin network in place of torchvision's."""
    monkeypatch.setattr(visual_encoders, "_torchvision_network", thin_network)


@pytest.fixture(scope="module")
def pairs(demo_data: Path) -> TrainingPairs:
    return load_training_pairs(demo_data, use_all_images=False)


def no_metrics(_text) -> dict:
    return {}


def no_report(_history) -> None:
    return None


def run(pairs, folder, evaluate=no_metrics, report=no_report, settings=None, **options):
    options = {"name": "m", "models_dir": folder} | options
    chosen = TrainingSettings(**(SMALL | (settings or {})))
    return train(chosen, pairs, RunOptions(**options), evaluate, report)


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


class StopAt:
    """Sends this process a signal, or raises an error, at the start of a certain joint step."""

    def __init__(self, monkeypatch, step, error=None):
        self.left = step
        plain = training.joint_step

        def counted(*arguments, **options):
            self.left -= 1
            if self.left == 0:
                if error is not None:
                    raise error
                os.kill(os.getpid(), signal.SIGINT)
            return plain(*arguments, **options)

        monkeypatch.setattr(training, "joint_step", counted)


def stopped(pairs, folder, monkeypatch, step, **others):
    with monkeypatch.context() as patch:
        StopAt(patch, step)
        with pytest.raises(KeyboardInterrupt):
            run(pairs, folder, **others)


def test_same_seed_same_model_and_another_seed_another(pairs, tmp_path, thin):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(pairs, tmp_path / name, settings={"seed": seed, "epochs": 1})
    assert_same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    first, other = (weights(tmp_path / name)[0]["conv.weight"] for name in "ac")
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize(
    ("step", "others"),
    [(2, {}), (7, {"group_captions": True, "flip_images": True, "batch_size": 8})],
)
def test_an_interrupted_run_ends_bit_identical(
    pairs, tmp_path, monkeypatch, thin, kind, step, others
):
    settings = {"text_encoder": kind} | others
    histories = {"straight": [], "stopped": []}

    def keep(name):
        return lambda history: histories[name].append([dict(row) for row in history])

    run(pairs, tmp_path / "straight", report=keep("straight"), settings=settings)
    options = {"report": keep("stopped"), "settings": settings}
    stopped(pairs, tmp_path / "stopped", monkeypatch, step, **options)
    assert not (tmp_path / "stopped" / "visual" / "m.mdl").exists()
    run(pairs, tmp_path / "stopped", **options, resume=True)
    assert_same(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))
    assert histories["straight"] == histories["stopped"]


def train_in_process(folder: Path, pairs: TrainingPairs, encoder: str) -> None:
    """Train, or continue, with a checkpoint after each step."""
    torch.set_num_threads(1)
    visual_encoders._torchvision_network = thin_network
    settings = {"text_encoder": encoder, "flip_images": True, "smallest_crop": 0.6, "epochs": 4}
    run(pairs, folder, settings=settings, resume=True, checkpoint_minutes=0)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_killed_and_continued_training_ends_as_an_uninterrupted_one(
    pairs, tmp_path, thin, encoder
):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    folder = tmp_path / "killed"
    checkpoint = folder / "m.checkpoint"
    process = context.Process(target=train_in_process, args=(folder, pairs, encoder))
    process.start()
    began = time.monotonic()
    while not checkpoint.exists() and process.is_alive():
        assert time.monotonic() - began < DEADLINE
        time.sleep(0.001)
    time.sleep(0.05)
    process.kill()
    process.join()
    assert process.exitcode == -9
    for place in (folder, tmp_path / "straight"):
        process = context.Process(target=train_in_process, args=(place, pairs, encoder))
        process.start()
        process.join(DEADLINE)
        assert process.exitcode == 0
    assert_same(weights(tmp_path / "straight"), weights(folder))
    files = [
        sorted(str(path.relative_to(place)) for path in place.rglob("*"))
        for place in (folder, tmp_path / "straight")
    ]
    assert files[0] == files[1]


def test_a_run_killed_before_its_last_report_reports_when_it_is_continued(pairs, tmp_path, thin):
    histories = []

    def killed(history):
        if len(history) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(pairs, tmp_path, report=killed)
    run(pairs, tmp_path, report=lambda rows: histories.append(len(rows)), resume=True)
    assert histories == [1, 2]


def test_a_signal_while_it_measures_ends_training_before_the_next_epoch(
    pairs, tmp_path, thin, caplog
):
    caplog.set_level("INFO")

    def signalled(_text):
        os.kill(os.getpid(), signal.SIGUSR1)
        return {}

    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(KeyboardInterrupt):
        run(pairs, tmp_path, evaluate=signalled)
    assert torch.load(tmp_path / "m.checkpoint", weights_only=True)["run"]["epoch"] == 1
    assert "stopped; continue with --resume" in caplog.text
    assert signal.getsignal(signal.SIGUSR1) is before


def test_more_epochs_train_a_finished_model_on(pairs, tmp_path, thin, caplog):
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


def test_an_unfinished_run_cannot_be_given_fewer_epochs_than_it_had(
    pairs, tmp_path, thin, monkeypatch
):
    stopped(pairs, tmp_path, monkeypatch, 8)
    with pytest.raises(UserError, match="has had 1 epochs; give more"):
        run(pairs, tmp_path, settings={"epochs": 1}, resume=True)


def test_what_overwrites_and_is_killed_at_once_continues_anew(pairs, tmp_path, thin, monkeypatch):
    run(pairs, tmp_path / "straight", settings={"seed": 1})
    stopped(pairs, tmp_path, monkeypatch, 3)  # the run that is to be overwritten
    with monkeypatch.context() as patch:
        StopAt(patch, 1, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run(pairs, tmp_path, settings={"seed": 1}, overwrite=True)
    run(pairs, tmp_path, settings={"seed": 1}, resume=True)
    assert_same(weights(tmp_path / "straight"), weights(tmp_path))


def test_resume_refuses_other_settings_and_other_data(
    pairs, demo_data, tmp_path, thin, monkeypatch
):
    stopped(pairs, tmp_path, monkeypatch, 1, identity={"norms": "x"})
    for settings, identity, told in (
        ({"cluster_num": 20, "seed": 3}, {"norms": "x"}, "cluster_num was 10, is 20; seed was 0"),
        ({}, {"norms": "y"}, "norms was x, is y"),
    ):
        with pytest.raises(UserError, match=told):
            run(pairs, tmp_path, settings=settings, identity=identity, resume=True)
    unfiltered = load_training_pairs(demo_data, use_all_images=True)
    with pytest.raises(UserError, match="captions was "):
        run(unfiltered, tmp_path, identity={"norms": "x"}, resume=True)
    with pytest.raises(UserError, match="unfinished training"):
        run(pairs, tmp_path)


@pytest.fixture
def own_data(demo_data, tmp_path) -> Path:
    """A copy of the demo data, to be changed."""
    return shutil.copytree(demo_data, tmp_path / "data")


def test_resume_of_other_norms_or_words_is_refused(own_data, tmp_path, thin, monkeypatch, capsys):
    words = tmp_path / "words.txt"
    words.write_text("dog\ncat\n")
    begun = [
        *TINY, f"--datasets_dir={own_data}", f"--models_dir={tmp_path}",
        f"--results_dir={tmp_path}", "--use_all_images", f"--word_list={words}",
        "--evaluate_every=100", "--evaluate_images=4",
    ]  # fmt: skip
    with monkeypatch.context() as patch:
        StopAt(patch, 2)
        assert main(begun) == 130
    capsys.readouterr()
    norms = own_data / CONCRETENESS_FILE
    for path, changed, what in (
        (norms, norms.read_text().replace("\t4", "\t3", 1), "norms was"),
        (words, "dog\ncat\nhorse\n", "--word_list was"),
    ):
        before = path.read_text()
        path.write_text(changed)
        fails(capsys, *begun, "--resume", mentions=what)
        path.write_text(before)
    fails(capsys, *begun, "--resume", "--evaluate_every=5", mentions="--evaluate_every was 100, is")
    assert main([*begun, "--resume"]) == 0


def test_resume_needs_no_file_of_pretrained_weights(pairs, tmp_path, monkeypatch):
    file = tmp_path / "weights.pth"
    torch.save(models.resnet18(weights=None).state_dict(), file)
    settings = {"pretrained_visual": str(file), "epochs": 1}
    stopped(pairs, tmp_path / "stopped", monkeypatch, 3, settings=settings)
    file.unlink()
    run(pairs, tmp_path / "stopped", settings=settings, resume=True)


@pytest.mark.parametrize("damage", ["text", "cut", "version", "entry", "content"])
def test_a_damaged_checkpoint_is_refused_in_one_line(pairs, tmp_path, thin, monkeypatch, damage):
    stopped(pairs, tmp_path, monkeypatch, 2)
    path = tmp_path / "m.checkpoint"
    content = torch.load(path, weights_only=True)
    if damage == "text":
        path.write_bytes(b"PK\x03\x04 damaged")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "version":
        torch.save(content | {"version": 2}, path)
    elif damage == "entry":
        del content["run"]["optimizer"]
        torch.save(content, path)
    else:
        content["run"]["visual"] = [1]
        torch.save(content, path)
    with pytest.raises(UserError, match=r"m\.checkpoint") as error:
        run(pairs, tmp_path, resume=True)
    assert "\n" not in str(error.value)


def test_a_model_in_the_way_is_told_before_the_data_is_read(trained, tmp_path, capsys):
    places = [f"--models_dir={trained / 'models'}", f"--results_dir={tmp_path}"]
    absent = f"--datasets_dir={tmp_path / 'absent'}"
    fails(capsys, *TINY, *places, absent, "--model_name=lstm", mentions="there is a model 'lstm'")


def test_models_are_overwritten_only_when_asked(pairs, tmp_path, thin):
    run(pairs, tmp_path, evaluate=lambda _: {BEST_BY["f_score"]: 0.5}, best_by="f_score")
    before = weights(tmp_path)
    with pytest.raises(UserError, match="--overwrite"):
        run(pairs, tmp_path, settings={"seed": 1})
    assert_same(before, weights(tmp_path))
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


HOLD = """
import sys, time
from pathlib import Path
from utils.files import only_process
with only_process(Path(sys.argv[1]), "it"):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_name_that_another_process_trains_is_refused_until_it_is_killed(pairs, tmp_path, thin):
    lock = tmp_path / "m_best.lock"
    command = [sys.executable, "-c", HOLD, str(lock)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(UserError, match="'m_best' is under way in another process"):
            run(pairs, tmp_path, overwrite=True)
    finally:
        holder.kill()
        holder.communicate()
    run(pairs, tmp_path, settings={"epochs": 1})


@pytest.mark.parametrize(
    ("scores", "best"), [((0.1, 0.4, 0.2), 2), ((0.3, 0.3, 0.1), 1), ((0.1, None, 0.3), 3)]
)
def test_best_epoch_is_kept(pairs, tmp_path, thin, scores, best):
    left = list(scores)
    run(
        pairs,
        tmp_path,
        evaluate=lambda _: {BEST_BY["f_score"]: left.pop(0)},
        settings={"epochs": 3},
        best_by="f_score",
    )
    steps = load_text_model(tmp_path, "m")[2].step // 3
    assert load_text_model(tmp_path, "m_best")[2].step == best * steps
    assert load_visual_model(tmp_path, "m_best")[2].step == best * steps


@pytest.mark.parametrize(
    ("random_start", "best"),
    [(0, 0), (10, 1), (11, 3), (25, 3), (40, 3)],  # of 4 epochs of 10 steps
)
def test_agreement_of_random_votes_makes_no_best_epoch(pairs, thin, random_start, best):
    found = training.new_run(TrainingSettings(**SMALL), pairs, "cpu")
    found.random_start = random_start
    for value in (0.9, 0.5, 0.1, 0.3):
        found.epoch, found.step = found.epoch + 1, found.step + 10
        found.history.append({"agreement": value, BEST_BY["f_score"]: -value})
    assert best_epoch(found, 4, "agreement") == best
    assert best_epoch(found, 4, "f_score") == 2


def test_a_loss_that_is_not_finite_stops_training_and_the_last_checkpoint_stays(
    pairs, tmp_path, thin, monkeypatch
):
    plain, steps = training.joint_step, []

    def spoiled(visual, *arguments, **options):
        result = plain(visual, *arguments, **options)
        steps.append(1)
        if len(steps) == 3:  # as too large a rate does; the loss shows it one step later
            with torch.no_grad():
                visual.head.weight[0, 0] = float("nan")
        return result

    monkeypatch.setattr(training, "joint_step", spoiled)
    with pytest.raises(UserError, match="not finite after 3 steps"):
        run(pairs, tmp_path, checkpoint_minutes=1e-9)
    assert torch.load(tmp_path / "m.checkpoint", weights_only=True)["run"]["step"] == 2


def test_a_model_tells_its_vocabulary_with_counts(pairs, tmp_path, thin):
    run(pairs, tmp_path, settings={"epochs": 1})
    vocabulary = load_vocabulary(tmp_path, "m")
    assert vocabulary.words == pairs.vocabulary.words
    assert np.array_equal(vocabulary.counts, pairs.vocabulary.counts)


def damaged_copy(demo_data, folder, damage):
    """Copy the demo data, with training images damaged; returns its pairs and the bad files.

    ``damage`` is how many images, by kind of damage, in the order of ``pairs``.
    """
    shutil.copytree(demo_data, folder)
    pairs = load_training_pairs(folder, use_all_images=False)
    kinds = [kind for kind, count in damage.items() for _ in range(count)]
    images = np.unique(pairs.split.caption_image)[: len(kinds)]
    bad = [pairs.split.path(image) for image in images]
    for kind, path in zip(kinds, bad, strict=True):
        if kind == "missing":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:300])
    return pairs, bad


def test_a_few_bad_images_are_named_once_and_left_out(
    demo_data, tmp_path, thin, monkeypatch, caplog
):
    pairs, bad = damaged_copy(demo_data, tmp_path / "data", {"truncated": 1, "missing": 1})
    plain, seen = training.joint_step, []

    def counted(*arguments, **options):
        seen.append(len(arguments[5]))
        return plain(*arguments, **options)

    settings = {"batch_size": 8, "flip_images": True, "group_captions": True}
    with monkeypatch.context() as patch:
        patch.setattr(training, "joint_step", counted)
        run(pairs, tmp_path / "straight", settings=settings, workers=1)
    good_pairs = (pairs.split.caption_image >= 2).sum()
    assert sum(seen) == 2 * good_pairs
    named = [line for line in caplog.messages if line.startswith("left out of training: ")]
    assert len(named) == 2
    assert all(any(str(path) in line for line in named) for path in bad)
    assert f"2 of {len(pairs.split.image_ids)} images were left out" in caplog.text

    caplog.clear()
    stopped(pairs, tmp_path / "stopped", monkeypatch, len(seen) // 2 + 2, settings=settings)
    run(pairs, tmp_path / "stopped", settings=settings, resume=True)
    assert_same(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))
    assert caplog.text.count("left out of training") == 2  # before and after, all in all


def test_too_many_bad_images_stop_training_in_one_line(demo_data, tmp_path, thin):
    data, _ = damaged_copy(demo_data, tmp_path / "data", {"truncated": 2, "missing": 2})
    total = len(data.split.image_ids)
    with pytest.raises(UserError, match=rf"^4 of {total} images cannot be read") as error:
        run(data, tmp_path / "models")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "models" / "visual" / "m.mdl").exists()


def test_a_batch_of_which_one_image_is_left_is_passed_over(demo_data, tmp_path, thin):
    data, _ = damaged_copy(demo_data, tmp_path / "data", {"missing": 3})
    settings = {"batch_size": 2, "epochs": 1, "group_captions": True}
    run(data, tmp_path / "models", settings=settings)
    captioned = len(set(data.split.caption_image.tolist()))
    assert load_text_model(tmp_path / "models", "m")[2].step == captioned // 2


@pytest.mark.parametrize(
    ("encoder", "chosen", "steps", "expected"),
    [
        ("lstm", None, 30, 15),
        ("generative", None, 30, 0),
        ("generative", 7, 30, 7),
        ("lstm", 0, 30, 0),
        ("lstm", 1000, 30, 30),
    ],
)
def test_random_start(encoder, chosen, steps, expected):
    settings = TrainingSettings(text_encoder=encoder, random_start_steps=chosen)
    assert random_start_steps(settings, steps) == expected


@pytest.mark.parametrize("chosen", [4, 10_000])  # the second is more than the run has
def test_votes_are_random_at_the_start_only(pairs, tmp_path, thin, monkeypatch, chosen):
    plain, seen = training.joint_step, []

    def recorded(*arguments, **options):
        seen.append((options["random_votes"], options["teach_text"]))
        return plain(*arguments, **options)

    monkeypatch.setattr(training, "joint_step", recorded)
    run(pairs, tmp_path, settings={"random_start_steps": chosen})
    learns_from = min(chosen, len(seen)) // 2
    assert seen == [(step < chosen, step >= learns_from) for step in range(len(seen))]
    assert learns_from < len(seen)


def test_grouped_captions_are_trained_once_an_epoch_and_images_flipped_at_random(
    pairs, tmp_path, thin, monkeypatch
):
    plain, seen = training.joint_step, {}

    for flip in (False, True):

        def recorded(*arguments, flip=flip, **options):
            seen.setdefault(flip, []).append(arguments[3:6])
            return plain(*arguments, **options)

        monkeypatch.setattr(training, "joint_step", recorded)
        settings = {"group_captions": True, "batch_size": 8, "epochs": 1, "flip_images": flip}
        run(pairs, tmp_path / str(flip), settings=settings)
    captioned = len(set(pairs.split.caption_image.tolist()))
    assert sum(len(images) for images, _, _ in seen[True]) == captioned
    assert sum(len(tokens) for _, _, tokens in seen[True]) == len(pairs)
    mirrored = []
    for (images, _, _), (flipped, _, _) in zip(seen[False], seen[True], strict=True):
        for image, other in zip(images, flipped, strict=True):
            mirrored.append(not torch.equal(image, other))
            assert torch.equal(other, image.flip(-1) if mirrored[-1] else image)
    assert 0.2 < np.mean(mirrored) < 0.8


def test_rows_of_an_epoch_are_means_over_its_pairs(pairs, tmp_path, thin, monkeypatch):
    plain, results, rows = training.joint_step, [], []

    def kept(*arguments, **options):
        results.append(plain(*arguments, **options))
        return results[-1]

    monkeypatch.setattr(training, "joint_step", kept)
    run(pairs, tmp_path, report=lambda history: rows.append(history[-1]), settings={"epochs": 1})
    sizes = [len(result.image_bits) for result in results]
    losses = [result.visual_loss.item() for result in results]
    image_bits = torch.cat([result.image_bits for result in results])
    caption_bits = torch.cat([result.caption_bits for result in results])
    expected = {
        "visual_loss": np.average(losses, weights=sizes),
        "clusters_per_image": image_bits.sum().item() / len(pairs),
        "captions_without_cluster": (caption_bits.sum(1) == 0).double().mean().item(),
    }
    for name, value in expected.items():
        assert rows[0][name] == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize("images", [7, 3])
def test_gradients_and_statistics_are_those_of_parts_that_are_all_held(thin, images):
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


def warnings_in(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize(("batch_size", "warns"), [(8, False), (2, True)])
def test_a_starving_training_warns_once_when_it_has_had_enough_steps(
    pairs, tmp_path, thin, caplog, batch_size, warns
):
    """Six steps of many pairs say nothing yet, whatever the pairs are."""
    caplog.set_level(logging.INFO)
    settings = {"visual_threshold": 50.0, "group_captions": True, "batch_size": batch_size}
    run(pairs, tmp_path, settings=settings | {"epochs": 4})
    found = [line for line in warnings_in(caplog) if "starving: 100% of the images" in line]
    assert len(found) == warns
    lines = [line for line in caplog.messages if "alive" in line]
    assert lines
    assert max(map(len, lines)) <= 120


def test_the_log_shows_settings_in_short_and_the_model_keeps_all_digits(
    demo_data, tmp_path, thin, caplog
):
    caplog.set_level(logging.INFO)
    places = [
        f"--datasets_dir={demo_data}",
        f"--models_dir={tmp_path}",
        f"--results_dir={tmp_path}",
    ]
    assert main([*TINY, *places, "--epochs=1", "--text_threshold=0.01648721270700128"]) == 0
    assert "text_threshold 0.01649, " in caplog.text
    assert "0.01648721270700128" in (tmp_path / "text" / "model1.cfg").read_text()


@pytest.mark.parametrize("half", ["text", "visual"])
def test_weights_of_another_training_are_refused(pairs, tmp_path, thin, half):
    run(pairs, tmp_path)
    run(pairs, tmp_path, settings={"seed": 1}, name="n")
    shutil.copy(tmp_path / half / "n.mdl", tmp_path / half / "m.mdl")
    load = {"text": load_text_model, "visual": load_visual_model}[half]
    with pytest.raises(UserError, match=r"m\.mdl is not"):
        load(tmp_path, "m")


def test_a_signal_to_the_whole_process_group_saves_and_stops(demo_data, tmp_path):
    models_dir = tmp_path / "models"
    options = [
        *TINY, "--epochs=40", f"--datasets_dir={demo_data}", f"--models_dir={models_dir}",
        f"--results_dir={tmp_path}",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "main.py", *options, "--workers=2"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a group of its own, with the workers in it
    )
    began = time.monotonic()
    while not (models_dir / "model1.checkpoint").exists() and process.poll() is None:
        assert time.monotonic() - began < DEADLINE
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130, output
    assert "stopped; continue with --resume" in output
    assert output.splitlines()[-1] == "interrupted"
    assert "Traceback" not in output
    assert not (models_dir / "visual" / "model1.mdl").exists()


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
def test_an_unexpected_error_ends_the_process_and_its_workers(
    demo_data, tmp_path, error, status, told
):
    ended = subprocess.run(
        [
            sys.executable, "-c", FAILING.format(error=error), *TINY, "--workers=2",
            "--batch_size=4", f"--datasets_dir={demo_data}", f"--models_dir={tmp_path / 'models'}",
            f"--results_dir={tmp_path}",
        ],
        cwd=ROOT,
        timeout=DEADLINE,  # it used to wait for its workers for ever
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert ended.returncode == status
    assert told in ended.stderr
    assert ("Traceback" in ended.stderr) == (status == 1)


OPTION_PAIRS = [
    ["--accumulate=3", "--evaluate_every=2", "--evaluate_images=8"],
    ["--compile", "--evaluate_every=5", "--evaluate_images=8"],
]


@pytest.mark.parametrize("extra", OPTION_PAIRS, ids=lambda extra: extra[0])
def test_options_that_meet(demo_data, tmp_path, thin, extra, monkeypatch):
    plain = SmallNetwork.compile
    monkeypatch.setattr(SmallNetwork, "compile", lambda network: plain(network, backend="eager"))
    monkeypatch.setattr(training, "require_compiler", lambda _device: None)
    places = [
        f"--datasets_dir={demo_data}",
        f"--models_dir={tmp_path}",
        f"--results_dir={tmp_path}",
    ]
    assert main([*TINY, *places, "--visual_threshold=-1", "--epochs=1", *extra]) == 0
    assert "class_name_classification.f1" in (tmp_path / "model1" / "development.csv").read_text()
