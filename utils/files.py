"""Files that are either written whole or not at all, and their identity."""

import fcntl
import glob
import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from utils.errors import UserError

OLD_SECONDS = 24 * 60 * 60  # after which no other machine writes a temporary file any more

logger = logging.getLogger(__name__)


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write ``path`` through ``write(file)``; whatever stood there stays until all is on disk.

    The bytes go to a neighbour named ``<name>.<machine>-<process>.tmp``, are flushed to the disk,
    and the neighbour then takes the name; the folder is created where it is missing. When ``write``
    fails, ``path`` is untouched and the neighbour is removed. Of two processes that write at once,
    the later one's file stays, whole. What a killed process left behind is removed.

    Raises:
        UserError: the folder cannot be made or written (no permission, a full disk).
    """
    temporary = path.with_name(f"{path.name}.{platform.node()}-{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for other in path.parent.glob(f"{glob.escape(path.name)}.*-*.tmp"):
            with suppress(FileNotFoundError):  # another process was quicker
                if _is_left_over(other):
                    other.unlink()
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name itself survives a power loss
        finally:
            os.close(folder)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; check the folder's permissions and "
            "the free disk space"
        ) from error


def _is_left_over(temporary: Path) -> bool:
    """Say whether the process that wrote a temporary file has ended, or must have."""
    writer = temporary.name.removesuffix(".tmp")
    process = writer.rpartition("-")[2]
    if writer.endswith(f".{platform.node()}-{process}") and process.isdecimal():
        try:
            os.kill(int(process), 0)  # sends nothing
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            return False
        return int(process) == os.getpid()
    return time.time() - temporary.stat().st_mtime > OLD_SECONDS


def require_writable_folder(path: Path) -> None:
    """Make a folder, and see that files can be written in it, before long work begins.

    Raises:
        UserError: it cannot be made, is no folder, or cannot be written.
    """
    probe = path / f".writable.{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write in the folder {path}: {error.strerror or error}; check the path and its "
            "permissions"
        ) from None


@contextmanager
def only_process(path: Path, what: str) -> Iterator[None]:
    """Be the only process that does something, as long as the ``with`` block lasts.

    The lock is the kernel's, on the file ``path``: it ends with the process, however that ends.
    A file that a killed process left behind stands in nobody's way.

    Args:
        path: The lock file; its folder is created where it is missing.
        what: What is done, for the error message ("the training of 'model1'").

    Raises:
        UserError: another process holds the lock, or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _locked_file(path)
    except BlockingIOError:
        raise UserError(
            f"{what} is under way in another process ({path} is locked); wait for its end, stop "
            "it, or give another --model_name"
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; check the folder's permissions"
        ) from None
    with file:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked_file(path: Path) -> IO[bytes]:
    """Open and lock a file, created where it is missing.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    while True:
        file = path.open("ab")
        try:
            # not flock: its locks pass on to child processes, which may outlive a killed parent
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except PermissionError as error:  # some systems say this of a lock that is held
            file.close()
            raise BlockingIOError from error
        except BlockingIOError:
            file.close()
            raise
        except OSError as error:
            logger.warning("%s: no locks on this file system (%s)", path, error.strerror)
            return file
        try:
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        file.close()  # its holder removed it between our two calls


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all (see ``write_atomically``)."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8")))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON; NaN and infinities are refused (``ValueError``)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def parse_json(text: str) -> Any:
    """Return what a JSON text holds.

    Raises:
        ValueError: it is no JSON, or nests too deeply to be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def read_text(path: Path, what: str) -> str:
    """Return the text of a UTF-8 file, a byte-order mark removed.

    Args:
        path: The file.
        what: What the file is, for the error message ("the category file").

    Raises:
        UserError: the file is missing, unreadable, or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{what} is missing: no file {path}; put it there") from None
    except OSError as error:
        raise UserError(
            f"cannot read {what} {path}: {error.strerror}; check the path and its permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{what} {path} is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from error


def read_lines(path: Path, what: str) -> list[str]:
    """Return the lines of a UTF-8 file, with Unix or Windows line ends (see ``read_text``).

    Only line feeds end a line: the rarer separators of Unicode may stand within a word or field.
    """
    return [line.removesuffix("\r") for line in read_text(path, what).split("\n")]


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_size(path: Path) -> int | None:
    """Return a file's size in bytes, None where it is not there or cannot be reached."""
    try:
        return path.stat().st_size
    except OSError:
        return None
