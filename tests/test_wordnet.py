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


@pytest.fixture
def folder(tmp_path):
    for name, lines in INDEX.items():
        (tmp_path / f"index.{name}").write_text(LICENCE + lines)
    return tmp_path


def test_shares_of_senses(folder):
    words = ["dog", "run", "wooden", "'tween", "DOG", "guinea pig", "dogs", "1", ""]
    assert pos_shares(folder, words).tolist() == [
        [7 / 8, 1 / 8, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
        [7 / 8, 1 / 8, 0, 0],
        [1, 0, 0, 0],
        *[[0, 0, 0, 0]] * 3,
    ]
    assert pos_shares(folder, []).shape == (0, 4)


@pytest.mark.parametrize("line", ["dog n", "dog n many 5 @"])
def test_what_cannot_be_read_names_file_and_remedy(folder, line):
    (folder / "index.adj").write_text(LICENCE + line + "\n")
    assert "index.adj" in refusal_of(pos_shares, folder, ["dog"])
    (folder / "index.adj").unlink()
    message = refusal_of(pos_shares, folder, ["dog"])
    assert "index.adj" in message
    assert "wordnet-base" in message
    assert "--wordnet_dir" in message


@pytest.mark.skipif(
    not Path("/usr/share/wordnet/index.noun").is_file(), reason="needs Debian's wordnet-base"
)
def test_the_real_wordnet():
    dog, quickly, the = pos_shares(Path("/usr/share/wordnet"), ["dog", "quickly", "the"])
    assert dog.tolist() == [7 / 8, 1 / 8, 0, 0]
    assert quickly.argmax() == 3
    assert the.tolist() == [0, 0, 0, 0]
