"""The documents' commands can be given, and the README names utilities and options as they are."""

import re
import shlex
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

from main import OPTIONS, UTILITIES, parse_options
from models_src.settings import SETTINGS

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "tests/benchmarks/README.md")
PLACEHOLDERS = ("NAME", "[")  # of what a user is to fill in


def commands(document: str) -> list[str]:
    """Return the words after ``python main.py`` of each command, without comments."""
    text = (ROOT / document).read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"^ {4,}python main\.py ([^#\n]*)", text, flags=re.MULTILINE)
    return [words for words in found if not any(mark in words for mark in PLACEHOLDERS)]


ALL = [(document, words) for document in DOCUMENTS for words in commands(document)]


def test_documents_have_commands():
    assert len(ALL) > 15


@pytest.mark.parametrize(("document", "words"), ALL)
def test_command_can_be_given(document, words):
    arguments = shlex.split(words)
    if "--text_encoder" in arguments:  # the contributing page's own
        arguments = ["generative" if word == "smoothed" else word for word in arguments]
    config = parse_options(arguments).config
    assert config is None or config.name == "my_settings.yaml" or (ROOT / config).is_file()


def test_readme_table_has_every_utility():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("| utility |")[2].partition("\n\n")[0]
    named = re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in table.splitlines()[2:]))
    assert sorted(named) == sorted(UTILITIES)


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

    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").replace("> ", "").split())
    names = [author["family-names"] for author in paper["authors"]]
    assert f"{', '.join(names[:-1])} and {names[-1]} ({paper['year']}): *{paper['title']}*" in text


def test_picture_is_well_formed_and_asks_nobody():
    path = ROOT / "overview.svg"
    assert "(overview.svg)" in (ROOT / "README.md").read_text(encoding="utf-8")
    tree = ElementTree.parse(path)
    assert tree.getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert tree.getroot().find("{http://www.w3.org/2000/svg}title").text
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|<script|<image|@import", text)
    assert "prefers-color-scheme: dark" in text
