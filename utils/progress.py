"""Progress bars for people who watch a terminal."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from utils.processes import process_rank

Item = TypeVar("Item")

QUIET_SECONDS = 1.0  # what is done by then needs no bar


def with_bar(
    items: Iterable[Item], what: str, unit: str, total: int | None = None
) -> Iterator[Item]:
    """Yield items, with a bar on a terminal while that takes a while.

    ``unit`` is what an item is, in the singular; ``total`` how many there are, where ``items`` has
    no length.
    """
    yield from tqdm(
        items,
        desc=what,
        unit=unit,
        total=total,
        disable=None if process_rank() == 0 else True,  # None: unless it is a terminal
        delay=QUIET_SECONDS,
        leave=False,
        dynamic_ncols=True,
    )
