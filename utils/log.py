"""Logging to the console and, where asked for, to a file."""

import logging
import sys
from pathlib import Path
from typing import TextIO

from utils.errors import UserError


class _Console(logging.StreamHandler[TextIO]):
    """Standard output; when its reader is gone (``| head``), the program ends."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Pass a broken pipe on, and treat other errors as usual."""
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            raise
        super().handleError(record)


def start_logging(log_file: Path | None) -> None:
    """Send messages to standard output and, with times, to ``log_file`` (appended).

    Raises:
        UserError: the log file cannot be written.
    """
    root = logging.getLogger()
    stop_logging()
    console = _Console(sys.stdout)
    console.setFormatter(logging.Formatter("%(message)s"))
    root.addHandler(console)
    if log_file is not None:
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            to_file = logging.FileHandler(log_file, encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"cannot write {log_file}: {error.strerror}; check the folder's permissions"
            ) from None
        to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root.addHandler(to_file)
    root.setLevel(logging.INFO)


def silence_logging() -> None:
    """Let messages go nowhere, for a process whose fellow says the same."""
    logging.getLogger().addHandler(logging.NullHandler())


def stop_logging() -> None:
    """Close and remove the handlers of ``start_logging``."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if type(handler) in (_Console, logging.FileHandler):
            root.removeHandler(handler)
            handler.close()
