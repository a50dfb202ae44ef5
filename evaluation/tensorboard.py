"""TensorBoard's event files of a training, where tensorboard is installed."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from utils.errors import UserError

Watch = Callable[[str, int, Mapping[str, float | None]], None]


@contextmanager
def event_files(folder: Path, *, resume: bool) -> Iterator[Watch]:
    """Yield what writes scalars at once: it takes a group, a joint step, and values by name.

    A continued training (``resume``) writes a file of its own, in which what an earlier session
    wrote of the same or later steps is void; otherwise earlier files are removed. None is left out.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "--tensorboard needs the package tensorboard, which is not installed; install it "
            "(pip install tensorboard), or leave the option out"
        ) from None
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
