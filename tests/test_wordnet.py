"""WordNet's index files: counts, shares, and what is refused."""

from pathlib import Path

import pytest

from datasets_src.wordnet import PARTS_OF_SPEECH, load_wordnet
from tests.test_coco import refusal_of

LICENCE = "  1 This software is provided to you by ...  \n  2 dog n 9 9  \n"
INDEX = {
    "noun": "dog n 7 5 @ ~ #m #p %p 7 1 02084071 10114209  \nguinea_pig n 2 1 @ 2 0 1 2  \n",
    "verb": "dog v 1 2 @ ~ 1 0 02001858  \nrun v 41 2 @ ~ 41 30 1  \n",
    "adj": "wooden a 2 1 & 2 1 1 2  \n",
    "adv": "'tween r 1 0 1 0 00250898  \n",
}


@pytest.fixture
def folder(tmp_path):
    for name, lines in INDEX.items():
        (tmp_path / f"index.{name}").write_text(LICENCE + lines)
    return tmp_path


def test_shares_are_those_of_the_synset_counts(folder):
    wordnet = load_wordnet(folder)
    assert PARTS_OF_SPEECH == ("noun", "verb", "adj", "adv")
    assert wordnet.synset_counts["dog"] == (7, 1, 0, 0)
    assert wordnet.pos_shares("dog").tolist() == [7 / 8, 1 / 8, 0, 0]
    assert wordnet.pos_shares("run").tolist() == [0, 1, 0, 0]
    assert wordnet.pos_shares("wooden").tolist() == [0, 0, 1, 0]
    assert wordnet.pos_shares("'tween").tolist() == [0, 0, 0, 1]


def test_words_are_looked_up_in_lower_case_with_underscores(folder):
    wordnet = load_wordnet(folder)
    assert wordnet.pos_shares("DOG").tolist() == [7 / 8, 1 / 8, 0, 0]
    assert wordnet.pos_shares("guinea pig").tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("word", ["dogs", "unheard", "", "1", "2", "This"])
def test_unknown_words_have_no_shares(folder, word):
    assert load_wordnet(folder).pos_shares(word).tolist() == [0, 0, 0, 0]


def test_the_licence_is_no_entry(folder):
    assert set(load_wordnet(folder).synset_counts) == {"dog", "guinea_pig", "run", "wooden",
                                                       "'tween"}  # fmt: skip


@pytest.mark.parametrize("name", PARTS_OF_SPEECH)
def test_a_missing_file_names_package_and_option(folder, name):
    (folder / f"index.{name}").unlink()
    message = refusal_of(load_wordnet, folder)
    assert f"index.{name}" in message
    assert "wordnet-base" in message
    assert "--wordnet_dir" in message
    assert "index.noun" in refusal_of(load_wordnet, folder / "absent")


@pytest.mark.parametrize(
    "line", ["dog", "dog n", "dog n x 5", "dog n -1 5", "dog n 0 5", "dog n 7"]
)
def test_a_malformed_line_is_named(folder, line):
    path = folder / "index.verb"
    path.write_text(LICENCE + "run v 41 2 @\n" + line + "\n")
    message = refusal_of(load_wordnet, folder)
    assert str(path) in message
    assert "line 4" in message


@pytest.mark.skipif(
    not Path("/usr/share/wordnet/index.noun").is_file(), reason="needs Debian's wordnet-base"
)
def test_the_real_wordnet():
    wordnet = load_wordnet(Path("/usr/share/wordnet"))
    assert len(wordnet.synset_counts) > 140000
    assert wordnet.synset_counts["dog"] == (7, 1, 0, 0)
    assert wordnet.pos_shares("quickly").argmax() == 3
    assert wordnet.pos_shares("the").tolist() == [0, 0, 0, 0]
