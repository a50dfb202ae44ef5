"""The report: its choices and numbers by hand, the page as HTML, and the page in a browser."""

import base64
import html.parser
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets_src.captions import build_vocabulary
from datasets_src.norms import CATEGORY_FILE, CONCRETENESS_FILE
from evaluation.report import (
    Others,
    heat_map,
    key_figures,
    question_tables,
    two_decimals,
    typical_images,
)
from evaluation.report_figures import curves_svg, data_uri, scatter_svg, with_map
from main import main
from tests.conftest import results_of
from tests.test_demo_world import file_bytes

SECTIONS = (
    "figures", "first_clusters", "curves", "clusters", "heat_map", "scatter", "localization",
    "words", "tables",
)  # fmt: skip


# what the page shows, by hand


def test_key_figures_stand_beside_chance_control_and_the_best_baseline():
    metrics = {
        "bounding_box": {"f1": 0.5},
        "bounding_box_chance": {"f1": 0.1},
        "bounding_box_equal_guess_chance": {"f1": 0.2},
        "word_association": {"mean_association_strength": 8.0},
        "heatmap": None,
    }
    path = "word_association.mean_association_strength"
    others = Others("c", {path: 2.0}, {"w2v": {path: 6.0}, "random": {path: 1.0}}, {})
    association, boxes = key_figures(metrics, others)
    assert association["bars"] == [("model", 8.0, 100), ("control", 2.0, 25), ("w2v", 6.0, 75)]
    assert boxes["bars"] == [("model", 0.5, 50), ("chance", 0.2, 20)]


def test_tables_hold_every_score_and_its_counts():
    metrics = {
        "bounding_box": {"f1": 0.5, "true_positives": 3},
        "bounding_box_chance": {"f1": 0.1, "true_positives": 1},
        "new_metric": {"depth": {"score": 1.0}},
    }
    tables = question_tables(metrics, Others(None, {}, {}, {}))
    (boxes,) = tables["Do clusters see where things are?"]
    assert boxes["counts"] == ["true positives 3"]
    (row,) = boxes["rows"]
    assert (row["value"], row["chance"], row["control"]) == (0.5, 0.1, None)
    (more,) = tables["More"]
    assert (more["title"], more["rows"][0]["metric"]) == ("new metric, depth", "score")
    assert [two_decimals(value) for value in (0.256, 3, -0.001)] == ["0.26", "3", "0.00"]


def test_heat_map_puts_blocks_on_the_diagonal():
    #                     b  b  b  c  c  a
    categories = np.array([1, 1, 1, 2, 2, 0])
    clusters = np.array([7, 7, 3, 5, 3, 3])
    found = heat_map(categories, clusters, ("a", "b", "c", "empty"), "uvwxyz")
    assert found["columns"] == [7, 3, 5]  # cluster 3 has one of each: it stands with the first
    assert [name for name, _ in found["rows"]] == ["b", "c", "a"]
    cells = {
        (name, cluster): (cell["words"], cell["shade"])
        for name, row in found["rows"]
        for cluster, cell in zip(found["columns"], row, strict=True)
        if cell
    }
    assert cells == {  # two thirds, a third, halves and all, in shades of quarters
        ("b", 7): (["u", "v"], 2), ("b", 3): (["w"], 1), ("c", 3): (["y"], 1),
        ("c", 5): (["x"], 1), ("a", 3): (["z"], 3),
    }  # fmt: skip


def test_localization_shows_typical_images_of_each_kind_once():
    #                  hits, false alarms, misses
    counts = np.array([[1, 1, 1], [0, 2, 2], [0, 9, 9], [0, 2, 0], [1, 1, 1], [0, 0, 0]])
    assert typical_images(counts, 3) == {"Hits": [0], "Misses": [1], "False alarms": [4]}
    assert typical_images(counts, 10)["Hits"] == [0, 4]
    assert typical_images(counts[5:], 3) == {}


def test_plots_take_the_pages_colours_and_ask_nobody():
    rows = [{"visual_loss": 1.0, "text_loss": None}, {"visual_loss": 0.5, "text_loss": 0.25}]
    (title, svg), (_, text) = curves_svg([1, 10], rows, by_step=True)
    assert (title, "visual loss, joint step 10: 0.5000" in svg) == ("visual loss", True)
    assert text.count("<title>") == 1
    plot = scatter_svg(["<b>", "dog"], np.array([1.0, 5.0]), np.array([0.0, 1.0]))
    assert "<title>&lt;b&gt;: rated 1.00" in plot
    for drawn in (svg, plot):
        assert "var(--c0)" in drawn and "var(--quiet)" in drawn
        assert not re.search(r"https?:|#1f77b4|#010203", drawn)


def test_a_map_leaves_bright_what_the_cluster_looks_at():
    picture = Image.new("RGB", (40, 20), (200, 100, 100))
    drawn = np.asarray(with_map(picture, np.array([[0.0, 2.0]]))).astype(int)
    assert drawn.shape == (20, 40, 3)
    assert (drawn[:, 20:] == (200, 100, 100)).all()
    assert drawn[:, :20].max() < 70
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
    call = ["--utility=report", f"--model_name={name}", "--workers=0"]
    assert main([*call, *extra, *places]) == 0
    (folder,) = (place for place in places if place.startswith("--results_dir="))
    return (Path(folder.partition("=")[2]) / f"report_{name}.html").read_text(encoding="utf-8")


@pytest.fixture
def with_curves(places, trained, tmp_path):
    """Places with what both tiny trainings wrote beside the models."""
    shutil.copytree(trained / "results", tmp_path, dirs_exist_ok=True)
    return places


@pytest.mark.parametrize("name", ["generative", "lstm_best"])
def test_page_is_whole_and_asks_nobody(with_curves, name):
    # every image activates every cluster, so that there are pictures
    text = write_report(with_curves, "--visual_threshold=-1000", "--num_items=6", name=name)
    page = Page(text)
    assert tuple(page.sections) == SECTIONS
    assert "Left out" not in text
    assert not re.search(r"https?:|url\((?!#)|@import|<link|<iframe", text)
    for tag, attributes in page.tags:
        assert tag not in ("base", "object", "embed")
        for attribute in ("src", "href", "srcset", "action", "xlink:href"):
            value = attributes.get(attribute, "#") or ""
            assert value.startswith(("#", "data:image/jpeg;base64,")), value
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) >= 20 * 4 + 4  # the clusters' and those with boxes
    for attributes in images:
        assert attributes["alt"]
        assert min(decoded(attributes["src"]).size) > 10
    targets = {attributes.get("id") for _, attributes in page.tags}
    links = {attributes["href"][1:] for tag, attributes in page.tags if tag == "a"}
    assert links and links <= targets


def test_page_shows_what_the_evaluations_store(with_curves, tmp_path):
    before = file_bytes(tmp_path)
    text = write_report(with_curves)
    after = file_bytes(tmp_path)
    assert after.pop("report_lstm.html")
    assert after == before
    page = Page(text)
    for utility in ("text_evaluation", "visual_evaluation"):
        assert main([f"--utility={utility}", "--model_name=lstm", *with_curves]) == 0
        stored = results_of(tmp_path, utility, "lstm")
        tables = question_tables(stored["metrics"], Others(None, {}, {}, {}))
        rows = [row for found in tables.values() for one in found for row in one["rows"]]
        assert len(rows) > 10
        for row in rows:
            assert two_decimals(row["value"]) in page.sections["tables"]
    assert stored["settings"]["origin"]["run"] in page.sections["tables"]
    assert "Two encoders, resnet18 for images (32 pixels) and lstm" in text


def test_curves_are_by_step_where_there_are_any(with_curves, tmp_path):
    assert "joint step" not in Page(write_report(with_curves)).sections["curves"]
    (tmp_path / "lstm" / "development.csv").write_text(
        "step,pairs,tokens,kind,name,metric,value\n7,1,1,model,,text_loss,0.25\n"
    )
    assert "text loss, joint step 7: 0.2500" in write_report(with_curves)
    (tmp_path / "lstm" / "development.csv").write_text("step,kind\n1,model\n")
    assert main(["--utility=report", "--model_name=lstm", "--workers=0", *with_curves]) == 2


def test_baselines_and_the_control_of_the_same_data_stand_beside_the_model(places, tmp_path):
    assert main(["--utility=categorization_evaluation", "--model_type=random", *places]) == 0
    baseline = results_of(tmp_path, "categorization_evaluation", "random")
    assert main(["--utility=text_evaluation", "--model_name=lstm", *places]) == 0
    control = results_of(tmp_path, "text_evaluation", "lstm") | {"model_name": "all_random"}
    control["settings"]["random_start_steps"] = control["settings"]["origin"]["step"]
    (tmp_path / "text_evaluation_lstm.json").write_text(json.dumps(control))
    (tmp_path / "text_evaluation_broken.json").write_text("{")
    shown = Page(write_report(places)).sections
    assert "Control: all_random" in shown["figures"]
    assert "baseline random" in shown["figures"]
    assert "best baseline" in shown["tables"] and "(random)" in shown["tables"]

    files = "categorization_evaluation_random.json", "text_evaluation_lstm.json"
    for file, stored in zip(files, (baseline, control), strict=True):  # of other data
        stored["data"]["train_fingerprint"] += "x"
        (tmp_path / file).write_text(json.dumps(stored))
    shown = Page(write_report(places)).sections
    assert "Control: " not in shown["figures"]
    assert "best baseline" not in shown["tables"]
    assert f"Not compared with {files[0]}" in shown["tables"]


def test_sections_without_data_say_why(places, demo_data, tmp_path):
    data = tmp_path / "datasets"
    shutil.copytree(demo_data, data)
    for file in (CATEGORY_FILE, CONCRETENESS_FILE):
        (data / file).unlink()
    for file in (data / "COCO" / "annotations").glob("instances_*"):
        file.unlink()
    extra = ["--use_all_images", "--visual_threshold=1000"]
    page = Page(write_report([*places, f"--datasets_dir={data}"], *extra))
    assert tuple(page.sections) == SECTIONS
    for name, reason in {
        "curves": "evaluation_by_epoch.csv",
        "heat_map": CATEGORY_FILE,
        "scatter": CONCRETENESS_FILE,
        "localization": "no instances",
    }.items():
        assert "Left out: " in page.sections[name], name
        assert reason in page.sections[name], name
    clusters = page.sections["first_clusters"] + page.sections["clusters"]
    assert "no test image activates it" in clusters
    assert "Not measured: bounding box: no instances" in page.sections["tables"]


def test_words_are_text_and_no_markup(places, monkeypatch):
    nasty = '<script>alert("1")</script>'

    def with_markup(captions):
        vocabulary, tokens = build_vocabulary(captions)
        return replace(vocabulary, words=(nasty, *vocabulary.words[1:])), tokens

    monkeypatch.setattr("datasets_src.pairs.build_vocabulary", with_markup)
    text = write_report(places)
    assert nasty not in text
    assert text.count("<script>") == 1
    assert nasty in Page(text).sections["words"]


# in a browser: the page in a frame as wide as a phone tells the one around it what it finds; its
# text must reach a contrast of 4.5 against its ground (WCAG 2.1)
PROBE = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(event.message));
addEventListener("securitypolicyviolation", (event) => errors.push(event.violatedDirective));
addEventListener("load", () => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) errors.push("the page scrolls sideways");
  for (const element of document.querySelectorAll("main *, header *")) {
    const box = element.closest(".wide, svg") || element;
    if (box.getBoundingClientRect().right > width + 1)
      errors.push(element.tagName + " ends at " + box.getBoundingClientRect().right);
  }
  for (const how of document.querySelectorAll("td.how"))
    if (how.getBoundingClientRect().right > width) errors.push("how to read it is cut off");
  for (const image of document.images)
    if (!image.complete || !image.naturalWidth) errors.push("an image is not shown");
  const rgba = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const luminance = (colour) => {
    const [r, g, b] = rgba(colour).slice(0, 3).map((value) => {
      value /= 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (rgba(colour)[3] !== 0) return colour;
    }
  };
  if ((luminance(ground(document.body)) < 0.05) !== DARK) errors.push("wrong colours");
  for (const element of document.querySelectorAll("body *:not(script, style, title)")) {
    const nodes = Array.from(element.childNodes);
    if (!nodes.some((node) => node.nodeType === 3 && node.data.trim())) continue;
    const style = getComputedStyle(element);
    const text = luminance(element instanceof SVGElement ? style.fill : style.color);
    const [low, high] = [text, luminance(ground(element))].sort((a, b) => a - b);
    if ((high + 0.05) / (low + 0.05) < 4.5) errors.push(element.className + " is faint");
  }
  const rows = "#word_table tbody tr";
  const column = (index) =>
    Array.from(document.querySelectorAll(rows), (row) => row.cells[index].textContent);
  const [word, count] = document.querySelectorAll("#word_table th button");
  word.click();
  if (String(column(0)) !== String(column(0).sort((a, b) => a.localeCompare(b))))
    errors.push("unsorted words");
  count.click();
  if (String(column(1)) !== String(column(1).sort((a, b) => b - a))) errors.push("unsorted counts");
  const search = document.getElementById("search");
  search.value = "DOG";
  search.dispatchEvent(new Event("input"));
  const found = document.querySelectorAll(rows + ":not([hidden])").length;
  if (!found || found === column(0).length) errors.push("search shows " + found);
  parent.postMessage(Array.from(new Set(errors)).join("; ") || "passed", "*");
});
</script>"""
FRAME = """<!DOCTYPE html><body><script>
addEventListener("message", (event) => { document.body.dataset.probe = event.data; });
</script><iframe src="page.html" style="width: WIDTHpx; height: 800px; border: 0"></iframe>
"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_page_works_in_a_browser(with_curves, tmp_path):
    text = write_report(with_curves, "--visual_threshold=-1000")
    for width, dark in ((1300, False), (400, True)):
        # before the page's own script, so that its errors are seen
        probe = PROBE.replace("DARK", str(dark).lower())
        (tmp_path / "page.html").write_text(text.replace("<body>", "<body>" + probe))
        frame = tmp_path / "frame.html"
        frame.write_text(FRAME.replace("WIDTH", str(width)))
        call = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,900"]
        options = [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"]
        colours = [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
        done = subprocess.run(
            [*call, *options, *colours, "--dump-dom", frame.as_uri()],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        found = re.search(r'<body data-probe="([^"]*)"', done.stdout)
        assert found, done.stderr
        assert found[1] == "passed", width
