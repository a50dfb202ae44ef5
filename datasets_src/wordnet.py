"""Parts of speech of English words, from the index files of Princeton WordNet (Miller 1995)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.files import reading

PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")


def pos_shares(folder: Path, words: Sequence[str]) -> np.ndarray:
    """Return the share of each word's synsets (senses) that belongs to each part of speech.

    Words are looked up as they stand, in lower case and with underscores for spaces, as WordNet
    writes its lemmas. Inflected forms are not traced back to a lemma: "dogs" is unknown unless
    WordNet lists it ("glasses" stands there by itself). ``folder`` has the files ``index.noun`` and
    so on, whose lines are ``lemma pos synset_cnt ...`` (WordNet's manual page wndb); those of the
    licence begin with a space.

    Returns (W, 4) float64 in the order of ``PARTS_OF_SPEECH``; a row sums to 1, or is zero for a
    word that WordNet lacks.
    """
    nothing = np.zeros(len(PARTS_OF_SPEECH))
    counts: dict[str, np.ndarray] = {}
    for position, name in enumerate(PARTS_OF_SPEECH):
        path = folder / f"index.{name}"
        hint = "install the Debian package wordnet-base, or name WordNet's folder by --wordnet_dir"
        with reading(path, hint):
            for line in path.read_text(encoding="utf-8").splitlines():
                if line.strip() and not line.startswith(" "):
                    lemma, _, synset_count = line.split(" ")[:3]
                    counts.setdefault(lemma, nothing.copy())[position] = int(synset_count)
    lemmas = [word.lower().replace(" ", "_") for word in words]
    rows = np.array([counts.get(lemma, nothing) for lemma in lemmas]).reshape(-1, 4)
    shares: np.ndarray = rows / rows.sum(axis=1, keepdims=True).clip(min=1)
    return shares
