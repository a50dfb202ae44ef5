"""What data a model or a result comes from.

An identity is a dict of some of the parts below, each a hash, made once when the data is loaded and
stored with every model and result. A part that was not read is absent.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

PARTS = {
    "captions": "other training captions",
    "test": "other test images, captions or boxes",
    "norms": "other norms",
    "word_list": "another word list",
    "model": "another training of the model",
}


def digest(*contents: Any) -> str:
    """Return a hash of arrays, and of plain values as JSON writes them."""
    found = hashlib.sha256()
    for content in contents:
        if isinstance(content, np.ndarray):
            found.update(np.ascontiguousarray(content).tobytes())
        else:
            found.update(json.dumps(content, sort_keys=True).encode())
    return found.hexdigest()


def what_differs(
    one: Mapping[str, Any], other: Mapping[str, Any], parts: Iterable[str] = PARTS
) -> list[str]:
    """Say in words which parts differ between two identities; a part that one lacks does not."""
    return [
        PARTS[part]
        for part in parts
        if None not in (one.get(part), other.get(part)) and one[part] != other[part]
    ]
