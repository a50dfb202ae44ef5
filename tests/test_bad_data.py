"""Data that is damaged here and there: left out and counted, or refused in one line."""

import json
import shutil
from pathlib import Path

import pytest

from datasets_src.captions import LONGEST_CAPTION
from datasets_src.filtering import load_filtered_split
from main import main
from tests.conftest import TINY


@pytest.fixture
def data(demo_data, tmp_path):
    """The demo data, to be damaged."""
    return shutil.copytree(demo_data, tmp_path / "data")


@pytest.fixture
def models(trained, tmp_path):
    return shutil.copytree(trained / "models", tmp_path / "models")


def image_files(data: Path, split: str = "val2014") -> list[Path]:
    """Return the files that a split is read from."""
    found, _ = load_filtered_split(data, split, use_all_images=False)
    return [found.path(image) for image in range(len(found.image_ids))]


def run(data: Path, folder: Path, *arguments: str) -> int:
    places = [f"--results_dir={folder / 'results'}", f"--models_dir={folder / 'models'}"]
    return main([f"--datasets_dir={data}", *places, *arguments])


def set_up(data: Path, folder: Path) -> int:
    places = [f"--datasets_dir={data}", f"--results_dir={folder / 'results'}"]
    return main(["--utility=filter_unwanted_coco_images", *places])


def results(folder: Path, utility: str, model: str) -> dict:
    return json.loads((folder / "results" / f"{utility}_{model}.json").read_text())


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    half = len(content) // 2 if kind == "truncated" else 0
    path.write_bytes(content[:half] + bytes(len(content) - half))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_few_unreadable_test_images_are_left_out_and_counted(
    data, models, tmp_path, capsys, workers
):
    images = image_files(data)
    damage(images[1], "truncated")
    damage(images[4], "empty")
    arguments = ["--utility=visual_evaluation", "--model_name=lstm", f"--workers={workers}"]
    assert run(data, tmp_path, *arguments, "--batch_size=2") == 0
    named = [line for line in capsys.readouterr().out.splitlines() if "left out: " in line]
    assert [str(images[1]) in named[0], str(images[4]) in named[1]] == [True, True]
    found = results(tmp_path, "visual_evaluation", "lstm")
    assert found["data"]["test_images"] == len(images) - 2
    assert found["data"]["unreadable_images"] == [images[1].name, images[4].name]

    # the same as if they had never been in the data
    path = data / "COCO" / "annotations" / "captions_val2014.json"
    content = json.loads(path.read_text())
    gone = {images[1].name, images[4].name}
    content["images"] = [image for image in content["images"] if image["file_name"] not in gone]
    path.write_text(json.dumps(content))
    assert set_up(data, tmp_path) == 0
    assert run(data, tmp_path, *arguments, "--batch_size=2") == 0
    without = results(tmp_path, "visual_evaluation", "lstm")
    assert without["metrics"] == found["metrics"]
    assert "unreadable_images" not in without["data"]


@pytest.mark.parametrize("utility", ["describe_clusters", "report"])
def test_reports_leave_unreadable_images_out_likewise(data, models, tmp_path, capsys, utility):
    images = image_files(data)
    damage(images[0], "empty")
    assert run(data, tmp_path, f"--utility={utility}", "--model_name=lstm", "--workers=0") == 0
    assert str(images[0]) in capsys.readouterr().out


def test_too_many_unreadable_test_images_end_an_evaluation(data, models, tmp_path, capsys):
    images = image_files(data)
    for path in images[:4]:
        damage(path, "empty")
    assert run(data, tmp_path, "--utility=visual_evaluation", "--model_name=lstm") == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: 4 of {len(images)} images cannot be read; the last: ")
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "results" / "visual_evaluation_lstm.json").exists()


def test_missing_images_are_left_out_by_setup_training_and_evaluation(data, tmp_path, capsys):
    lost = [image_files(data, split)[2] for split in ("train2014", "val2014")]
    for path in lost:
        path.unlink()
    assert set_up(data, tmp_path) == 0
    told = capsys.readouterr().out
    assert all(str(path) in told for path in lost)
    assert told.count("unreadable 1") == 2
    assert run(data, tmp_path, *TINY, "--epochs=1", "--use_all_images") == 0
    told = capsys.readouterr().out
    assert f"image {lost[0]} is missing" in told
    arguments = ["--utility=visual_evaluation", "--workers=0"]
    assert run(data, tmp_path, *arguments, "--use_all_images") == 0
    found = results(tmp_path, "visual_evaluation", "model1")["data"]
    assert found["unreadable_images"] == [lost[1].name]
    assert run(data, tmp_path, *arguments) == 0  # setup has left it out
    assert "unreadable_images" not in results(tmp_path, "visual_evaluation", "model1")["data"]


def test_a_caption_too_long_to_be_read_is_refused_by_predict(trained, tmp_path, capsys):
    arguments = ["--utility=predict", "--model_name=lstm", f"--models_dir={trained / 'models'}"]
    assert main([*arguments, "--captions", "a dog", "x" * (LONGEST_CAPTION + 1)]) == 2
    assert "5001 characters" in capsys.readouterr().err
    assert main([*arguments, "--captions", "x" * LONGEST_CAPTION]) == 0
