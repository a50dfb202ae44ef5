"""The training loop: determinism, checkpoints and continuation, what it writes, what it refuses."""

import contextlib
import csv
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import models

from datasets_src.norms import CONCRETENESS_FILE
from datasets_src.pairs import TrainingPairs, load_training_pairs, pair_batches
from main import main
from models_src import training, training_run
from models_src.model_files import (
    load_text_model,
    load_visual_model,
    load_vocabulary,
    require_same_origin,
)
from models_src.settings import TrainingSettings
from models_src.text_encoders import build_text_encoder
from models_src.training import train
from models_src.training_run import RunOptions
from tests.conftest import TINY
from tests.test_cli import fails
from utils.errors import UserError

ROOT = Path(__file__).parent.parent
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


@pytest.fixture(scope="module")
def pairs(demo_data: Path) -> TrainingPairs:
    return load_training_pairs(demo_data, use_all_images=False)


def no_metrics(_text) -> dict:
    return {}


def no_report(_history) -> None:
    return None


def run(pairs, folder, evaluate=no_metrics, report=no_report, settings=None, **options):
    options = {"name": "m", "models_dir": folder} | options
    train(TrainingSettings(**(SMALL | (settings or {}))), pairs, RunOptions(**options), evaluate,
          report)  # fmt: skip


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
    """Sends this process SIGINT, as Ctrl-C does, at the start of a certain joint step."""

    def __init__(self, monkeypatch, step):
        self.left = step
        plain = training.joint_step

        def counted(*arguments, **options):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)
            return plain(*arguments, **options)

        monkeypatch.setattr(training, "joint_step", counted)


@pytest.mark.parametrize("kind", ["lstm", "generative"])
def test_same_seed_same_model_and_another_seed_another(pairs, tmp_path, kind):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(pairs, tmp_path / name, settings={"text_encoder": kind, "seed": seed, "epochs": 1})
    assert_same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not torch.equal(
        weights(tmp_path / "a")[0]["conv1.weight"], weights(tmp_path / "c")[0]["conv1.weight"]
    )


@pytest.mark.parametrize(
    ("kind", "step", "others"),
    [
        ("lstm", 2, {}),
        ("lstm", 7, {}),
        ("generative", 5, {}),
        ("gru", 6, {"visual_encoder": "googlenet"}),  # which has dropout
        ("lstm", 7, {"group_captions": True, "flip_images": True, "batch_size": 8}),
    ],
)
def test_an_interrupted_run_ends_bit_identical(pairs, tmp_path, monkeypatch, kind, step, others):
    histories = {"straight": [], "resumed": []}
    settings = {"text_encoder": kind} | others

    def keep(name):
        return lambda history: histories[name].append([dict(row) for row in history])

    run(pairs, tmp_path / "straight", report=keep("straight"), settings=settings)
    StopAt(monkeypatch, step)
    with pytest.raises(KeyboardInterrupt):
        run(pairs, tmp_path / "stopped", report=keep("resumed"), settings=settings)
    assert not (tmp_path / "stopped" / "visual" / "m.mdl").exists()
    run(pairs, tmp_path / "stopped", report=keep("resumed"), settings=settings, resume=True)
    assert_same(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))
    assert histories["straight"] == histories["resumed"]
    assert not (tmp_path / "stopped" / "m.checkpoint").exists()


def test_a_run_killed_before_its_last_report_reports_when_it_is_continued(pairs, tmp_path):
    histories = []

    def killed(history):
        if len(history) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(pairs, tmp_path, report=killed)
    run(pairs, tmp_path, report=histories.append, resume=True)
    assert [len(history) for history in histories] == [2]


def test_model_files_tell_commit_and_training_time(pairs, tmp_path, monkeypatch):
    StopAt(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        run(pairs, tmp_path, settings={"epochs": 1})
    checkpoint = torch.load(tmp_path / "m.checkpoint", weights_only=True)
    assert 0 < checkpoint["run"]["seconds"] < 1000
    checkpoint["run"]["seconds"] = 5000.0  # as after a longer session
    torch.save(checkpoint, tmp_path / "m.checkpoint")
    monkeypatch.setattr(training_run, "git_commit", lambda _folder: "a" * 40)
    run(pairs, tmp_path, settings={"epochs": 1}, resume=True)
    for load in (load_text_model, load_visual_model):
        origin = load(tmp_path, "m")[2]
        assert origin.commit == "a" * 40
        assert 5000 < origin.training_seconds < 6000
    # files of earlier versions have neither
    for half in ("text", "visual"):
        config = tmp_path / half / "m.cfg"
        lines = config.read_text().splitlines(keepends=True)
        old = [line for line in lines if not re.match(r"  (commit|training_seconds):", line)]
        assert len(old) == len(lines) - 2
        config.write_text("".join(old))
    assert load_text_model(tmp_path, "m")[2].training_seconds is None
    assert load_visual_model(tmp_path, "m")[2].training_seconds is None
    config.write_text("".join(old).replace("origin:", "origin:\n  training_seconds: long"))
    with pytest.raises(UserError, match="no visual model's settings"):
        load_visual_model(tmp_path, "m")


def test_a_model_tells_its_vocabulary_with_counts(pairs, tmp_path):
    run(pairs, tmp_path, settings={"epochs": 1})
    vocabulary = load_vocabulary(tmp_path, "m")
    assert vocabulary.words == pairs.vocabulary.words
    assert np.array_equal(vocabulary.counts, pairs.vocabulary.counts)


def test_signal_handlers_come_back(pairs, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    run(pairs, tmp_path, settings={"epochs": 1})
    assert signal.getsignal(signal.SIGINT) is before


def test_resume_refuses_other_settings_and_other_data(pairs, demo_data, tmp_path, monkeypatch):
    StopAt(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        run(pairs, tmp_path)
    with pytest.raises(UserError, match=r"epochs was 2, is 3; cluster_num|cluster_num.*epochs"):
        run(pairs, tmp_path, settings={"epochs": 3, "cluster_num": 20}, resume=True)
    unfiltered = load_training_pairs(demo_data, use_all_images=True)
    with pytest.raises(UserError, match="other data: other captions or images"):
        run(unfiltered, tmp_path, resume=True)
    with pytest.raises(UserError, match="other data: other norms"):
        run(pairs, tmp_path, resume=True, measured_against={"norms": "x"})
    with pytest.raises(UserError, match="unfinished training"):
        run(pairs, tmp_path)
    run(pairs, tmp_path, overwrite=True)
    assert not (tmp_path / "m.checkpoint").exists()


@pytest.fixture
def own_data(demo_data, tmp_path) -> Path:
    """A copy of the demo data, to be changed."""
    return shutil.copytree(demo_data, tmp_path / "data")


def pairs_of(data: Path) -> TrainingPairs:
    return load_training_pairs(data, use_all_images=True)


def test_resume_refuses_changed_image_files_but_those_found_unreadable(
    own_data, tmp_path, monkeypatch
):
    pairs = pairs_of(own_data)
    damaged, changed = pairs.split.path(1), pairs.split.path(2)
    picture = damaged.read_bytes()
    damaged.write_bytes(picture[:100])
    epoch = len(pair_batches(pairs.split.caption_image, 40, 0, 0, group_captions=False))
    StopAt(monkeypatch, epoch + 1)  # by then each image has been read
    with pytest.raises(KeyboardInterrupt):
        run(pairs, tmp_path)
    damaged.write_bytes(picture)
    content = changed.read_bytes()
    changed.write_bytes(content + b"\0")
    with pytest.raises(UserError, match=r"other image files \(1 have another size or are gone\)"):
        run(pairs, tmp_path, resume=True)
    changed.unlink()
    with pytest.raises(UserError, match="other image files"):
        run(pairs, tmp_path, resume=True)
    changed.write_bytes(content)
    run(pairs, tmp_path, resume=True)
    assert not (tmp_path / "m.checkpoint").exists()


def test_resume_of_other_norms_words_or_test_images_is_refused(
    own_data, tmp_path, monkeypatch, capsys
):
    words = tmp_path / "words.txt"
    words.write_text("dog\ncat\n")
    begun = [
        *TINY, f"--datasets_dir={own_data}", f"--models_dir={tmp_path}",
        f"--results_dir={tmp_path}", "--use_all_images", f"--word_list={words}",
        "--evaluate_every=100", "--evaluate_images=4",
    ]  # fmt: skip
    StopAt(monkeypatch, 2)
    assert main(begun) == 130
    capsys.readouterr()
    for path, change, what in (
        (own_data / CONCRETENESS_FILE, lambda text: text.replace("\t4", "\t3", 1), "norms"),
        (words, lambda text: text + "horse\n", "--word_list"),
        (
            own_data / "COCO" / "annotations" / "captions_val2014.json",
            lambda text: text.replace('"caption": "', '"caption": "so ', 1),
            "test images",
        ),
    ):
        before = path.read_text()
        assert change(before) != before
        path.write_text(change(before))
        fails(capsys, *begun, "--resume", mentions=f"other data: other {what};")
        path.write_text(before)
    assert main([*begun, "--resume"]) == 0


def test_resume_needs_no_file_of_pretrained_weights(pairs, tmp_path, monkeypatch):
    file = tmp_path / "weights.pth"
    torch.manual_seed(5)
    torch.save(models.resnet18(weights=None).state_dict(), file)
    settings = {"pretrained_visual": str(file), "epochs": 1}
    run(pairs, tmp_path / "straight", settings=settings)
    StopAt(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        run(pairs, tmp_path / "stopped", settings=settings)
    file.unlink()
    run(pairs, tmp_path / "stopped", settings=settings, resume=True)
    assert_same(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))


def test_resume_of_a_finished_or_absent_run(pairs, tmp_path, caplog):
    caplog.set_level("INFO")
    run(pairs, tmp_path, settings={"epochs": 1}, resume=True)
    assert "starts anew" in caplog.text
    before = weights(tmp_path)
    run(pairs, tmp_path, settings={"epochs": 1}, resume=True)
    assert "finished" in caplog.text
    assert_same(before, weights(tmp_path))


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("name", ["text/m.cfg", "text/m.mdl", "visual/m.mdl"])
def test_resume_does_not_take_a_part_of_a_model_for_a_finished_one(pairs, tmp_path, name, cut):
    run(pairs, tmp_path, settings={"epochs": 1})
    path = tmp_path / name
    content = path.read_bytes()
    path.unlink()
    if cut:
        path.write_bytes(content[:100])
    with pytest.raises(UserError, match="'m' is no whole model") as refusal:
        run(pairs, tmp_path, settings={"epochs": 1}, resume=True)
    assert path.stem in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1
    path.write_bytes(content)
    run(pairs, tmp_path, settings={"epochs": 1}, resume=True)


@pytest.fixture(scope="module")
def interrupted(pairs, tmp_path_factory) -> Path:
    """The checkpoint of a run that a signal ended."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch:
        StopAt(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            run(pairs, folder)
    return folder / "m.checkpoint"


def test_a_damaged_checkpoint_is_refused(pairs, tmp_path):
    (tmp_path / "m.checkpoint").write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(UserError, match=r"m\.checkpoint is damaged"):
        run(pairs, tmp_path, resume=True)


def test_a_checkpoint_of_an_earlier_version_is_refused_by_name(pairs, interrupted, tmp_path):
    content = torch.load(interrupted, weights_only=True)
    assert content["version"] == training_run.CHECKPOINT_VERSION
    torch.save(content | {"version": 2}, tmp_path / "m.checkpoint")
    with pytest.raises(UserError) as raised:
        run(pairs, tmp_path, resume=True)
    assert str(raised.value) == (
        f"{tmp_path / 'm.checkpoint'} is no checkpoint of this version; start anew with --overwrite"
    )


def test_a_model_in_the_way_is_told_before_the_data_is_read(trained, tmp_path, capsys):
    places = [f"--models_dir={trained / 'models'}", f"--results_dir={tmp_path}"]
    absent = f"--datasets_dir={tmp_path / 'absent'}"
    fails(capsys, *TINY, *places, absent, "--model_name=lstm", mentions="there is a model 'lstm'")


def test_a_finished_model_is_not_overwritten(pairs, tmp_path):
    run(pairs, tmp_path, settings={"epochs": 1})
    before = weights(tmp_path)
    with pytest.raises(UserError, match="--overwrite"):
        run(pairs, tmp_path, settings={"epochs": 1, "seed": 1})
    assert_same(before, weights(tmp_path))
    run(pairs, tmp_path, settings={"epochs": 1, "seed": 1}, overwrite=True)
    assert not torch.equal(before[0]["conv1.weight"], weights(tmp_path)[0]["conv1.weight"])


HOLD = """
import sys, time
from pathlib import Path
from utils.files import only_process
with only_process(Path(sys.argv[1]), "it"):
    print("locked", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def locked_by_another_process(path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert holder.stdout.readline() == b"locked\n"
        yield
    finally:
        holder.kill()
        holder.communicate()


@pytest.mark.parametrize("locked", ["m", "m_best"])
def test_a_name_that_another_process_trains_is_refused_until_it_is_killed(pairs, tmp_path, locked):
    lock = tmp_path / f"{locked}.lock"
    with locked_by_another_process(lock):
        with pytest.raises(
            UserError, match=rf"'{locked}' is under way in another process"
        ) as error:
            run(pairs, tmp_path, settings={"epochs": 1}, overwrite=True)
        assert "\n" not in str(error.value)
        assert [path.name for path in tmp_path.iterdir()] == [lock.name]
    assert lock.exists()  # left behind, and in nobody's way
    run(pairs, tmp_path, settings={"epochs": 1})
    assert not list(tmp_path.glob("*.lock"))


def test_a_training_under_way_is_not_taken_for_one_to_be_continued(
    interrupted, demo_data, tmp_path, capsys
):
    shutil.copy(interrupted, tmp_path / "m.checkpoint")  # it has got so far, and best weights
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "m_best.cfg").touch()
    places = [
        f"--datasets_dir={demo_data}",
        f"--models_dir={tmp_path}",
        f"--results_dir={tmp_path}",
    ]
    with locked_by_another_process(tmp_path / "m.lock"):
        fails(capsys, *TINY, *places, "--model_name=m", mentions="'m' is under way in another")


def test_a_tuning_that_another_process_does_is_refused(places, trained, tmp_path, capsys):
    lock = tmp_path / "models" / "tuning" / "t.lock"
    lock.parent.mkdir(parents=True)
    options = [*places, f"--models_dir={tmp_path / 'models'}", "--model_name=t", "--workers=0"]
    with locked_by_another_process(lock):
        status = main(["--utility=tune_joint_model_parameters", "--overwrite", *options])
    assert status == 2
    assert "the tuning of 't' is under way in another process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("scores", "best"), [((0.1, 0.4, 0.2), 2), ((0.3, 0.3, 0.1), 1), ((0.1, 0.2, 0.3), 3)]
)
def test_best_epoch_is_kept(pairs, tmp_path, scores, best):
    left = list(scores)

    def evaluate(_text):
        return {training.BEST_METRIC: left.pop(0)}

    run(pairs, tmp_path, evaluate=evaluate, settings={"epochs": 3})
    steps_in_epoch = load_text_model(tmp_path, "m")[2].step // 3
    assert load_text_model(tmp_path, "m_best")[2].step == best * steps_in_epoch
    assert load_visual_model(tmp_path, "m_best")[2].step == best * steps_in_epoch
    if best != 3:
        with pytest.raises(UserError, match="different trainings"):
            require_same_origin(
                load_text_model(tmp_path, "m")[2], load_visual_model(tmp_path, "m_best")[2], "m"
            )


def test_overwriting_leaves_no_best_epoch_of_the_old_run(pairs, tmp_path):
    run(pairs, tmp_path, evaluate=lambda _: {training.BEST_METRIC: 0.5}, settings={"epochs": 1})
    assert (tmp_path / "text" / "m_best.mdl").exists()
    run(pairs, tmp_path, settings={"epochs": 1}, overwrite=True)
    assert not (tmp_path / "text" / "m_best.mdl").exists()


def test_a_model_named_as_another_ones_best_epoch_is_not_overwritten(pairs, tmp_path):
    run(pairs, tmp_path, settings={"epochs": 1}, name="m_best")
    with pytest.raises(UserError, match="'m_best'"):
        run(pairs, tmp_path, settings={"epochs": 1}, name="m")


def test_without_a_score_there_is_no_best_model(pairs, tmp_path, caplog):
    caplog.set_level("INFO")
    run(pairs, tmp_path, settings={"epochs": 1})
    assert not (tmp_path / "text" / "m_best.mdl").exists()
    assert "m_best' is not written" in caplog.text


def test_a_loss_that_is_not_finite_stops_training(pairs, tmp_path):
    with pytest.raises(UserError, match="not finite"):
        run(pairs, tmp_path, settings={"visual_learning_rate": 1e30})
    assert not (tmp_path / "visual" / "m.mdl").exists()


def test_what_is_not_finite_never_replaces_a_checkpoint(pairs, tmp_path, monkeypatch):
    plain = training.joint_step
    steps = []

    def spoiled(visual, *arguments, **options):
        result = plain(visual, *arguments, **options)
        steps.append(result)
        if len(steps) == 3:  # as an update too large does; the loss shows it one step later
            with torch.no_grad():
                visual.head.weight[0, 0] = float("nan")
        return result

    monkeypatch.setattr(training, "joint_step", spoiled)
    with pytest.raises(UserError, match="not finite after 3 steps"):
        run(pairs, tmp_path, checkpoint_minutes=1e-9)
    kept = torch.load(tmp_path / "m.checkpoint", weights_only=True)["run"]
    assert kept["step"] == 2
    assert all(value.isfinite().all() for value in kept["visual"].values())


def test_a_process_that_ends_while_it_measures_loses_no_step(pairs, tmp_path, monkeypatch):
    run(pairs, tmp_path / "straight")

    def killed(_text):
        raise KeyboardInterrupt  # nothing is saved from here on

    with pytest.raises(KeyboardInterrupt):
        run(pairs, tmp_path / "killed", evaluate=killed)
    steps = StopAt(monkeypatch, 1000)
    run(pairs, tmp_path / "killed", resume=True)
    assert 1000 - steps.left == len(training._batches(TrainingSettings(**SMALL), pairs, 1))
    assert_same(weights(tmp_path / "straight"), weights(tmp_path / "killed"))


def test_a_signal_while_it_measures_ends_training_before_the_next_epoch(
    pairs, tmp_path, monkeypatch, caplog
):
    def signalled(_text):
        os.kill(os.getpid(), signal.SIGUSR1)
        return {}

    steps = StopAt(monkeypatch, 1000)
    with caplog.at_level("INFO"), pytest.raises(KeyboardInterrupt):
        run(pairs, tmp_path, evaluate=signalled)
    assert 1000 - steps.left == len(training._batches(TrainingSettings(**SMALL), pairs, 0))
    assert "stopped; continue with --resume" in caplog.text
    assert torch.load(tmp_path / "m.checkpoint", weights_only=True)["run"]["epoch"] == 1


@pytest.mark.parametrize("entry", ["visual", "text", "optimizer", "totals", "random", "history"])
@pytest.mark.parametrize("content", [None, 3, {}, [1], "text", {"x": torch.zeros(2)}])
def test_a_checkpoint_of_other_content_is_refused_in_one_line(
    pairs, tmp_path, interrupted, entry, content
):
    checkpoint = torch.load(interrupted, weights_only=True)
    checkpoint["run"][entry] = content
    torch.save(checkpoint, tmp_path / "m.checkpoint")
    with pytest.raises(UserError, match=r"m\.checkpoint is damaged") as error:
        run(pairs, tmp_path, resume=True)
    assert "\n" not in str(error.value)


def test_rows_of_an_epoch_are_means_over_its_pairs(pairs, tmp_path, monkeypatch):
    results = []
    plain = training.joint_step

    def kept(*arguments, **options):
        results.append(plain(*arguments, **options))
        return results[-1]

    monkeypatch.setattr(training, "joint_step", kept)
    rows = []
    run(pairs, tmp_path, report=lambda history: rows.append(history[-1]), settings={"epochs": 1})
    sizes = [len(result.image_bits) for result in results]
    assert sum(sizes) == len(pairs)
    image_bits = torch.cat([result.image_bits for result in results])
    caption_bits = torch.cat([result.caption_bits for result in results])
    expected = {
        "visual_loss": sum(
            size * result.visual_loss.item() for size, result in zip(sizes, results, strict=True)
        )
        / len(pairs),
        "clusters_per_image": image_bits.sum().item() / len(pairs),
        "clusters_per_caption": caption_bits.sum().item() / len(pairs),
        "images_without_cluster": (image_bits.sum(1) == 0).double().mean().item(),
        "captions_without_cluster": (caption_bits.sum(1) == 0).double().mean().item(),
    }
    for name, value in expected.items():
        assert rows[0][name] == pytest.approx(value, rel=1e-5), name


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
        elif kind == "truncated":
            path.write_bytes(path.read_bytes()[:300])
        else:
            path.write_bytes(BOMB)
    return pairs, bad


def png_chunk(name, data):
    check = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + check


BOMB = b"\x89PNG\r\n\x1a\n" + b"".join(
    png_chunk(name, data)
    for name, data in (
        (b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)),
        (b"IDAT", b""),
        (b"IEND", b""),
    )
)


@pytest.mark.parametrize(
    ("workers", "others"), [(0, {}), (2, {"flip_images": True, "group_captions": True})]
)
def test_a_few_bad_images_are_named_once_and_left_out(
    demo_data, tmp_path, monkeypatch, caplog, workers, others
):
    pairs, bad = damaged_copy(
        demo_data, tmp_path / "data", {"truncated": 1, "missing": 1, "bomb": 1}
    )
    bad_images = np.unique(pairs.split.caption_image)[: len(bad)]
    good_pairs = (~np.isin(pairs.split.caption_image, bad_images)).sum()
    seen = []
    plain = training.joint_step

    def counted(*arguments, **options):
        seen.append((arguments[3], arguments[5]))
        return plain(*arguments, **options)

    monkeypatch.setattr(training, "joint_step", counted)
    settings = {"batch_size": 8} | others
    run(pairs, tmp_path / "straight", settings=settings, workers=workers)
    assert sum(len(tokens) for _, tokens in seen) == 2 * good_pairs
    named = [line for line in caplog.messages if line.startswith("left out of training: ")]
    assert len(named) == 3
    assert all(any(str(path) in line for line in named) for path in bad)
    assert f"3 of {len(pairs.split.image_ids)} images were left out" in caplog.text

    caplog.clear()
    StopAt(monkeypatch, len(seen) // 2 + 3)  # after all are known
    with pytest.raises(KeyboardInterrupt):
        run(pairs, tmp_path / "stopped", settings=settings)
    run(pairs, tmp_path / "stopped", settings=settings, resume=True)
    assert_same(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))
    assert caplog.text.count("left out of training") == 3  # before and after, all in all
    assert "3 of" in caplog.text


def test_flips_of_good_images_do_not_depend_on_bad_ones(pairs, demo_data, tmp_path, monkeypatch):
    damaged, _ = damaged_copy(demo_data, tmp_path / "data", {"missing": 2})
    plain = training.joint_step
    seen = {"whole": [], "damaged": []}
    settings = {"flip_images": True, "epochs": 1}
    for name, data in (("whole", pairs), ("damaged", damaged)):

        def kept(*arguments, name=name, **options):
            seen[name] += list(arguments[3])
            return plain(*arguments, **options)

        monkeypatch.setattr(training, "joint_step", kept)
        run(data, tmp_path / name, settings=settings)
    whole = iter(seen["whole"])  # the others come in the same order, mirrored alike
    assert all(any(torch.equal(image, other) for other in whole) for image in seen["damaged"])
    assert len(seen["damaged"]) < len(seen["whole"])


def test_a_batch_of_which_one_image_is_left_is_passed_over(demo_data, tmp_path, monkeypatch):
    data, _ = damaged_copy(demo_data, tmp_path / "data", {"missing": 3})
    sizes = []
    plain = training.joint_step

    def counted(*arguments, **options):
        sizes.append(len(arguments[3]))
        return plain(*arguments, **options)

    monkeypatch.setattr(training, "joint_step", counted)
    settings = {"batch_size": 2, "epochs": 1, "random_start_steps": 0, "group_captions": True}
    run(data, tmp_path / "models", settings=settings)
    batches = len(training._batches(TrainingSettings(**SMALL | settings), data, 0))
    assert min(sizes) == 2
    assert batches - 3 <= len(sizes) < batches
    assert load_text_model(tmp_path / "models", "m")[2].step == batches


def test_too_many_bad_images_stop_training_in_one_line(demo_data, tmp_path):
    data, _ = damaged_copy(demo_data, tmp_path / "data", {"truncated": 2, "missing": 2})
    total = len(data.split.image_ids)
    with pytest.raises(UserError, match=rf"^4 of {total} images cannot be read") as error:
        run(data, tmp_path / "models")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "models" / "visual" / "m.mdl").exists()


@pytest.mark.parametrize(
    ("kind", "chosen", "expected"),
    [
        ("lstm", None, 10),
        ("gru", None, 10),
        ("generative", None, 0),
        ("discriminative", None, 0),
        ("generative", 7, 7),
        ("lstm", 0, 0),
    ],
)
def test_random_start_by_default(kind, chosen, expected):
    settings = TrainingSettings(
        text_encoder=kind, random_start_steps=chosen, epochs=3, cluster_num=20
    )
    encoder = build_text_encoder(settings, ("a",))
    assert training.random_start_steps(settings, encoder.starts_at_random, 10) == expected


def test_random_start_is_capped_in_long_runs():
    assert training.random_start_steps(TrainingSettings(epochs=100), True, 1000) == 450


def test_votes_are_random_at_the_start_only(pairs, tmp_path, monkeypatch):
    seen = []
    plain = training.joint_step

    def recorded(*arguments, **options):
        seen.append((options["random_votes"], options["teach_text"]))
        return plain(*arguments, **options)

    monkeypatch.setattr(training, "joint_step", recorded)
    run(pairs, tmp_path)
    assert seen[:6] == [(True, False)] + [(True, True)] * 3 + [(False, True)] * 2
    assert set(seen[6:]) == {(False, True)}


def test_grouped_captions_are_trained_once_an_epoch_each_with_its_image(
    pairs, tmp_path, monkeypatch
):
    seen = []
    plain = training.joint_step

    def recorded(*arguments, **options):
        images, image_of_caption, tokens = arguments[3:6]
        seen.append((images, image_of_caption, tokens))
        return plain(*arguments, **options)

    monkeypatch.setattr(training, "joint_step", recorded)
    run(pairs, tmp_path, settings={"group_captions": True, "batch_size": 8, "epochs": 1})
    captioned = len(set(pairs.split.caption_image.tolist()))
    assert sum(len(images) for images, _, _ in seen) == captioned
    assert sum(len(tokens) for _, _, tokens in seen) == len(pairs)
    assert all(len(of_caption) == len(tokens) for _, of_caption, tokens in seen)


def test_flipped_images_are_mirrored_or_as_they_are(pairs, tmp_path, monkeypatch):
    seen = {}
    plain = training.joint_step
    for flip in (False, True):

        def kept(*arguments, flip=flip, **options):
            seen.setdefault(flip, []).append(arguments[3])
            return plain(*arguments, **options)

        monkeypatch.setattr(training, "joint_step", kept)
        run(pairs, tmp_path / str(flip), settings={"flip_images": flip, "epochs": 1})
    mirrored = []
    for images, flipped in zip(seen[False], seen[True], strict=True):
        for image, other in zip(images, flipped, strict=True):
            mirrored.append(not torch.equal(image, other))
            assert torch.equal(other, image.flip(-1) if mirrored[-1] else image)
    assert 0.3 < sum(mirrored) / len(mirrored) < 0.7


def test_csv_has_a_row_per_metric_and_a_column_per_epoch(trained):
    path = trained / "results" / "lstm" / "evaluation_by_epoch.csv"
    with path.open(newline="") as file:
        head, *rows = list(csv.reader(file))
    assert head == ["metric", "1", "2"]
    names = [row[0] for row in rows]
    assert len(set(names)) == len(names)
    assert {"visual_loss", "text_loss", "categorization.all_words.f_score"} <= set(names)
    assert all(len(row) == 3 for row in rows)


def test_overwriting_keeps_the_best_epoch_until_training_can_begin(demo_data, tmp_path, capsys):
    places = [f"--datasets_dir={demo_data}", f"--models_dir={tmp_path / 'models'}"]
    call = [*TINY, "--text_encoder=generative", *places, f"--results_dir={tmp_path}"]
    assert main(call) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "models").rglob("*_best.*")}
    assert len(before) == 4
    for extra in ("--precision=fp16", f"--pretrained_visual={tmp_path / 'none.pth'}"):
        fails(capsys, *call, "--overwrite", extra, mentions="error: ")
        assert {path: path.read_bytes() for path in before} == before


def test_resuming_nothing_does_not_replace_a_model_named_like_its_best(demo_data, tmp_path, capsys):
    places = [f"--datasets_dir={demo_data}", f"--models_dir={tmp_path / 'models'}"]
    call = [*TINY, "--text_encoder=generative", *places, f"--results_dir={tmp_path}"]
    assert main([*call, "--model_name=x_best", "--epochs=1"]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "models").rglob("x_best.*")}
    assert len(before) == 4
    fails(capsys, *call, "--model_name=x", "--resume", mentions="there is a model 'x_best'")
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("half", ["text", "visual"])
def test_weights_of_another_training_are_refused(demo_data, trained, tmp_path, capsys, half):
    models = tmp_path / "models"
    shutil.copytree(trained / "models", models)
    # the same settings, so that the shapes are the same
    shutil.copy(models / half / "lstm_best.mdl", models / half / "lstm.mdl")
    path = models / half / "lstm.mdl"
    if path.read_bytes() == (trained / "models" / half / "lstm.mdl").read_bytes():
        pytest.fail("the best epoch is the last one: nothing was replaced")
    places = [f"--datasets_dir={demo_data}", f"--models_dir={models}", f"--results_dir={tmp_path}"]
    fails(
        capsys,
        "--utility=visual_evaluation",
        "--model_name=lstm",
        *places,
        mentions="lstm.mdl is not",
    )


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
        timeout=120,  # it used to wait for its workers for ever
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert ended.returncode == status
    assert told in ended.stderr
    assert ("Traceback" in ended.stderr) == (status == 1)
