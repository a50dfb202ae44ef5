"""WordNet's index files: shares of parts of speech, and what is refused."""

from pathlib import Path

import pytest

from datasets_src.wordnet import pos_shares
from tests.test_coco import refusal_of

LICENCE = "  1 This software is provided to you by ...  \n  2 dog n 9 9  \n"
INDEX = {
    "noun": "dog n 7 5 @ ~ #m #p %p 7 1 02084071 10114209  \nguinea_pig n 2 1 @ 2 0 1 2  \n",
    "verb": "dog v 1 2 @ ~ 1 0 02001858  \nrun v 41 2 @ ~ 41 30 1  \n",
    "adj": "wooden a 2 1 & 2 1 1 2  \n",
    "adv": "'tween r 1 0 1 0 00250898  \n",
}


def write_wordnet(folder):
    for name, lines in INDEX.items():
        (folder / f"index.{name}").write_text(LICENCE + lines)
    return folder


def test_shares_of_senses(tmp_path):
    expected = {
        "dog": [7 / 8, 1 / 8, 0, 0],
        "run": [0, 1, 0, 0],
        "wooden": [0, 0, 1, 0],
        "'tween": [0, 0, 0, 1],
        "DOG": [7 / 8, 1 / 8, 0, 0],
        "guinea pig": [1, 0, 0, 0],
        **{word: [0, 0, 0, 0] for word in ("dogs", "1", "")},
    }
    assert pos_shares(write_wordnet(tmp_path), list(expected)).tolist() == list(expected.values())
    assert pos_shares(tmp_path, []).shape == (0, 4)


def test_what_cannot_be_read_names_file_and_remedy(tmp_path):
    path = write_wordnet(tmp_path) / "index.adj"
    for line in ("dog n", "dog n many 5 @"):
        path.write_text(LICENCE + line + "\n")
        assert "index.adj" in refusal_of(pos_shares, tmp_path, ["dog"])
    path.unlink()
    message = refusal_of(pos_shares, tmp_path, ["dog"])
    assert all(word in message for word in ("index.adj", "wordnet-base", "--wordnet_dir"))


@pytest.mark.skipif(
    not Path("/usr/share/wordnet/index.noun").is_file(), reason="needs Debian's wordnet-base"
)
def test_the_real_wordnet():
    dog, quickly, the = pos_shares(Path("/usr/share/wordnet"), ["dog", "quickly", "the"])
    assert dog.tolist() == [7 / 8, 1 / 8, 0, 0]
    assert quickly.argmax() == 3
    assert the.tolist() == [0, 0, 0, 0]
