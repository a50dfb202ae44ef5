import hashlib
import json
import multiprocessing
import os
import platform
import subprocess
import time
from pathlib import Path

import pytest

from tests.test_coco import refusal_of
from utils.errors import UserError
from utils.files import read_text, sha256_of_file, write_atomically, write_json, write_text


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_writes_the_bytes_and_leaves_nothing_else(tmp_path):
    write_atomically(tmp_path / "a.bin", lambda file: file.write(b"\x00\xff\r\n"))
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\xff\r\n"
    assert names_in(tmp_path) == ["a.bin"]


def test_replaces_the_old_content_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a much longer old content")
    write_text(path, "new")
    assert path.read_text() == "new"


def test_missing_folders_are_created(tmp_path):
    path = tmp_path / "one" / "two" / "a.txt"
    write_text(path, "x")
    assert path.read_text() == "x"
    assert names_in(path.parent) == ["a.txt"]


def test_file_appears_only_when_all_is_written(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    seen = []

    def write(file):
        file.write(b"new")
        file.flush()
        seen.append(path.read_text())

    write_atomically(path, write)
    assert seen == ["old"]
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, RuntimeError])
@pytest.mark.parametrize("old", ["old", None])
def test_old_content_stays_when_the_writer_fails(tmp_path, error, old):
    path = tmp_path / "a.txt"
    if old is not None:
        path.write_text(old)

    def write(file):
        file.write(b"half of the n")
        raise error

    with pytest.raises(error):
        write_atomically(path, write)
    assert names_in(tmp_path) == ([] if old is None else ["a.txt"])
    assert old is None or path.read_text() == old


def test_full_disk_is_the_users_mistake_and_the_old_content_stays(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    message = refusal_of(write_atomically, path, write)
    assert str(path) in message
    assert "No space left on device" in message
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["a.txt"]


def test_left_overs_of_killed_runs_are_removed(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    here = platform.node()
    dead, old = f"a.txt.{here}-{ended.pid}.tmp", "a.txt.elsewhere-7.tmp"
    alive, young, others = (
        f"a.txt.{here}-{os.getppid()}.tmp",
        "a.txt.elsewhere-8.tmp",
        f"b.txt.{here}-{ended.pid}.tmp",
    )
    for name in (dead, old, alive, young, others):
        (tmp_path / name).write_text("left over from a killed run, and longer")
    os.utime(tmp_path / old, (time.time() - 90_000,) * 2)
    write_text(tmp_path / "a.txt", "new")
    assert names_in(tmp_path) == sorted(["a.txt", alive, young, others])
    assert (tmp_path / "a.txt").read_text() == "new"


def write_often(path: Path, text: str) -> None:
    for _ in range(100):
        write_text(path, text)


def test_two_processes_that_write_one_file_leave_it_whole(tmp_path):
    path = tmp_path / "a.txt"
    contents = ["a" * 50_000, "b" * 60_000]
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_often, args=(path, text)) for text in contents]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if path.exists():
            assert path.read_text() in contents
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert names_in(tmp_path) == ["a.txt"]


def test_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("no folder")
    path = tmp_path / "file" / "a.txt"
    assert str(path) in refusal_of(write_text, path, "x")
    assert (tmp_path / "file").read_text() == "no folder"


def test_folder_in_place_of_the_file_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.mkdir()
    assert str(path) in refusal_of(write_text, path, "x")
    assert names_in(tmp_path) == ["a.txt"]
    assert path.is_dir()


def test_folder_without_permission_is_refused(tmp_path, monkeypatch):
    """Whoever runs the tests may be root, whom permissions do not stop: opening is made to."""

    def forbidden(self, *_args, **_options):
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.open", forbidden)
        message = refusal_of(write_text, tmp_path / "a.txt", "x")
    assert str(tmp_path / "a.txt") in message
    assert "Permission denied" in message
    assert names_in(tmp_path) == []


def test_text_is_written_as_utf8(tmp_path):
    write_text(tmp_path / "a.txt", "Straße\n")
    assert (tmp_path / "a.txt").read_bytes() == "Straße\n".encode()


def test_json_is_read_back_and_keeps_letters(tmp_path):
    value = {"ü": [1, 2.5, None, True], "b": {"c": "d"}}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "ü" in text
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [-float("inf")]}])
def test_json_without_a_number_is_refused_and_the_old_file_stays(tmp_path, value):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, value)
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\xef\xbb\xbfa\tb", "a\tb"),
        (b"a\r\nb\n", "a\nb\n"),
        ("Straße".encode(), "Straße"),
        (b"", ""),
    ],
)
def test_text_is_read_as_utf8_without_byte_order_mark(tmp_path, content, text):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    assert read_text(path, "the list") == text


def test_text_that_is_not_utf8_is_refused_with_the_byte(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"abc\xe4")
    message = refusal_of(read_text, path, "the list")
    assert message.startswith("the list")
    assert str(path) in message
    assert "byte 3" in message


def test_missing_file_and_folder_are_refused_by_name(tmp_path):
    for path in (tmp_path / "absent.txt", tmp_path):
        message = refusal_of(read_text, path, "the list")
        assert "the list" in message
        assert str(path) in message


def test_sha256_is_that_of_the_bytes(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "a.bin").write_bytes(content)
    assert sha256_of_file(tmp_path / "a.bin") == hashlib.sha256(content).hexdigest()


def test_user_error_is_an_ordinary_exception_with_its_message():
    assert str(UserError("what, where, what to do")) == "what, where, what to do"
    assert not issubclass(UserError, (ValueError, OSError))  # which other code may swallow
