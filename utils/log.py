"""Logging to the console and, where asked for, to a file."""

import contextlib
import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TextIO

from utils.errors import UserError

LARGEST_LOG = 5_000_000  # bytes of a log file; what was there before is kept as <name>.1


class _LogFile(RotatingFileHandler):
    """A log file that never fills the disk, and never ends the work where the disk is full."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say once that nothing more can be logged there, and log on to the console alone."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        logging.getLogger().removeHandler(self)
        with contextlib.suppress(OSError):
            self.close()
        logging.getLogger(__name__).warning(
            "no more messages go to %s: %s", self.baseFilename, error.strerror or error
        )


class _Console(logging.StreamHandler[TextIO]):
    """Standard output; when its reader is gone (``| head``), the program ends."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Pass a broken pipe on, and treat other errors as usual."""
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            raise
        super().handleError(record)


def start_logging(log_file: Path | None) -> None:
    """Send messages to standard output and, with times, to ``log_file`` (appended).

    A file that would grow beyond ``LARGEST_LOG`` becomes ``<name>.1``, in place of an older one.

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
            to_file = _LogFile(log_file, maxBytes=LARGEST_LOG, backupCount=1, encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"cannot write {log_file}: {error.strerror}; check the folder's permissions"
            ) from None
        to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root.addHandler(to_file)
    root.setLevel(logging.INFO)


def note_error(message: str) -> None:
    """Write an error to the log file, where there is one; it goes to standard error otherwise."""
    record = logging.makeLogRecord(
        {"msg": message, "levelno": logging.ERROR, "levelname": logging.getLevelName(logging.ERROR)}
    )
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _LogFile):
            handler.handle(record)


def silence_logging() -> None:
    """Let messages go nowhere, for a process whose fellow says the same."""
    logging.getLogger().addHandler(logging.NullHandler())


def stop_logging() -> None:
    """Close and remove the handlers of ``start_logging``."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _Console | _LogFile):
            root.removeHandler(handler)
            handler.close()
