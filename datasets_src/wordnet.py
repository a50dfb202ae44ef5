"""Parts of speech of English words, from the index files of Princeton WordNet (Miller 1995)."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.files import read_lines

PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")  # the order of all counts and shares


@dataclass(frozen=True)
class WordNet:
    """How many synsets (senses) each lemma has as each part of speech."""

    synset_counts: dict[str, tuple[int, ...]]  # lemma -> a count for each of PARTS_OF_SPEECH

    def pos_shares(self, word: str) -> np.ndarray:
        """Return the share of a word's synsets that belongs to each part of speech.

        The word is looked up as it stands, in lower case and with underscores for spaces, as
        WordNet writes its lemmas. Inflected forms are not traced back to a lemma: "dogs" is
        unknown unless WordNet lists it ("glasses" stands there by itself).

        Returns:
            (4,) float64 in the order of ``PARTS_OF_SPEECH``, with sum 1; zeros for a word that
            WordNet lacks.
        """
        counts = self.synset_counts.get(word.lower().replace(" ", "_"))
        if counts is None:
            return np.zeros(len(PARTS_OF_SPEECH))
        return np.array(counts, dtype=np.float64) / sum(counts)


def load_wordnet(folder: Path) -> WordNet:
    """Read ``index.noun``, ``index.verb``, ``index.adj`` and ``index.adv``.

    A line is ``lemma pos synset_cnt ...`` (see WordNet's manual page wndb); those of the licence
    begin with a space.

    Args:
        folder: WordNet's folder; the Debian package wordnet-base has it in /usr/share/wordnet.

    Raises:
        UserError: a file is missing, or a line is malformed, naming the line.
    """
    counts: dict[str, list[int]] = {}
    for position, name in enumerate(PARTS_OF_SPEECH):
        path = folder / f"index.{name}"
        if not path.is_file():
            raise UserError(
                f"no file {path} of WordNet; install the Debian package wordnet-base, or name the "
                "folder of WordNet's index files with --wordnet_dir"
            )
        for number, line in enumerate(read_lines(path, "WordNet's index"), start=1):
            if not line.strip() or line.startswith(" "):
                continue
            fields = line.split(" ", 3)
            # no word has thousands of meanings, and Python refuses numbers of thousands of digits
            if len(fields) < 4 or not re.fullmatch("[0-9]{1,6}", fields[2]) or int(fields[2]) < 1:
                raise UserError(
                    f"{path}, line {number}: not 'lemma pos synset_cnt ...' as in WordNet's index "
                    "files; restore the file"
                )
            counts.setdefault(fields[0], [0] * len(PARTS_OF_SPEECH))[position] = int(fields[2])
    return WordNet({lemma: tuple(by_pos) for lemma, by_pos in counts.items()})
