"""One hash for the data that a model or a result comes from."""

import hashlib
import json
from typing import Any

import numpy as np


def digest(*contents: Any) -> str:
    """Return a hash of arrays, and of plain values as JSON writes them."""
    found = hashlib.sha256()
    for content in contents:
        if isinstance(content, np.ndarray):
            found.update(np.ascontiguousarray(content).tobytes())
        else:
            found.update(json.dumps(content, sort_keys=True).encode())
    return found.hexdigest()
