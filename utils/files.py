"""Files: written whole or not at all, read with one boundary for what parsers raise."""

import fcntl
import glob
import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from utils.errors import UserError

Value = TypeVar("Value")

logger = logging.getLogger(__name__)


@contextmanager
def reading(path: Path, hint: str = "check the file or get it again") -> Iterator[None]:
    """Turn whatever a parser raises over the file ``path`` into a UserError of one line.

    ``hint`` says what to do.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {hint}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; {hint}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); {hint}") from error
    except KeyError as error:
        raise UserError(f"{path}: the entry {error} is missing; {hint}") from error
    except Exception as error:  # parsers raise many kinds
        raise UserError(f"{path}: {error or type(error).__name__}; {hint}") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's errors about writing ``path`` into a UserError of one line."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; check the path, its permissions and "
            "the free disk space"
        ) from error


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write ``path`` through ``write(file)``; whatever stood there stays until all is on disk.

    The bytes go to a neighbour named ``<name>.<machine>-<process>.tmp``, which then takes the name.
    What a killed process of this machine left behind is removed.
    """
    machine = platform.node()
    temporary = path.with_name(f"{path.name}.{machine}-{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for other in path.parent.glob(f"{glob.escape(f'{path.name}.{machine}')}-*.tmp"):
            if not _is_running(other.stem.rpartition("-")[2]):
                other.unlink(missing_ok=True)
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _is_running(process: str) -> bool:
    try:
        os.kill(int(process), 0)  # sends nothing
    except PermissionError:
        return True
    except (OSError, OverflowError, ValueError):
        return False
    return True


def require_writable_folder(path: Path) -> None:
    """Make a folder, and see that files can be written in it, before long work begins."""
    probe = path / f".writable.{os.getpid()}"
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()


@contextmanager
def only_process(path: Path, what: str) -> Iterator[None]:
    """Be the only process that does something, as long as the ``with`` block lasts.

    The lock is the kernel's, on the file ``path``: it ends with the process, however that ends.
    ``what`` is done, for the error message ("the training of 'model1'").
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    with file:
        try:
            # not flock: its locks pass on to child processes, which may outlive a killed parent
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(
                f"{what} is under way in another process ({path} is locked); wait for its end, "
                "stop it, or give another --model_name"
            ) from None
        except OSError as error:
            logger.warning("%s: no locks on this file system (%s)", path, error.strerror)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all; names that are no UTF-8 are escaped."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON; NaN and infinities are refused (``ValueError``)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, hint: str = "check the file or get it again") -> Any:
    """Return what a JSON file holds."""
    with reading(path, hint):
        return json.loads(path.read_text(encoding="utf-8-sig"))


def read_lines(path: Path, hint: str = "check the path and the file") -> list[str]:
    """Return the lines of a UTF-8 file, with Unix or Windows line ends, without byte-order mark.

    Only line feeds end a line: the rarer separators of Unicode may stand within a word or field.
    """
    with reading(path, hint):
        text = path.read_text(encoding="utf-8-sig")
    return [line.removesuffix("\r") for line in text.split("\n")]


def read_each_line(
    path: Path, read: Callable[[str], Value], form: str, hint: str = "get the file again"
) -> list[Value]:
    """Return ``read(line)`` of each line that is not blank.

    The first for which that is a ValueError or IndexError is refused; ``form`` says what a line
    should be.
    """
    values = []
    for number, line in enumerate(read_lines(path, hint), start=1):
        if line.strip():
            try:
                values.append(read(line))
            except (ValueError, IndexError):
                raise UserError(
                    f"{path} line {number}: {line[:100]!r} should be {form}; correct the line"
                ) from None
    return values


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*contents: Any) -> str:
    """Return a hash of arrays, of texts, and of other plain values as JSON writes them."""
    found = hashlib.sha256()
    for content in contents:
        if hasattr(content, "tobytes"):
            found.update(content.tobytes())
        else:
            text = content if isinstance(content, str) else json.dumps(content, sort_keys=True)
            found.update(text.encode())
    return found.hexdigest()
