"""Which of several processes this is, by the environment that torchrun gives each."""

import os


def process_count() -> int:
    """Return how many processes torchrun started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_rank() -> int:
    """Return which of them this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Return which of the processes on this machine this is, from 0; each has a GPU of its own."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def spare_workers(wanted: int) -> int:
    """Return how many processes may read images beside a CNN on the same CPU, which needs two."""
    return max(0, min(wanted, (os.cpu_count() or 1) - 2))
