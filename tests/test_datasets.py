"""The table of data sets, and --dataset through the command line on data in COCO's layout."""

import json
import shutil

import pytest

from datasets_src.datasets import DATASETS, load_split
from datasets_src.filtering import FILTER_FILE, filter_file, filter_images, load_filtered_split
from datasets_src.pairs import load_training_pairs
from datasets_src.splits import SPLITS
from main import main
from tests.conftest import TINY, dirs, results_of
from tests.test_cli import fails
from tests.test_coco import refusal_of, write_layout


@pytest.fixture(scope="module")
def world(demo_data, tmp_path_factory):
    """The demo data as the data set "world", whose splits are train and val; not filtered."""
    folder = tmp_path_factory.mktemp("world")
    ignored = shutil.ignore_patterns(FILTER_FILE)
    shutil.copytree(demo_data, folder, ignore=ignored, dirs_exist_ok=True)
    world = (folder / "COCO").rename(folder / "world")
    for path in (*world.glob("*2014"), *world.glob("annotations/*")):
        path.rename(path.with_name(path.name.replace("2014", "")))
    return folder


def test_a_data_set_of_another_name_is_filtered_trained_and_evaluated(
    world, demo_data, tmp_path, capsys
):
    places = [*dirs(world, tmp_path / "models", tmp_path), "--dataset=world"]
    assert main(["--utility=filter_unwanted_coco_images", *places]) == 0
    printed = capsys.readouterr().out
    for words in ("train: ", "val: ", str(world / "world" / FILTER_FILE)):
        assert words in printed
    assert not (world / FILTER_FILE).exists()
    stored = json.loads((world / "world" / FILTER_FILE).read_text())["splits"]
    original = json.loads((demo_data / FILTER_FILE).read_text())["splits"]
    for old, new in zip(SPLITS, ("train", "val"), strict=True):
        assert stored[new]["dropped"] == original[old]["dropped"]

    assert main([*TINY, "--epochs=1", "--text_encoder=generative", *places]) == 0
    assert "train: " in capsys.readouterr().out
    assert main(["--utility=text_evaluation", *places]) == 0
    assert main(["--utility=visual_evaluation", "--workers=0", *places]) == 0
    results = results_of(tmp_path, "visual_evaluation", "model1")
    assert results["data"]["test_images"] == original["val2014"]["kept"]
    assert results["data"]["filtered"] is True
    assert results["metrics"]["heatmap"] is not None


def test_every_data_set_of_the_table_has_a_loader(tmp_path):
    for name in DATASETS:
        (tmp_path / name).mkdir()
        (tmp_path / "COCO").mkdir(exist_ok=True)
        message = refusal_of(load_split, tmp_path, "train2014", dataset=name)
        assert str(tmp_path / ("COCO" if name == "coco" else name)) in message


def test_data_sets_do_not_share_filter_results(tmp_path):
    for name in ("COCO", "mine"):
        write_layout(tmp_path / name, "plain")
    assert filter_file(tmp_path, "coco") == filter_file(tmp_path, "COCO") == tmp_path / FILTER_FILE
    assert filter_file(tmp_path, "mine") == tmp_path / "mine" / FILTER_FILE
    assert list(filter_images(tmp_path, dataset="mine")) == ["train", "val"]
    for name in ("coco", "mine"):
        split = load_filtered_split(tmp_path, SPLITS[1], use_all_images=False, dataset=name)
        assert split.filtered == (name == "mine")


def test_folder_name_of_coco_means_coco(demo_data):
    usual = load_training_pairs(demo_data, use_all_images=False)
    named = load_training_pairs(demo_data, use_all_images=False, dataset="COCO")
    assert named.split.filtered is usual.split.filtered is True
    assert named.fingerprint() == usual.fingerprint()


def test_unknown_data_set_is_refused_with_those_there_are(tmp_path, capsys):
    for name in ("COCO", "mine"):
        write_layout(tmp_path / name, "2014")
    (tmp_path / "flickr30k").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "file").write_text("no folder")
    places = dirs(tmp_path, tmp_path / "results")
    for name, said in {
        "yours": f"no folder {tmp_path / 'yours'}",
        "file": "--dataset coco or flickr30k or mine\n",
        "notes": "captions_train2014.json",
        "../mine": "--dataset",
        "..": "--dataset",
    }.items():
        fails(capsys, *TINY, *places, f"--dataset={name}", mentions=said)
    itself = dirs(tmp_path / "mine", tmp_path / "results")
    fails(capsys, *TINY, *itself, mentions=f"give --datasets_dir {tmp_path} --dataset mine")


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (["--utility=visual_evaluation", "--model_name=generative"], "captions_val.json"),
        (["--model_name=new"], "captions_train.json"),
    ],
)
def test_errors_about_empty_data_name_its_files(world, trained, tmp_path, capsys, arguments, file):
    shutil.copytree(world / "world", tmp_path / "world", ignore=lambda *_: [FILTER_FILE])
    path = tmp_path / "world" / "annotations" / file
    places = dirs(tmp_path, trained / "models", tmp_path / "results")
    without_images = json.loads(path.read_text()) | {"images": []}
    for content in (without_images, {"images": [], "annotations": []}):
        path.write_text(json.dumps(content))
        fails(capsys, *arguments, *places, "--dataset=world", mentions=str(path))
