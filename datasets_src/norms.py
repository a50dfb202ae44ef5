"""Human norms of words: taxonomic categories, concreteness ratings, word associations."""

import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from utils.errors import UserError
from utils.files import digest, read_each_line, read_lines, reading, sha256_of_file

CATEGORY_FILE = "mcrae_typicality.yaml"  # Fountain and Lapata (2010)
CONCRETENESS_FILE = "Concreteness_ratings_Brysbaert_et_al_BRM.txt"  # Brysbaert et al. (2014)
ASSOCIATION_FILE = "swow.en.csv"  # De Deyne et al. (2019), Small World of Words
RATING_COLUMNS = ("Word", "Bigram", "Conc.M")  # those used of the concreteness file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Categories:
    """A taxonomic category for each of W words."""

    words: tuple[str, ...]  # W words in the file's order of first appearance
    category: np.ndarray  # (W,) int64 index into names
    names: tuple[str, ...]

    def by_word(self) -> dict[str, str]:
        """Return the name of each word's category."""
        return dict(zip(self.words, (self.names[index] for index in self.category), strict=True))


@dataclass(frozen=True)
class Norms:
    """The human norms of a datasets folder; None for what is absent."""

    categories: Categories | None
    concreteness: dict[str, float] | None  # word -> rating in 1..5
    association_file: Path | None  # read for the words of interest only, see load_associations
    word_list: frozenset[str] | None  # restricts the evaluated words
    absent: dict[str, str]  # metric -> why it cannot be measured

    def evaluated_words(self, occurring: Iterable[str]) -> list[str]:
        """Return the words of the category file that occur and stand in the word list, if any."""
        if self.categories is None:
            return []
        allowed = set(occurring)
        if self.word_list is not None:
            allowed &= self.word_list
        return [word for word in self.categories.words if word in allowed]

    def fingerprint(self) -> str:
        """Return a hash of the norms; the word list, which only chooses words, is no part."""
        categories = self.categories
        content = [
            categories and [categories.words, categories.category.tolist(), categories.names],
            self.concreteness,
            self.association_file and sha256_of_file(self.association_file),
        ]
        return digest(json.dumps(content))


def load_norms(
    datasets_dir: Path, word_list: Path | None = None, *, log_absent: bool = True
) -> Norms:
    """Load the norms that are there; each that is absent is logged, unless told not to."""
    files = {
        "categorization": datasets_dir / CATEGORY_FILE,
        "concreteness": datasets_dir / CONCRETENESS_FILE,
        "word_association": datasets_dir / ASSOCIATION_FILE,
    }
    absent = {
        metric: f"no file {path.name} in {datasets_dir}"
        for metric, path in files.items()
        if not path.is_file()
    }
    if "categorization" in absent:  # the evaluated words are those of the category file
        absent["word_association"] = absent["categorization"]
    for metric, reason in absent.items() if log_absent else ():
        logger.info("%s is not measured: %s", metric, reason)
    return Norms(
        categories=None if "categorization" in absent else load_categories(files["categorization"]),
        concreteness=None if "concreteness" in absent else load_concreteness(files["concreteness"]),
        association_file=None if "word_association" in absent else files["word_association"],
        word_list=None if word_list is None else load_word_list(word_list),
        absent=absent,
    )


def load_categories(path: Path) -> Categories:
    """Read ``category -> {word: typicality}`` from YAML.

    A word in several categories belongs to the one where its typicality is highest (ties: the
    first in the file). A category that stands twice is one with the words of both.
    """
    names: dict[str, int] = {}
    best: dict[str, tuple[float, int]] = {}
    times: Counter[str] = Counter()
    with reading(path, "each category should look like 'category: {word: typicality}'"):
        # nodes, and not what they would be read as: the words "no" and "on" stay words, and nothing
        # that stands twice gets lost
        root = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
        if not isinstance(root, yaml.MappingNode) or not root.value:
            raise ValueError("it holds no categories")
        for name, members in root.value:
            if not isinstance(members, yaml.MappingNode):
                raise ValueError(f"line {name.start_mark.line + 1}: {name.value} holds no words")
            index = names.setdefault(name.value, len(names))
            times[name.value] += 1
            for node, typicality in members.value:
                word, line = node.value, node.start_mark.line + 1
                times[f"{word} in {name.value}"] += 1
                try:
                    value = _finite(typicality.value)
                except (TypeError, ValueError):
                    raise ValueError(
                        f"line {line}: the typicality of {word} is no number"
                    ) from None
                if word not in best or value > best[word][0]:
                    best[word] = (value, index)
    repeated = [what for what, count in times.items() if count > 1]
    if repeated:
        counts = f"{len(repeated)}, the first {repeated[0]}; the higher typicality counts"
        logger.warning("%s: categories and words that stand twice: %s", path, counts)
    return Categories(
        words=tuple(best),
        category=np.array([index for _, index in best.values()], dtype=np.int64),
        names=tuple(names),
    )


def load_concreteness(path: Path) -> dict[str, float]:
    """Read the ratings (1..5) of single words, lower case; where a word stands twice, the first."""
    header = read_lines(path)[0].split("\t")
    ratings: dict[str, float] = {}

    def read_rating(line: str) -> None:
        columns = line.split("\t")
        word, bigram, rating = (columns[header.index(name)] for name in RATING_COLUMNS)
        if columns != header:
            value = _finite(rating)
            if bigram.strip() == "0":
                ratings.setdefault(word.strip().lower(), value)

    read_each_line(path, read_rating, f"columns {', '.join(RATING_COLUMNS)} ... with tabs between")
    if not ratings:
        raise UserError(f"{path} holds no rating; use the file as published")
    return ratings


def load_associations(path: Path, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read the association strengths of the unordered pairs among ``words``.

    The counts of both orders and of all relations are added up. Returns (P, 2) int64 indices i < j
    into ``words``, each pair once, and (P,) float64 strengths.
    """
    index = {word: position for position, word in enumerate(words)}
    strengths: dict[tuple[int, ...], float] = {}

    def read_association(line: str) -> None:
        _, first, second, count = line.split("\t")
        value = _finite(count)
        if value < 0:
            raise ValueError
        if first != second and first in index and second in index:
            pair = tuple(sorted((index[first], index[second])))
            strengths[pair] = strengths.get(pair, 0.0) + value

    read_each_line(path, read_association, "relation, word, word, count with tabs between")
    pairs = np.array(list(strengths), dtype=np.int64).reshape(-1, 2)
    return pairs, np.array(list(strengths.values()), dtype=np.float64)


def load_word_list(path: Path) -> frozenset[str]:
    """Read one word a line, lower case."""
    words = frozenset(line.strip().lower() for line in read_lines(path)) - {""}
    if not words:
        raise UserError(f"the word list {path} holds no word; give one word a line")
    return words


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value
