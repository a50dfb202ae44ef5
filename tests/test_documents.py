"""The documents' commands: all of them can be given, and every utility has one."""

import re
import shlex
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

from main import OPTIONS, UTILITIES, parse_options
from models_src.settings import SETTINGS

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "UTILITIES.md", "BENCHMARKS.md")
PLACEHOLDERS = ("NAME", "[")  # of what a user is to fill in
PLACES = "--datasets_dir d --models_dir m --results_dir r"


def commands(document: str) -> list[str]:
    """Return the words after ``python main.py`` of each command, without comments."""
    text = (ROOT / document).read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"^ {4}python main\.py ([^#\n]*)", text, flags=re.MULTILINE)
    return [words for words in found if not any(mark in words for mark in PLACEHOLDERS)]


ALL = [(document, words) for document in DOCUMENTS for words in commands(document)]


def test_documents_have_commands():
    assert len(ALL) > 40


@pytest.mark.parametrize(("document", "words"), ALL)
def test_command_can_be_given(document, words):
    arguments = shlex.split(words.replace("$P", PLACES))
    if "--text_encoder" in arguments or "--dataset" in arguments:
        # the contributing page's own encoder and data set
        arguments = ["generative" if word == "smoothed" else word for word in arguments]
    parse_options(arguments)


def test_every_utility_has_an_example_with_its_output():
    text = (ROOT / "UTILITIES.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", text, flags=re.M | re.S))
    assert set(sections) == set(UTILITIES)
    for name, section in sections.items():
        assert f"python main.py --utility {name}" in section
        (output,) = re.findall(r"^```text\n(.*?)^```$", section, flags=re.M | re.S)
        assert output.strip(), name


def test_readme_names_no_option_that_is_not_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`--(\w+)", text))
    others = {"help", "utility", "signals_to_handle"}  # the last one is torchrun's
    negated = {f"no-{name}" for name in SETTINGS}
    assert named <= set(OPTIONS) | set(SETTINGS) | others | negated


def test_citations_are_whole_and_readme_cites_the_same_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    data, paper = citation["references"], citation["preferred-citation"]
    assert [entry["authors"][0]["family-names"] for entry in data] == [
        "Lin", "Brysbaert", "De Deyne", "Fountain",
    ]  # fmt: skip
    for entry in data:
        assert {"type", "title", "authors", "year", "notes"} <= set(entry)
        assert {"journal", "collection-title"} & set(entry)
        assert all(set(author) == {"family-names", "given-names"} for author in entry["authors"])

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (entry,) = re.findall(r"```bibtex\n(.*?)```", text, flags=re.S)
    fields = dict(re.findall(r"(\w+) += \{(.*?)\},\n", entry, flags=re.S))
    fields = {name: " ".join(value.split()) for name, value in fields.items()}
    assert fields == {
        "title": paper["title"],
        "author": " and ".join(
            f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]
        ),
        "booktitle": paper["collection-title"],
        "year": str(paper["year"]),
    }


def test_picture_is_well_formed_and_asks_nobody():
    path = ROOT / "overview.svg"
    assert "(overview.svg)" in (ROOT / "README.md").read_text(encoding="utf-8")
    tree = ElementTree.parse(path)
    assert tree.getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert tree.getroot().find("{http://www.w3.org/2000/svg}title").text
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|<script|<image|@import", text)
    assert "prefers-color-scheme: dark" in text
