"""Data that is damaged here and there: left out and counted, or refused in one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets_src.captions import LONGEST_CAPTION
from datasets_src.filtering import load_filtered_split
from datasets_src.images import read_image
from main import main
from tests.conftest import TINY


@pytest.fixture
def data(demo_data, tmp_path):
    """The demo data, to be damaged."""
    return shutil.copytree(demo_data, tmp_path / "data")


def image_files(data: Path, split: str = "val2014") -> list[Path]:
    """Return the files that a split is read from."""
    found, _ = load_filtered_split(data, split, use_all_images=False)
    return [found.path(image) for image in range(len(found.image_ids))]


def fingerprint_of_tests(data: Path) -> str:
    """Return the fingerprint of the test split as it is now."""
    split, _ = load_filtered_split(data, "val2014", use_all_images=False, with_instances=True)
    return split.fingerprint()


def edit(data: Path, kind: str, change) -> None:
    """Change the content of the training split's captions or instances."""
    path = data / "COCO" / "annotations" / f"{kind}_train2014.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def run(data: Path, folder: Path, *arguments: str) -> int:
    return main(
        [
            f"--datasets_dir={data}",
            f"--results_dir={folder / 'results'}",
            f"--models_dir={folder / 'models'}",
            *arguments,
        ]
    )


def set_up(data: Path) -> int:
    return main(["--utility=filter_unwanted_coco_images", f"--datasets_dir={data}"])


def results(folder: Path, utility: str, model: str) -> dict:
    return json.loads((folder / "results" / f"{utility}_{model}.json").read_text())


def damage(path: Path, kind: str) -> None:
    """Damage an image file, its size kept, so that the filter result still fits."""
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    else:
        path.write_bytes(bytes(len(content)))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_few_unreadable_test_images_are_left_out_and_counted(
    data, trained, tmp_path, capsys, workers
):
    shutil.copytree(trained / "models", tmp_path / "models")
    images = image_files(data)
    damage(images[1], "truncated")
    damage(images[4], "empty")
    arguments = ["--utility=visual_evaluation", "--model_name=lstm", f"--workers={workers}"]
    assert run(data, tmp_path, *arguments, "--batch_size=2") == 0
    lines = capsys.readouterr().out.splitlines()
    named = [line for line in lines if line.startswith("left out: ")]
    assert len(named) == 2
    assert str(images[1]) in named[0]
    assert str(images[4]) in named[1]
    found = results(tmp_path, "visual_evaluation", "lstm")
    assert found["data"] == {
        "test_images": len(images) - 2,
        "test_fingerprint": fingerprint_of_tests(data),
        "image_files_fingerprint": found["data"]["image_files_fingerprint"],
        "filtered": True,
        "unreadable_images": [images[1].name, images[4].name],
    }

    # the same as if they had never been in the data
    path = data / "COCO" / "annotations" / "captions_val2014.json"
    content = json.loads(path.read_text())
    gone = {images[1].name, images[4].name}
    content["images"] = [image for image in content["images"] if image["file_name"] not in gone]
    path.write_text(json.dumps(content))
    assert set_up(data) == 0
    assert run(data, tmp_path, *arguments, "--batch_size=2") == 0
    without = results(tmp_path, "visual_evaluation", "lstm")
    assert without["metrics"] == found["metrics"]
    assert without["data"] == {
        "test_images": len(images) - 2,
        "test_fingerprint": fingerprint_of_tests(data),
        "image_files_fingerprint": without["data"]["image_files_fingerprint"],
        "filtered": True,
    }
    path = image_files(data)[0]
    path.write_bytes(path.read_bytes() + b"\0")
    assert set_up(data) == 0
    assert run(data, tmp_path, *arguments, "--batch_size=2") == 0
    changed = results(tmp_path, "visual_evaluation", "lstm")["data"]
    of_files = "image_files_fingerprint"
    assert {key for key in changed if changed[key] != without["data"][key]} == {of_files}
    assert without["data"]["test_fingerprint"] != found["data"]["test_fingerprint"]


@pytest.mark.parametrize("utility", ["describe_clusters", "report"])
def test_reports_leave_unreadable_images_out_likewise(data, trained, tmp_path, capsys, utility):
    shutil.copytree(trained / "models", tmp_path / "models")
    images = image_files(data)
    damage(images[0], "empty")
    assert run(data, tmp_path, f"--utility={utility}", "--model_name=lstm", "--workers=0") == 0
    assert str(images[0]) in capsys.readouterr().out
    found = results(tmp_path, {"report": "visual_evaluation"}.get(utility, utility), "lstm")
    assert found["data"]["unreadable_images"] == [images[0].name]
    assert found["data"]["test_images"] == len(images) - 1
    for cluster in found.get("clusters", ()):
        assert str(images[0]) not in [example["image"] for example in cluster["example_images"]]


def test_too_many_unreadable_test_images_end_an_evaluation(data, trained, tmp_path, capsys):
    images = image_files(data)
    for path in images[:4]:
        damage(path, "empty")
    shutil.copytree(trained / "models", tmp_path / "models")
    assert run(data, tmp_path, "--utility=visual_evaluation", "--model_name=lstm") == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: 4 of {len(images)} images cannot be read; the last: ")
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "results" / "visual_evaluation_lstm.json").exists()


def test_images_that_are_missing_from_the_start_are_left_out(data, tmp_path, capsys):
    lost = [image_files(data, split)[2] for split in ("train2014", "val2014")]
    for path in lost:
        path.unlink()
    assert run(data, tmp_path, *TINY, "--epochs=1") == 2  # setup has seen them
    assert "run setup again" in capsys.readouterr().err
    assert set_up(data) == 0
    told = capsys.readouterr().out
    assert all(str(path) in told for path in lost)
    assert told.count("unreadable 1") == 2
    assert run(data, tmp_path, *TINY, "--epochs=1") == 0
    assert run(data, tmp_path, "--utility=visual_evaluation", "--workers=0") == 0
    assert "unreadable_images" not in results(tmp_path, "visual_evaluation", "model1")["data"]

    # without setup, training and evaluation meet them themselves
    assert run(data, tmp_path, *TINY, "--epochs=1", "--use_all_images", "--model_name=all") == 0
    told = capsys.readouterr().out
    assert f"left out of training: image {lost[0]} is missing" in told
    assert "1 of 40 images were left out" in told
    arguments = ["--utility=visual_evaluation", "--use_all_images", "--model_name=all"]
    assert run(data, tmp_path, *arguments, "--workers=0") == 0
    found = results(tmp_path, "visual_evaluation", "all")["data"]
    assert found["unreadable_images"] == [lost[1].name]


def test_an_image_with_another_formats_name_is_read(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    path = tmp_path / "x.jpg"
    Image.fromarray(pixels).save(path, format="png")
    np.testing.assert_array_equal(read_image(path, 32), pixels.transpose(2, 0, 1))


def test_odd_captions_are_trained_on_and_counted(data, tmp_path, capsys):
    def change(content):
        content["annotations"][0]["caption"] = ""
        content["annotations"][1]["caption"] = " \n\t"
        content["annotations"][2]["caption"] = "a dog " * 500_000  # 3 MB
        content["annotations"][3]["caption"] = "x" * 2_000_000

    edit(data, "captions", change)
    assert run(data, tmp_path, *TINY, "--epochs=1", "--use_all_images") == 0
    told = capsys.readouterr().out
    assert "2 of 200 training captions have no word" in told
    assert f"2 training captions are longer than {LONGEST_CAPTION} characters" in told


def test_a_caption_too_long_to_be_read_is_refused_by_predict(trained, tmp_path, capsys):
    arguments = ["--utility=predict", "--model_name=lstm", f"--models_dir={trained / 'models'}"]
    assert main([*arguments, "--captions", "a dog", "x" * (LONGEST_CAPTION + 1)]) == 2
    assert "a caption has 5001 characters" in capsys.readouterr().err
    assert main([*arguments, "--captions", "x" * LONGEST_CAPTION]) == 0


@pytest.mark.parametrize("kind", ["captions", "instances"])
def test_annotations_with_a_byte_order_mark_and_windows_line_ends_are_read(data, kind):
    plain, _ = load_filtered_split(data, "train2014", use_all_images=True, with_instances=True)
    path = data / "COCO" / "annotations" / f"{kind}_train2014.json"
    text = json.dumps(json.loads(path.read_text()), indent=1).replace("\n", "\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    found, _ = load_filtered_split(data, "train2014", use_all_images=True, with_instances=True)
    assert found.captions == plain.captions
    np.testing.assert_array_equal(found.instances.boxes, plain.instances.boxes)


def test_repeated_ids_are_counted_or_refused(data, tmp_path, capsys, caplog):
    plain, _ = load_filtered_split(data, "train2014", use_all_images=True, with_instances=True)

    def change(content):
        content["images"].append(dict(content["images"][0]))
        content["annotations"][1]["id"] = content["annotations"][0]["id"]

    edit(data, "captions", change)
    edit(data, "instances", change)
    found, _ = load_filtered_split(data, "train2014", use_all_images=True, with_instances=True)
    np.testing.assert_array_equal(found.image_ids, plain.image_ids)
    assert found.captions == plain.captions
    np.testing.assert_array_equal(found.instances.boxes, plain.instances.boxes)
    assert caplog.text.count("1 annotations have the id of another one; all are used") == 2

    edit(data, "captions", lambda content: content["images"][-1].update(file_name="other.jpg"))
    assert run(data, tmp_path, *TINY, "--use_all_images") == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "captions_train2014.json: the entry with id" in errors
    assert "stands twice among the images, and differently" in errors


def test_two_classes_with_one_id_are_refused(data, tmp_path, capsys):
    edit(
        data,
        "instances",
        lambda content: content["categories"].append(content["categories"][0] | {"name": "other"}),
    )
    assert set_up(data) == 2
    assert "stands twice among the categories" in capsys.readouterr().err


def test_boxes_without_area_are_counted(data, caplog):
    edit(
        data,
        "instances",
        lambda content: content["annotations"][0].update(bbox=[1, 2, 0, 4]),
    )
    found, _ = load_filtered_split(data, "train2014", use_all_images=True, with_instances=True)
    assert (found.instances.boxes[:, 2] == 0).sum() == 1
    assert "1 boxes have no area" in caplog.text


@pytest.mark.parametrize("name", ["x" * 300 + ".jpg", "a\0b.jpg"])
def test_file_names_that_no_file_can_have(data, tmp_path, capsys, name):
    for kind in ("captions", "instances"):
        edit(data, kind, lambda content: content["images"][0].update(file_name=name))
    if "\0" in name:
        assert set_up(data) == 2
        assert "has the file name 'a\\x00b.jpg'; correct the file" in capsys.readouterr().err
    else:  # as an image that is missing
        assert set_up(data) == 0
        arguments = [*TINY, "--epochs=1", f"--image_cache={tmp_path / 'cache'}"]
        assert run(data, tmp_path, *arguments, "--use_all_images") == 0
