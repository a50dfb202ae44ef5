"""TensorBoard's event files of a training, where tensorboard is installed."""

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from utils.errors import UserError

Watch = Callable[[str, int, Mapping[str, float | None]], None]


@contextmanager
def event_files(folder: Path, *, resume: bool) -> Iterator[Watch]:
    """Yield what writes scalars: it takes a group, a joint step, and values by name.

    Each value is on the disk when the call returns. A continued training writes a file of its own;
    what an earlier session wrote of the same or later steps is marked as void there, so that
    TensorBoard shows each step once. Values that are None are left out.

    Args:
        folder: Where the files go; it is made with the first value.
        resume: Whether earlier files may belong to this training; otherwise they are removed.

    Raises:
        UserError: tensorboard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "--tensorboard needs the package tensorboard, which is not installed; install it "
            "(pip install tensorboard), or leave the option out"
        )
    from torch.utils.tensorboard import SummaryWriter

    writers: list[SummaryWriter] = []  # one, from the first value on

    def watch(group: str, step: int, values: Mapping[str, float | None]) -> None:
        if not writers:
            if not resume:
                for path in folder.glob("events.out.tfevents.*"):
                    path.unlink()
            writers.append(SummaryWriter(folder, purge_step=step))
        for name, value in values.items():
            if value is not None:
                writers[0].add_scalar(f"{group}/{name}", value, step)
        writers[0].flush()

    try:
        yield watch
    finally:
        for writer in writers:
            writer.close()
