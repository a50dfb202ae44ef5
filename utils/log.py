"""Logging to the console and, where asked for, to a file."""

import io
import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TextIO

from utils.files import writing

LARGEST_LOG = 5_000_000  # bytes of a log file; what was there before is kept as <name>.1


class _LogFile(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Say once that nothing more can be logged there, as on a full disk, and work on."""
        logging.getLogger().removeHandler(self)
        reason = getattr(sys.exc_info()[1], "strerror", None) or sys.exc_info()[1]
        logging.warning("no more messages go to %s: %s", self.baseFilename, reason)


class _Console(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:
        """Let the program end when its reader is gone (``| head``)."""
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            raise
        super().handleError(record)


def start_logging(log_file: Path | None) -> None:
    """Send messages to standard output and, with times, to ``log_file`` (appended).

    Both are UTF-8; what that cannot write, as in names of files, is escaped.
    """
    stop_logging()
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a notebook has a stream of another kind
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    root.addHandler(_Console(sys.stdout))
    if log_file is not None:
        with writing(log_file):
            log_file.parent.mkdir(parents=True, exist_ok=True)
            to_file = _LogFile(
                log_file, maxBytes=LARGEST_LOG, backupCount=1, encoding="utf-8",
                errors="backslashreplace",
            )  # fmt: skip
        to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root.addHandler(to_file)


def note_error(message: str) -> None:
    """Write an error to the log file, where there is one; it goes to standard error otherwise."""
    record = logging.makeLogRecord({"msg": message, "levelno": 40, "levelname": "ERROR"})
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
