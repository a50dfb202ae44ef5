"""Data that is damaged here and there: left out and counted, or refused in one line."""

import json
import shutil

import pytest

from datasets_src.captions import LONGEST_CAPTION
from datasets_src.filtering import load_filtered_split
from main import main
from tests.conftest import TINY, dirs, results_of
from tests.test_cli import fails

SET_UP = "--utility=filter_unwanted_coco_images"
EVALUATE = ["--utility=visual_evaluation", "--model_name=lstm", "--batch_size=2"]


@pytest.fixture
def data(demo_data, tmp_path):
    """The demo data, to be damaged."""
    return shutil.copytree(demo_data, tmp_path / "data")


@pytest.fixture
def places(data, trained, tmp_path):
    return dirs(data, trained / "models", tmp_path)


def image_files(data, split="val2014"):
    """Return the files that a split is read from."""
    found = load_filtered_split(data, split, use_all_images=False)
    return [found.path(image) for image in range(len(found.image_ids))]


def damage(path):
    content = path.read_bytes()
    path.write_bytes(bytes(len(content)))  # of the same size, so that setup's result still fits


@pytest.mark.parametrize("workers", [0, 2])
def test_a_few_unreadable_images_are_left_out_and_counted(data, places, tmp_path, capsys, workers):
    images = image_files(data)
    damage(images[1])
    damage(images[4])
    arguments = [*EVALUATE, f"--workers={workers}", *places]
    assert main(arguments) == 0
    named = [line for line in capsys.readouterr().out.splitlines() if "left out: " in line]
    assert [str(images[1]) in named[0], str(images[4]) in named[1]] == [True, True]
    found = results_of(tmp_path, "visual_evaluation", "lstm")
    assert found["data"]["test_images"] == len(images) - 2
    assert found["data"]["unreadable_images"] == [images[1].name, images[4].name]

    # the same as if they had never been in the data
    path = data / "COCO" / "annotations" / "captions_val2014.json"
    content = json.loads(path.read_text())
    gone = {images[1].name, images[4].name}
    content["images"] = [image for image in content["images"] if image["file_name"] not in gone]
    path.write_text(json.dumps(content))
    assert main([SET_UP, *places]) == 0
    assert main(arguments) == 0
    without = results_of(tmp_path, "visual_evaluation", "lstm")
    assert without["metrics"] == found["metrics"]
    assert "unreadable_images" not in without["data"]


def test_reports_leave_unreadable_images_out_and_too_many_are_refused(
    data, places, tmp_path, capsys
):
    images = image_files(data)
    damage(images[0])
    for utility in ("describe_clusters", "report"):
        assert main([f"--utility={utility}", "--model_name=lstm", "--workers=0", *places]) == 0
        assert str(images[0]) in capsys.readouterr().out
    (tmp_path / "visual_evaluation_lstm.json").unlink(missing_ok=True)
    for path in images[1:4]:
        damage(path)
    told = f"4 of {len(images)} images cannot be read; the last: "
    fails(capsys, *EVALUATE, *places, mentions=told)
    assert not (tmp_path / "visual_evaluation_lstm.json").exists()


def test_missing_images_are_left_out_by_setup_training_and_evaluation(data, tmp_path, capsys, thin):
    lost = [image_files(data, split)[2] for split in ("train2014", "val2014")]
    for path in lost:
        path.unlink()
    own = dirs(data, tmp_path)
    assert main([SET_UP, *own]) == 0
    told = capsys.readouterr().out
    assert all(str(path) in told for path in lost)
    assert told.count("unreadable 1") == 2
    assert main([*TINY, "--epochs=1", "--use_all_images", *own]) == 0
    assert f"image {lost[0]} is missing" in capsys.readouterr().out
    evaluate = ["--utility=visual_evaluation", "--workers=0", *own]
    assert main([*evaluate, "--use_all_images"]) == 0
    found = results_of(tmp_path, "visual_evaluation", "model1")["data"]
    assert found["unreadable_images"] == [lost[1].name]
    assert main(evaluate) == 0  # setup has left it out
    found = results_of(tmp_path, "visual_evaluation", "model1")["data"]
    assert "unreadable_images" not in found


def test_a_caption_too_long_to_be_read_is_refused_by_predict(places, capsys):
    predict = ["--utility=predict", "--model_name=lstm", *places, "--captions"]
    fails(capsys, *predict, "a dog", "x" * (LONGEST_CAPTION + 1), mentions="5001 characters")
    assert main([*predict, "x" * LONGEST_CAPTION]) == 0
