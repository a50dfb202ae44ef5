"""Data of any size for measurements: annotations in COCO's layout, norms, words.

Nothing in it can be learned; only sizes and shapes are those of real data. Axes: V words.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice, product
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from datasets_src.captions import TokenizedCaptions
from datasets_src.norms import ASSOCIATION_FILE, CATEGORY_FILE, CONCRETENESS_FILE
from tests.coco_files import file_name, write_annotations

CAPTION_WORDS = 10  # in the mean; COCO's captions have 10 or 11
CLASSES = 80  # COCO's
WORD_CATEGORIES, CATEGORY_WORDS = 41, 13  # of the category file, and words in each


@dataclass(frozen=True)
class SplitSize:
    """How much a split holds."""

    images: int
    captions: int
    instances: int


def invented_words(count: int) -> list[str]:
    """Return ``count`` distinct words of three syllables, 857,375 at most."""
    syllables = [first + second for first, second in product("bcdfghjklmnprstvwxz", "aeiou")]
    words = ("".join(three) for three in product(syllables, repeat=3))
    return list(islice(words, count))


def zipf_captions(words: int, captions: int, rng: np.random.Generator) -> TokenizedCaptions:
    """Return captions of random length whose word ids follow Zipf's law."""
    lengths = rng.integers(CAPTION_WORDS - 3, CAPTION_WORDS + 4, size=captions)
    frequency = 1 / np.arange(1, words + 1)
    tokens = rng.choice(words, size=lengths.sum(), p=frequency / frequency.sum())
    return TokenizedCaptions(tokens.astype(np.int32), np.cumsum([0, *lengths]))


def invented_captions(words: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """Return captions in which all words occur, if there is room, with Zipf's frequencies."""
    drawn = zipf_captions(len(words), count, rng)
    drawn.tokens[: len(words)] = np.arange(len(words))[: len(drawn.tokens)]
    pieces = np.split(rng.permutation(drawn.tokens), drawn.offsets[1:-1])
    return [" ".join([words[word] for word in piece]) for piece in pieces]


def invented_pictures(count: int, width: int, height: int, rng: np.random.Generator) -> list[bytes]:
    """Return JPEG files of smooth coloured noise."""
    files = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(256, size=(12, 16, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def write_split(
    datasets_dir: Path,
    split: str,
    size: SplitSize,
    words: Sequence[str],
    pictures: Sequence[bytes],
    rng: np.random.Generator,
) -> None:
    """Write a split of COCO 2014: both annotation files and the images, ``pictures`` in turn.

    Images, captions and instances follow each other at random, as in COCO's files.
    """
    with Image.open(io.BytesIO(pictures[0])) as picture:
        width, height = picture.size
    coco = datasets_dir / "COCO"
    (coco / split).mkdir(parents=True)
    ids = (rng.permutation(size.images) + 1).tolist()
    for image_id, picture_file in zip(ids, cycle(pictures), strict=False):
        (coco / split / file_name(image_id, split)).write_bytes(picture_file)
    of_captions = rng.permutation(np.resize(ids, size.captions)).tolist()
    texts = invented_captions(words, size.captions, rng)
    corners = rng.random((size.instances, 2, 2)) * [width, height]
    low = corners.min(axis=1)
    boxes = np.hstack([low, corners.max(axis=1) - low]).round(2)  # (G, 4) x, y, width, height
    of_instances = rng.choice(ids, size=size.instances).tolist()
    classes = rng.integers(1, CLASSES + 1, size=size.instances).tolist()
    write_annotations(
        coco,
        split,
        dict.fromkeys(ids, (width, height)),
        list(zip(of_captions, texts, strict=True)),
        list(zip(of_instances, classes, boxes.tolist(), strict=True)),
        dict(enumerate(words[:CLASSES], start=1)),
    )


def write_norms(
    datasets_dir: Path, words: Sequence[str], associations: int, rng: np.random.Generator
) -> None:
    """Write a category file, a rating for each word, and pairs of associated words."""
    members = np.array(words[: WORD_CATEGORIES * CATEGORY_WORDS]).reshape(WORD_CATEGORIES, -1)
    categories = {f"category{k}": dict.fromkeys(row, 5.0) for k, row in enumerate(members.tolist())}
    (datasets_dir / CATEGORY_FILE).write_text(yaml.safe_dump(categories))
    ratings = (1 + 4 * rng.random(len(words))).round(2)
    table = pd.DataFrame({"Word": words, "Bigram": 0, "Conc.M": ratings})
    table.to_csv(datasets_dir / CONCRETENESS_FILE, sep="\t", index=False)
    pairs = np.array(words)[rng.integers(len(words), size=(associations, 2))]
    table = pd.DataFrame({"kind": "strength", "cue": pairs[:, 0], "said": pairs[:, 1], "count": 3})
    table.to_csv(datasets_dir / ASSOCIATION_FILE, sep="\t", index=False, header=False)
