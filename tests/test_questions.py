"""The user's own questions: a model's words as CSV, its clusters, predictions as JSON lines."""

import contextlib
import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datasets_src.filtering import load_filtered_split
from datasets_src.norms import CATEGORY_FILE, CONCRETENESS_FILE, Categories
from evaluation.cluster_tables import (
    WORD_COLUMNS,
    cluster_rows,
    format_cluster_rows,
    living_clusters,
    top_clusters,
    word_rows,
    word_rows_as_csv,
)
from evaluation.image_evaluation import VisualModel, predict_images
from evaluation.word_evaluation import NO_CLUSTER, WordPredictions
from main import main
from models_src.model_files import load_visual_model
from tests.conftest import dirs, results_of
from tests.test_cli import ROOT, fails
from tests.test_evaluators import norms

# the tables, on hand-made answers


def test_top_clusters_break_ties_by_index_and_leave_out_zeros():
    posteriors = np.array([[0.2, 0.4, 0.0, 0.4], [0.0, 0.0, 0.0, 1.0], [0, 0, 0, 0]])
    clusters, probabilities = top_clusters(posteriors, 3)
    assert clusters.tolist() == [[1, 3, 0], [3, -1, -1], [-1, -1, -1]]
    assert probabilities.tolist() == [[0.4, 0.4, 0.2], [1, 0, 0], [0, 0, 0]]
    assert top_clusters(posteriors[:, :2], 3)[0].tolist() == [[1, 0], [-1, -1], [-1, -1]]


def test_word_rows_by_hand():
    clusters, probabilities = np.array([[1, 0], [-1, -1]]), np.array([[0.9, 0.1], [0.0, 0.0]])
    rows = word_rows(
        ["dog", "odd"],
        np.array([7, 2]),
        clusters,
        probabilities,
        probabilities[:, 0],
        norms(
            concreteness={"dog": 4.85, "unheard": 1.0},
            categories=Categories(("odd",), np.array([0]), ("shape",)),
        ),
    )
    assert list(rows[0]) == list(WORD_COLUMNS)
    assert list(rows[0].values()) == ["dog", 7, 1, 0.9, 0.9, 4.85, None, 1, 0.9, 0, 0.1, None, None]
    assert list(rows[1].values()) == ["odd", 2, None, None, 0, None, "shape", *[None] * 6]
    rows = word_rows(["dog"], np.array([7]), np.array([[4]]), None, None, norms())  # of a baseline
    assert list(rows[0].values()) == ["dog", 7, 4, *[None] * 4, 4, *[None] * 5]


def test_csv_keeps_words_with_quotes_and_commas():
    words = ['"', ",", 'a,"b', "naïve", "'", "a\nb"]
    best = np.tile([0, 1, 2], (6, 1)), np.full((6, 3), 0.25), np.full(6, 0.25)
    rows = word_rows(words, np.arange(6), *best, norms())
    read = list(csv.DictReader(io.StringIO(word_rows_as_csv(rows), newline="")))
    assert [row["word"] for row in read] == words
    assert (read[0]["cluster"], read[0]["probability_3"], read[0]["category"]) == ("0", "0.25", "")


def test_cluster_rows_by_hand():
    columns = [90, 9, 5, 4, 3], [0, 1, 1, 1, NO_CLUSTER], [0.2, 0.8, 0.9, 1.0, 0]
    words = ("the", "dog", "puppy", "rare", "lost")
    predictions = WordPredictions(words, *map(np.array, columns))
    logits = np.array([[0.5, -1, -9], [0.7, 2, -8], [0.4, 2, -7]], dtype=np.float32)
    rows = cluster_rows(
        predictions, [[], ["dog", "cow"], []], logits, ["x.jpg", "y.jpg", "z.jpg"],
        text_threshold=0.85, visual_threshold=0.5, image_count=2,
    )  # fmt: skip
    assert rows[1] == {
        "cluster": 1,
        "word_count": 3,
        "activating_word_count": 2,
        "token_count": 18,
        "top_words": [
            {"word": "puppy", "probability": 0.9, "count": 5},
            {"word": "dog", "probability": 0.8, "count": 9},
        ],
        "class_names": ["dog", "cow"],
        "test_image_count": 2,
        "example_images": [
            {"image": "y.jpg", "logit": 2.0, "activates": True},
            {"image": "z.jpg", "logit": 2.0, "activates": True},
        ],
    }
    assert (rows[0]["word_count"], rows[0]["activating_word_count"]) == (1, 0)
    assert rows[0]["test_image_count"] == 2
    assert [example["image"] for example in rows[0]["example_images"]] == ["y.jpg", "x.jpg"]
    assert rows[2]["word_count"] == rows[2]["test_image_count"] == 0
    assert rows[2]["example_images"][0] == {"image": "z.jpg", "logit": -7.0, "activates": False}
    assert [row["cluster"] for row in living_clusters(rows)] == [1, 0]
    line = format_cluster_rows(living_clusters(rows)).split("\n")[1]
    shown = ["puppy", "0.900,", "dog", "0.800", "y.jpg"]
    assert line.split() == ["1", "3", "18", "2", "dog,", "cow", *shown]


# the utilities


def test_word_clusters_without_norms_and_with_one_half(trained, demo_data, tmp_path, capsys):
    data, models = tmp_path / "data", tmp_path / "models"
    shutil.copytree(demo_data, data)
    shutil.copytree(trained / "models" / "text", models / "text")
    (data / CATEGORY_FILE).unlink()
    (data / CONCRETENESS_FILE).unlink()
    places = dirs(data, models, tmp_path)
    assert main(["--utility=word_clusters", "--model_name=lstm", *places]) == 0
    rows = pd.read_csv(tmp_path / "word_clusters_lstm.csv")
    assert len(rows) > 50
    assert rows[["category", "concreteness_rating"]].isna().all(axis=None)
    assert CATEGORY_FILE in capsys.readouterr().out


CAPTIONS = ["A dog in the park.", "", "zyx a hat , qqq zyx", "the", "there is a red car on a road"]


def predicted(capsys, trained: Path, *arguments: str) -> list[dict]:
    """Return the parsed lines of a predict call, all of its output."""
    capsys.readouterr()
    call = ["--utility=predict", f"--models_dir={trained / 'models'}", "--workers=0"]
    assert main([*call, *arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("name", ["lstm", "generative"])
def test_predictions_equal_the_evaluation_and_do_not_depend_on_company(
    trained, demo_data, capsys, name
):
    split = load_filtered_split(demo_data, "val2014", use_all_images=False)
    images = [str(split.path(image)) for image in (3, 0, 5)]
    model = f"--model_name={name}"
    thresholds = ["--text_threshold=0.05", "--visual_threshold=-0.2"]
    together = predicted(
        capsys, trained, model, *thresholds, "--captions", *CAPTIONS, "--images", *images
    )
    assert [answer.get("image", answer.get("caption")) for answer in together] == images + CAPTIONS
    for answer in together:
        assert len(answer["bits"]) == 20
        assert answer["clusters"] == [k for k, bit in enumerate(answer["bits"]) if bit == 1]
    alone = [
        *(predicted(capsys, trained, model, *thresholds, "--images", image) for image in images),
        *(predicted(capsys, trained, model, *thresholds, "--captions", text) for text in CAPTIONS),
    ]
    assert [[answer] for answer in together] == alone

    encoder, settings, _ = load_visual_model(trained / "models", name)
    whole, _ = predict_images(VisualModel(encoder, -0.2, settings.image_size, 9, 0, "cpu"), split)
    for answer, image in zip(together, (3, 0, 5), strict=False):
        assert answer["bits"] == whole.bits[image].astype(int).tolist()

    empty, unknown = together[4:6]
    assert empty["clusters"] == []
    assert unknown["unknown_words"] == ["zyx", "qqq"]
    assert any(answer["clusters"] for answer in together[3:])


def test_predictions_are_printed_in_utf8(trained, tmp_path):
    image, caption = tmp_path / "Zürich.jpg", "ein Café 猫"
    Image.new("RGB", (20, 20)).save(image)
    call = [sys.executable, "main.py", "--utility=predict", "--model_name=lstm", "--workers=0"]
    call += [f"--models_dir={trained / 'models'}", f"--images={image}", f"--captions={caption}"]
    ascii_terminal = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(call, cwd=ROOT, env=ascii_terminal, capture_output=True, check=True)
    of_image, of_caption = done.stdout.decode("utf-8").splitlines()
    assert f'"image": "{image}"' in of_image
    assert f'"caption": "{caption}"' in of_caption
    assert json.loads(of_caption)["unknown_words"] == ["ein", "café", "猫"]


def test_clusters_without_words_are_counted_in_one_line(places, tmp_path, capsys):
    # every image activates every cluster: none is left out for want of images
    call = ["--utility=describe_clusters", "--model_name=lstm", "--workers=0", *places]
    assert main([*call, "--visual_threshold=-1000"]) == 0
    _, printed = capsys.readouterr().out.split("cluster words tokens images")
    _, *printed = printed.splitlines()
    clusters = results_of(tmp_path, "describe_clusters", "lstm")["clusters"]
    with_words = {str(row["cluster"]) for row in clusters if row["word_count"]}
    assert 0 < len(with_words) < len(clusters) == 20
    assert printed[len(with_words)] == f"{20 - len(with_words)} of 20 clusters have no words"
    assert {line.split()[0] for line in printed[: len(with_words)]} == with_words


def test_only_the_needed_half_is_read(trained, demo_data, tmp_path, capsys):
    for half in ("text", "visual"):
        shutil.copytree(trained / "models" / half, tmp_path / half / "models" / half)
    image = str(next((demo_data / "COCO" / "val2014").iterdir()))
    name = "--model_name=lstm"
    assert predicted(capsys, tmp_path / "text", name, "--captions", "a dog")[0]["caption"]
    assert predicted(capsys, tmp_path / "visual", name, "--images", image)[0]["image"] == image
    for half, inputs in (("visual", ["--captions", "a"]), ("text", ["--images", image])):
        call = ["--utility=predict", name, f"--models_dir={tmp_path / half / 'models'}"]
        fails(capsys, *call, *inputs, mentions=f"no {'text' if half == 'visual' else 'visual'}")


def test_mistakes_of_predict_print_no_half_answer(trained, tmp_path, capsys):
    Image.new("RGB", (20, 20)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("no image")
    call = ["--utility=predict", "--model_name=lstm", f"--models_dir={trained / 'models'}"]
    fails(capsys, *call, mentions="--images FILE")
    for bad in (tmp_path / "bad.png", tmp_path / "absent.png", tmp_path):
        arguments = [*call, "--workers=0", "--images", str(tmp_path / "good.png"), str(bad)]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            fails(capsys, *arguments, mentions=str(bad))
        assert printed.getvalue() == ""
    fails(capsys, *call, "--images", "--captions", "a", mentions="--images")
