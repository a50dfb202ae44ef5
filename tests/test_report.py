"""The report: its numbers by hand, the page as HTML, stored results, and the page in a browser."""

import base64
import html.parser
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import datasets_src.pairs as pairs_module
import evaluation.image_evaluation as image_evaluation
from datasets_src.norms import CATEGORY_FILE, CONCRETENESS_FILE
from evaluation.report_page import (
    category_fit,
    concreteness_rows,
    curve_panels,
    data_uri,
    difference_from_stored,
    extremes,
    heat_map,
    histogram,
    localization_images,
    metric_rows,
    rank_differences,
    read_development,
    read_history,
    scatter,
    with_map,
)
from main import main
from tests.test_cli import fails
from utils.errors import UserError

SECTIONS = (
    "card", "metrics", "curves", "gallery", "clusters", "heat_map", "category_words", "scatter",
    "concreteness_words", "words", "localization", "histograms",
)  # fmt: skip


# what the page shows, by hand


def test_metric_rows_have_their_chance_level():
    metrics = {
        "bounding_box": {"f1": 0.5, "true_positives": 3},
        "bounding_box_chance": {"f1": 0.1, "true_positives": 1},
        "heatmap_equal_guess_chance": None,
        "bounding_box_equal_guess_chance": {"f1": 0.2, "true_positives": 2},
        "sentence_image_matching": {"accuracy": 0.9, "accuracy_half_ties": 0.95},
        "concreteness": {
            "word_count": 2,
            "pearson_by_min_count": {"0": {"r": 1.0}, "1": {"r": 0.5}},
        },
        "heatmap": None,
        "heatmap_chance": None,
    }
    rows = metric_rows(metrics, {"other": {"bounding_box": {"f1": 0.2}}})
    assert [tuple(row.values()) for row in rows] == [
        ("bounding box, f1", 0.5, 0.2, False, 0.2),
        ("bounding box, true positives", 3, 2, True, None),
        ("sentence image matching, accuracy", 0.9, None, False, None),
        ("sentence image matching, accuracy half ties", 0.95, 0.5, False, None),
        ("concreteness, word count", 2, None, True, None),
        ("concreteness, Pearson r", 1.0, None, False, None),
        ("heatmap", None, None, False, None),
    ]


def test_concreteness_rows_by_hand():
    by_count = {"0": {"r": 0.5, "word_count": 9}, "10": {"r": None, "word_count": 1}}
    names = ("pearson", "spearman", "frequency_baseline")
    scores = {"concreteness": {f"{name}_by_min_count": by_count for name in names}}
    first, second = concreteness_rows(scores, {"a": scores, "b": {}})
    assert list(first.values()) == [0, 9, 0.5, 0.5, 0.5, 0.5, None]
    assert list(second.values()) == [10, 1, None, None, None, None, None]
    assert concreteness_rows({"concreteness": None}, {}) == []


def test_stored_results_are_compared_with_what_would_be_measured():
    stored = {
        "settings": {"origin": {"run": "a"}, "text_threshold": 0.5},
        "data": {"test_images": 3},
        "not_measured": {"concreteness": "no file in /a"},
        "metrics": {},
    }
    now = {"origin": {"run": "a"}, "text_threshold": 0.5, "word_list_sha256": None}
    absent = {"concreteness": "no file in /b"}
    data = {"test_images": 3}
    assert difference_from_stored(stored, now, data, absent) is None
    recorded_less = now | {"origin": {"run": "a", "commit": None}}
    assert difference_from_stored(stored, recorded_less, data, absent) is None
    other = now | {"origin": {"run": "b"}}
    assert difference_from_stored(stored, other, data, absent) == "another model run"
    other = now | {"word_list_sha256": "c"}
    assert difference_from_stored(stored, other, data, absent) == "another word_list_sha256"
    assert difference_from_stored(stored, now, {"test_images": 4}, absent) == "other data"
    assert difference_from_stored(stored, now, data, {}) == "other norms or instances"
    for broken in (None, [], {}, stored | {"settings": None}, stored | {"metrics": None}):
        assert difference_from_stored(broken, now, data, absent) is not None


def test_curves_have_gaps_where_values_are_missing():
    history = {"visual_loss": [1.0, None, 0.5, 0.25], "text_loss": [None] * 4, "other": [1.0] * 4}
    (panel,) = curve_panels(history)
    assert panel.title == "visual loss"
    (curve,) = panel.curves
    assert len(curve.lines) == 1
    assert len(curve.lines[0].split()) == 2  # epochs 3 and 4; epoch 1 is a mark alone
    assert [text for _, _, text in curve.marks] == [
        "visual loss, epoch 1: 1.0000",
        "visual loss, epoch 3: 0.5000",
        "visual loss, epoch 4: 0.2500",
    ]
    heights = [y for _, y, _ in curve.marks]
    assert heights == sorted(heights)  # y grows downwards
    assert curve_panels({}) == []
    (panel,) = curve_panels({"visual_loss": [0.0]})  # one epoch, one value
    assert len(panel.curves[0].marks) == 1


def test_curves_by_step_stand_at_logarithms(tmp_path):
    path = tmp_path / "development.csv"
    rows = [
        f"{step},1,1,model,,visual_loss,{value}" for step, value in ((1, 2), (10, 1), (100, ""))
    ]
    rows += ["100,1,1,word,dog,probability,0.5"]
    path.write_text("\n".join(["step,pairs,tokens,kind,name,metric,value", *rows]))
    steps, history = read_development(path)
    assert (steps, history) == ([1, 10, 100], {"visual_loss": [2, 1, None]})
    (panel,) = curve_panels(history, steps)
    places = [x for x, _ in panel.axes.x_ticks]
    assert [label for _, label in panel.axes.x_ticks] == ["1", "10", "100"]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.2)
    (curve,) = panel.curves
    assert [x for x, _, _ in curve.marks] == places[:2]
    assert curve.marks[1][2] == "visual loss, step 10: 1.0000"
    for broken in ("step,kind\n1,model", "step,kind,metric,value\nx,model,a,1"):
        path.write_text(broken)
        with pytest.raises(UserError, match="no table of metrics by step"):
            read_development(path)


def test_page_shows_curves_by_step_where_there_are_any(with_curves, tmp_path):
    assert "By epoch;" in write_report(with_curves)
    (tmp_path / "lstm" / "development.csv").write_text(
        "step,pairs,tokens,kind,name,metric,value\n7,1,1,model,,text_loss,0.25\n"
    )
    text = write_report(with_curves)
    assert "By joint step, at its logarithm;" in text
    assert "text loss, step 7: 0.2500" in text


def test_history_that_is_none_is_the_users_mistake(tmp_path):
    path = tmp_path / "evaluation_by_epoch.csv"
    path.write_text("metric,1,2\nvisual_loss,0.5,\n")
    assert read_history(path) == {"visual_loss": [0.5, None]}
    for broken in ("", "name,1\n", "metric,1\nvisual_loss,x\n", "metric,1\nvisual_loss,1,2\n"):
        path.write_text(broken)
        with pytest.raises(UserError, match=re.escape(str(path))):
            read_history(path)


def test_heat_map_puts_blocks_on_the_diagonal():
    #                     b  b  b  c  c  a
    categories = np.array([1, 1, 1, 2, 2, 0])
    clusters = np.array([7, 7, 3, 5, 3, 3])
    found = heat_map(categories, clusters, ("a", "b", "c", "empty"))
    assert found.rows == ("b", "c", "a")
    assert found.columns == (7, 3, 5)  # cluster 3 has one word of each: it stands with the first
    assert found.cells == (
        # two thirds, a third, halves and all, in shades of quarters
        (0, 0, 2, 2), (0, 1, 1, 1), (1, 1, 1, 1), (1, 2, 1, 1), (2, 1, 1, 3),
    )  # fmt: skip
    empty = heat_map(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), ("a",))
    assert (empty.rows, empty.columns, empty.cells) == ((), (), ())


def test_category_fit_by_hand():
    # word 0 and 1 make up category 0; cluster 4 holds 0, 1 and 2
    fit = category_fit(np.array([0, 0, 1, 1]), np.array([4, 4, 4, 9]))
    assert fit == pytest.approx([2 * 2 / 5, 2 * 2 / 5, 2 * 1 / 5, 2 * 1 / 3])


def test_rank_differences_and_extremes():
    differences = rank_differences(np.array([0.9, 0.2, 0.2]), np.array([1.0, 3.0, 5.0]))
    assert differences == pytest.approx([1, -0.25, -0.75])
    assert rank_differences(np.array([0.3]), np.array([2.0])).tolist() == [0]
    best, worst = extremes(np.array([0.1, 0.9, 0.9, 0.0, 0.5]), 2)
    assert (best.tolist(), worst.tolist()) == ([1, 2], [3, 0])
    best, worst = extremes(np.array([0.1, 0.9, 0.5]), 2)
    assert (best.tolist(), worst.tolist()) == ([1], [0])


def test_scatter_and_histogram_stay_in_their_frames():
    plot = scatter(["a", "b"], np.array([9, 7]), np.array([1.0, 5.0]), np.array([0.0, 1.0]))
    assert [text.split(":")[0] for _, _, text in plot.marks] == ["a", "b"]
    for x, y, _ in plot.marks:
        assert plot.axes.left <= x <= plot.axes.right
        assert plot.axes.top <= y <= plot.axes.bottom
    plot = histogram(np.array([0, 2, 2]), "images")
    assert [text for _, _, text in plot.marks] == [
        "1 images with 0 clusters", "0 images with 1 clusters", "2 images with 2 clusters",
    ]  # fmt: skip
    assert len(histogram(np.array([0]), "images").marks) == 1
    many = histogram(np.array([0, 149]), "images")
    assert len(many.marks) <= 40
    assert many.marks[-1][2].startswith("1 images with 148 to 151")


@pytest.mark.parametrize("scale", [1, 1e-4, 12345678])
def test_labels_of_axes_have_room(scale):
    values = [value * scale for value in (1.0, 1.25, 1.5)]
    (by_epoch,) = curve_panels({"visual_loss": values})
    (by_step,) = curve_panels({"visual_loss": values}, [1, 5000, 1_000_000])
    counts = histogram(np.repeat(np.arange(3), (5, 1, 100)) * 1000, "images")
    assert (by_epoch.axes.x_title, by_epoch.axes.y_title) == ("epoch", "loss")
    assert by_step.axes.x_title == "joint step"
    assert by_step.axes.x_ticks[-1][1] == "1,000,000"
    assert counts.axes.y_title == "test images"
    for axes in (by_epoch.axes, by_step.axes, counts.axes):
        assert axes.x_ticks and axes.y_ticks
        # digits are about 7 units wide; the title upwards takes 16
        assert axes.left - 5 - 7 * max(len(label) for _, label in axes.y_ticks) >= 16
        assert axes.left < axes.right
        for place, label in axes.x_ticks:
            assert place + 7 * len(label) / 2 <= axes.width
        assert axes.bottom + 15 + 16 < axes.height


def test_heat_map_has_room_for_long_names():
    categories, clusters = np.array([0, 1]), np.array([3, 12345])
    found = heat_map(categories, clusters, ("a", "musical instrument of the orchestra"))
    assert found.left >= 16 + 7 * len("musical instrument of the orchestra")
    assert found.top >= 16 + 7 * 5


def test_a_short_run_has_ticks_between_powers_of_ten():
    (panel,) = curve_panels({"visual_loss": [1.0, 0.5]}, [20, 70])
    assert [label for _, label in panel.axes.x_ticks] == ["20", "50"]


def test_localization_shows_images_at_random_and_the_best_of_the_others():
    rng = np.random.default_rng(0)
    counts = np.stack([rng.integers(0, 3, 50), rng.integers(0, 9, 50), np.zeros(50)], axis=1)
    best, drawn = localization_images(counts, 50, 9, seed=4)
    assert (len(best), len(drawn)) == (4, 5)
    unknown = localization_images(None, 50, 5, seed=4)
    assert drawn.tolist() == unknown[1].tolist()  # nothing of the model decides on these
    others = sorted(set(range(50)) - set(drawn))
    key = [(-counts[image, 0], counts[image, 1], image) for image in others]
    assert best.tolist() == [image for _, _, image in sorted(key)[:4]]
    assert localization_images(counts, 50, 9, seed=5)[1].tolist() != drawn.tolist()


def test_localization_without_hits_is_at_random():
    for counts in (None, np.zeros((20, 3), dtype=np.int64)):
        best, drawn = localization_images(counts, 20, 8, seed=0)
        assert len(best) == 0
        assert len(set(drawn)) == 8
    one_hit = np.zeros((20, 3), dtype=np.int64)
    missed = [image for image in range(20) if image not in localization_images(None, 20, 4, 0)[1]]
    one_hit[missed[3], 0] = 1
    best, drawn = localization_images(one_hit, 20, 8, seed=0)
    assert (best.tolist(), len(drawn)) == ([missed[3]], 4)
    assert localization_images(one_hit, 1, 8, seed=0)[1].tolist() == [0]


def test_map_lies_over_the_picture():
    picture = Image.new("RGB", (40, 20), (100, 100, 100))
    map_ = np.zeros((8, 8))
    map_[:, 4:] = 1.3  # bicubic maps overshoot
    drawn = np.asarray(with_map(picture, map_)).astype(int)
    assert drawn.shape == (20, 40, 3)
    assert drawn[:, 30:].mean() > drawn[:, :10].mean() + 50
    assert decoded(data_uri(picture)).size == (40, 20)


# the page


class Page(html.parser.HTMLParser):
    """What a test asks of the page: tags with attributes, and each section's text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {}
        self.current = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self.current = dict(attrs)["id"]
            self.sections[self.current] = ""

    def handle_data(self, data):
        if self.current:
            self.sections[self.current] += data


def decoded(uri: str) -> Image.Image:
    """Return the picture in a data URI."""
    kind, _, content = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
    picture.load()
    return picture


def write_report(places, *extra: str, name: str = "lstm") -> str:
    """Write a report and return the page."""
    call = ["--utility=report", f"--model_name={name}", "--workers=0", "--num_items=2"]
    assert main([*call, *extra, *places]) == 0
    folder = next(place for place in reversed(places) if place.startswith("--results_dir="))
    return (Path(folder.partition("=")[2]) / f"report_{name}.html").read_text(encoding="utf-8")


@pytest.fixture
def with_curves(places, trained, tmp_path):
    """Places with the learning curves of both tiny trainings."""
    for name in ("lstm", "generative"):
        (tmp_path / name).mkdir()
        shutil.copy(trained / "results" / name / "evaluation_by_epoch.csv", tmp_path / name)
    return places


@pytest.mark.parametrize("name", ["lstm", "generative", "lstm_best"])
def test_page_is_whole_and_asks_nobody(with_curves, name):
    # every image activates every cluster, so that there are pictures
    text = write_report(with_curves, "--visual_threshold=-1000", name=name)
    page = Page(text)
    assert tuple(page.sections) == SECTIONS
    assert "Left out" not in text
    assert not re.search(r"https?:|url\(|@import|<link|<iframe", text)
    for tag, attributes in page.tags:
        assert tag not in ("base", "object", "embed")
        for attribute in ("src", "href", "srcset", "action", "xlink:href"):
            value = attributes.get(attribute, "#") or ""
            assert value.startswith(("#", "data:image/jpeg;base64,")), value
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2 * 5 * 2 + 2  # two clusters with their maps, two with boxes
    for attributes in images:
        assert attributes["alt"]
        assert min(decoded(attributes["src"]).size) > 10
    targets = {attributes.get("id") for _, attributes in page.tags}
    links = [attributes["href"][1:] for tag, attributes in page.tags if tag == "a"]
    assert links and targets.issuperset(links)


def test_page_shows_the_stored_numbers(with_curves, tmp_path):
    page = Page(write_report(with_curves))
    for utility in ("text_evaluation", "visual_evaluation"):
        stored = json.loads((tmp_path / f"{utility}_lstm.json").read_text())
        assert stored["utility"] == utility
        for row in metric_rows(stored["metrics"], {}):
            assert row["metric"] in page.sections["metrics"]
    assert stored["settings"]["origin"]["run"] in page.sections["card"]
    assert re.search(r"trained on these captions\s*yes", page.sections["card"])
    assert re.search(r"training time\s*0 h 0\d min \d\d s", page.sections["card"])
    commit = stored["settings"]["origin"]["commit"] or "not recorded"
    assert re.search(rf"git commit of the program\s*{commit}", page.sections["card"])


def test_page_explains_its_numbers_and_choices(with_curves, tmp_path, monkeypatch):
    monkeypatch.setattr(image_evaluation, "MATCH_IOU", 0.05)  # so that there are hits
    page = Page(write_report(with_curves, "--visual_threshold=-1000", "--num_items=4"))
    r = json.loads((tmp_path / "text_evaluation_lstm.json").read_text())["metrics"]["concreteness"]
    r = f"{r['pearson_by_min_count']['0']['r']:.4f}"
    assert re.search(rf"concreteness, Pearson r\s*{r}", page.sections["metrics"])
    assert "compares the model's 0 to 1 with ratings of 1 to 5" in page.sections["metrics"]
    assert "4 of the 20 clusters that test images activate" in page.sections["gallery"]
    # the best ones are those that the evaluation counted most hits of
    with np.load(tmp_path / "visual_evaluation_lstm.npz") as stored:
        hits = dict(zip(stored["image_ids"].tolist(), stored["bounding_box"][:, 0], strict=True))
    shown = page.sections["localization"]
    best, drawn = (
        {int(image): int(count) for image, count in re.findall(r"Image (\d+): hits (\d+)", part)}
        for part in shown.split("Most hits")[1].split("Drawn at random")
    )
    assert len(best) == len(drawn) == 2
    assert best | drawn == {image: hits[image] for image in best | drawn}
    rest = [count for image, count in hits.items() if image not in best | drawn]
    assert min(best.values()) >= max(rest)


def test_hits_of_another_evaluation_choose_no_images(with_curves, tmp_path, monkeypatch):
    monkeypatch.setattr(image_evaluation, "MATCH_IOU", 0.05)  # so that there are hits
    assert "Most hits" in write_report(with_curves, "--visual_threshold=-1000")
    path = tmp_path / "visual_evaluation_lstm.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    for broken in (
        arrays | {"bounding_box": arrays["bounding_box"] + 1},
        arrays | {"image_ids": arrays["image_ids"] + 1},
        arrays | {"bounding_box": arrays["bounding_box"][:, :2]},
        {"image_ids": arrays["image_ids"]},
    ):
        np.savez(path, **broken)
        assert "Most hits" not in write_report(with_curves, "--visual_threshold=-1000")
    path.write_bytes(b"PK damaged")
    assert "drawn at random from all" in write_report(with_curves, "--visual_threshold=-1000")


def test_stored_results_are_used_and_others_measured_anew(with_curves, tmp_path, capsys):
    write_report(with_curves)
    files = [tmp_path / f"{utility}_evaluation_lstm.json" for utility in ("text", "visual")]
    before = [file.stat().st_mtime_ns for file in files]
    write_report(with_curves)
    assert [file.stat().st_mtime_ns for file in files] == before
    assert capsys.readouterr().out.count("stored results are used") == 2

    stored = json.loads(files[0].read_text())
    stored["settings"]["origin"]["run"] = "of another training"
    files[0].write_text(json.dumps(stored))
    files[1].write_text("{")
    write_report(with_curves)
    printed = capsys.readouterr().out
    assert "another model run; measured anew" in printed
    assert "no results of this version; measured anew" in printed
    assert json.loads(files[0].read_text())["settings"]["origin"]["run"] != "of another training"
    assert "metrics" in json.loads(files[1].read_text())


def test_stored_baselines_of_the_same_data_are_columns(with_curves, tmp_path, caplog):
    assert main(["--utility=categorization_evaluation", "--model_type=random", *with_curves]) == 0
    path = tmp_path / "categorization_evaluation_random.json"
    stored = json.loads(path.read_text())
    score = f"{stored['metrics']['categorization']['all_words']['v_measure']:.4f}"
    shown = Page(write_report(with_curves)).sections["metrics"]
    assert "Baselines:" in shown
    assert score in shown
    data = stored["data"]
    for changed in (
        {"train_captions": data["train_captions"] + 1},
        {"train_fingerprint": "0"},
        {"norms_fingerprint": "0"},
    ):
        path.write_text(json.dumps(stored | {"data": data | changed}))
        shown = Page(write_report(with_curves)).sections["metrics"]
        assert "Baselines:" not in shown
        assert f"left out: {path.name} holds results of other data" in shown
        assert f"the baseline's {path} holds those of other data" in caplog.text
        caplog.clear()
    del data["norms_fingerprint"]
    path.write_text(json.dumps(stored))
    assert "Baselines:" not in Page(write_report(with_curves)).sections["metrics"]
    assert f"the baseline's {path} holds those of an earlier version" in caplog.text


def test_a_trained_baselines_own_results_are_a_column(with_curves, tmp_path):
    places = [*with_curves, f"--models_dir={tmp_path / 'models'}"]
    assert main(["--utility=train_text_only_baseline", *places]) == 0
    stored = json.loads((tmp_path / "train_text_only_baseline_text_only.json").read_text())
    text = write_report(with_curves)
    shown = Page(text).sections["metrics"]
    for value in (
        stored["metrics"]["categorization"]["all_words"]["v_measure"],
        stored["metrics"]["concreteness"]["pearson_by_min_count"]["0"]["r"],
    ):
        assert f"{value:.4f}" in shown
    headings = re.findall(r'<button type="button">([^<]*)</button>', text)
    assert headings.count("text only") == 3  # of scores, counts and concreteness

    # a column without any value stays out
    assert main(["--utility=categorization_evaluation", "--model_type=random", *places]) == 0
    headings = re.findall(r'<button type="button">([^<]*)</button>', write_report(with_curves))
    assert headings.count("random") == 2  # random clusters have no concreteness


def test_word_list_is_of_the_words_alone(with_curves, tmp_path, capsys):
    words = tmp_path / "words.txt"
    words.write_text("dog\ncat\n")
    write_report(with_curves, f"--word_list={words}")
    assert (
        "word_list" in json.loads((tmp_path / "text_evaluation_lstm.json").read_text())["settings"]
    )
    visual = json.loads((tmp_path / "visual_evaluation_lstm.json").read_text())
    assert "word_list" not in visual["settings"]
    capsys.readouterr()
    write_report(with_curves, f"--word_list={words}")
    assert capsys.readouterr().out.count("stored results are used") == 2


def test_sections_without_data_say_why(places, demo_data, tmp_path):
    data = tmp_path / "datasets"
    shutil.copytree(demo_data, data)
    for file in (CATEGORY_FILE, CONCRETENESS_FILE):
        (data / file).unlink()
    for file in (data / "COCO" / "annotations").glob("instances_*"):
        file.unlink()
    page = Page(
        write_report(
            [*places, f"--datasets_dir={data}"],
            "--use_all_images",
            "--other_captions",
            "--visual_threshold=1000",
        )
    )
    assert tuple(page.sections) == SECTIONS
    for name, reason in {
        "curves": "evaluation_by_epoch.csv",
        "gallery": "no test image activates a cluster",
        "heat_map": CATEGORY_FILE,
        "category_words": CATEGORY_FILE,
        "scatter": CONCRETENESS_FILE,
        "concreteness_words": CONCRETENESS_FILE,
        "localization": "no instances",
    }.items():
        assert "Left out: " in page.sections[name], name
        assert reason in page.sections[name], name
    assert "Not measured: bounding box: no instances" in page.sections["metrics"]


def test_words_are_text_and_no_markup(places, monkeypatch):
    nasty = '<script>alert("1")</script>'
    load = pairs_module.stored_vocabulary

    def with_markup(captions, path):
        vocabulary, tokens = load(captions, path)
        words = (nasty, *vocabulary.words[1:])
        return type(vocabulary)(words, vocabulary.counts), tokens

    monkeypatch.setattr(pairs_module, "stored_vocabulary", with_markup)
    text = write_report(places, "--other_captions")
    assert nasty not in text
    assert text.count("<script>") == 1
    assert nasty in Page(text).sections["words"]


def test_report_of_no_model_is_one_line(places, tmp_path, capsys):
    fails(capsys, "--utility=report", "--model_name=absent", *places, mentions="absent")
    assert not list(tmp_path.glob("*.html"))


# in a browser: what the page's script does, with errors told in the page itself
PROBE = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(event.message));
addEventListener("securitypolicyviolation", (event) => errors.push(event.violatedDirective));
addEventListener("load", () => {
  const all = "#word_table tbody tr";
  const column = (index) =>
    Array.from(document.querySelectorAll(all), (row) => row.cells[index].textContent);
  const buttons = document.querySelectorAll("th button");
  for (const button of buttons) { button.click(); button.click(); }
  const [word, count] = document.querySelectorAll("#word_table th button");
  word.click();
  const words = column(0);
  const sorted = [...words].sort((a, b) => a.localeCompare(b));
  if (String(words) !== String(sorted)) errors.push("unsorted words");
  count.click();
  const counts = column(1).map(Number);
  if (counts.some((value, at) => at && value > counts[at - 1])) errors.push("unsorted counts");
  if (count.parentElement.ariaSort !== "descending") errors.push("aria-sort");
  const search = document.getElementById("search");
  search.value = "DOG";
  search.dispatchEvent(new Event("input"));
  const rows = document.querySelectorAll(all + ":not([hidden])");
  if (!rows.length || rows.length === words.length) errors.push("search shows " + rows.length);
  for (const image of document.images)
    if (!image.complete || !image.naturalWidth) errors.push("an image is not shown");
  for (const width of [1200, 390, 320]) {
    document.body.style.maxWidth = width + "px";
    if (document.body.scrollWidth > width) errors.push("wider than " + width + " pixels");
  }
  document.body.dataset.probe = errors.length ? errors.join("; ") : "passed";
});
</script>"""


# The same page on a phone: a frame, for headless windows have at least 500 pixels. The page in it
# tells the one around it what it finds, for files may not look into each other.
PHONE_WIDTH = 375
PHONE_PROBE = """<script>
addEventListener("load", () => {
  const errors = [];
  const width = document.documentElement.clientWidth;
  if (innerWidth !== WIDTH) errors.push("the frame is " + innerWidth + " wide");
  if (document.documentElement.scrollWidth > width) errors.push("the page scrolls sideways");
  const scrolling = [];
  for (const element of document.querySelectorAll("main *, header *")) {
    const box = element.closest(".wide");
    if (element === box) {
      if (box.scrollWidth > box.clientWidth) scrolling.push(box);
      if (box.getBoundingClientRect().right > width) errors.push("a box is cut off");
    } else if (!box && element.getBoundingClientRect().right > width + 0.5) {
      errors.push(element.tagName + " ends at " + element.getBoundingClientRect().right);
    }
  }
  if (!scrolling.length) errors.push("no table is wide, so nothing is tested");
  for (const box of scrolling) {
    box.scrollLeft = 10000;
    if (!box.scrollLeft) errors.push("a wide box does not scroll");
  }
  parent.postMessage(errors.join("; ") || "passed", "*");
});
</script>""".replace("WIDTH", str(PHONE_WIDTH))
PHONE = """<!DOCTYPE html><body><script>
addEventListener("message", (event) => { document.body.dataset.probe = event.data; });
</script><iframe src="page.html" style="width: WIDTHpx; height: 800px; border: 0"></iframe>
""".replace("WIDTH", str(PHONE_WIDTH))

# WCAG 2.1: (L1 + 0.05) / (L2 + 0.05) of relative luminances is at least 4.5 for text
DARK_PROBE = """<script>
addEventListener("load", () => {
  const errors = [];
  const rgba = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const luminance = (colour) => {
    const [r, g, b] = rgba(colour).slice(0, 3).map((value) => {
      value /= 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const isClear = (colour) => rgba(colour)[3] === 0;
  const ground = (element) => {
    if (element.matches("text.count")) return getComputedStyle(element.previousElementSibling).fill;
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!isClear(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const require = (name, text, below) => {
    const [low, high] = [luminance(text), luminance(below)].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5) errors.push(name + " has " + contrast.toFixed(2));
  };
  if (!matchMedia("(prefers-color-scheme: dark)").matches) errors.push("the page is not dark");
  if (luminance(ground(document.body)) > 0.05) errors.push("the ground is not dark");
  let count = 0;
  for (const element of document.querySelectorAll("body, body *")) {
    if (element.matches("script, style, title")) continue;
    const nodes = Array.from(element.childNodes);
    if (!nodes.some((node) => node.nodeType === 3 && node.data.trim())) continue;
    count += 1;
    const style = getComputedStyle(element);
    const name = element.tagName + "." + (element.getAttribute("class") || "");
    require(name, element instanceof SVGElement ? style.fill : style.color, ground(element));
  }
  if (count < 100) errors.push("only " + count + " texts");
  const search = document.getElementById("search");
  require("placeholder", getComputedStyle(search, "::placeholder").color, ground(search));
  for (const button of document.querySelectorAll("th button")) {
    require("arrow", getComputedStyle(button, "::after").color, ground(button));
  }
  document.body.dataset.probe = Array.from(new Set(errors)).join("; ") || "passed";
});
</script>"""


def in_browser(page: Path, *options: str) -> str:
    """Return what a page says of itself in ``data-probe`` when a browser has shown it."""
    call = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000"]
    profile = f"--user-data-dir={page.parent / 'profile'}"
    done = subprocess.run(
        [*call, profile, *options, "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r'<body data-probe="([^"]*)"', done.stdout)
    assert found, done.stderr
    return found[1]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_page_works_in_a_browser(with_curves, tmp_path):
    text = write_report(with_curves, "--visual_threshold=-1000")
    page = tmp_path / "page.html"

    def write(probe: str) -> None:
        # before the page's own script, so that its errors are seen; the page itself is as it was
        page.write_text(text.replace("<body>", "<body>" + probe), encoding="utf-8")

    write(PROBE)
    assert in_browser(page, "--window-size=1300,900") == "passed"
    write(PHONE_PROBE)
    phone = tmp_path / "phone.html"
    phone.write_text(PHONE, encoding="utf-8")
    assert in_browser(phone) == "passed"
    write(DARK_PROBE)
    assert in_browser(page, "--blink-settings=preferredColorScheme=0") == "passed"
