"""Files are written whole or not at all; bad ones end in one line; identities say what differs."""

import json
import os
import pickle
import platform
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from utils.errors import UserError
from utils.files import (
    only_process,
    read_lines,
    read_text,
    reading,
    require_writable_folder,
    write_atomically,
    write_json,
    write_text,
)
from utils.identity import PARTS, digest, what_differs

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_file_is_replaced_whole_or_stays_when_the_writer_fails(tmp_path, old):
    path = tmp_path / "folder" / "file"
    if old is not None:
        write_atomically(path, lambda file: file.write(old))

    def fail(file):
        file.write(b"half")
        assert path.exists() == (old is not None)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert [file.read_bytes() for file in path.parent.iterdir()] == ([] if old is None else [old])
    write_atomically(path, lambda file: file.write(b"new"))
    assert [file.read_bytes() for file in path.parent.iterdir()] == [b"new"]


def test_left_overs_of_killed_runs_are_removed_and_those_of_others_stay(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    path = tmp_path / "a[1].txt"
    left = tmp_path / f"{path.name}.{platform.node()}-{dead.pid}.tmp"
    running = tmp_path / f"{path.name}.{platform.node()}-{os.getppid()}.tmp"
    elsewhere = tmp_path / f"{path.name}.another-{dead.pid}.tmp"
    for file in (left, running, elsewhere):
        file.touch()
    write_text(path, "x")
    assert sorted(tmp_path.iterdir()) == sorted([path, running, elsewhere])


def test_folders_and_full_disks_are_the_users_mistakes(tmp_path):
    (tmp_path / "file").touch()
    for act in (
        lambda: write_text(tmp_path / "file" / "x", "x"),
        lambda: require_writable_folder(tmp_path / "file" / "x"),
    ):
        with pytest.raises(UserError, match=r"cannot write .*; check"):
            act()

    def fill(_file):
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"cannot write .*No space left on device; check"):
        write_atomically(tmp_path / "y", fill)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file"]


def test_json_and_text_are_read_back(tmp_path):
    write_json(tmp_path / "a.json", {"ü": [1, None]})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"ü": [1, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert "ü" in read_text(tmp_path / "a.json", "the file")
    (tmp_path / "b").write_bytes("\ufeffa\u2028b\r\nc".encode())
    assert read_lines(tmp_path / "b", "the list") == ["a\u2028b", "c"]


BAD = {
    "missing": lambda path: (path / "absent").read_text(),
    "folder": lambda path: path.read_text(),
    "utf8": lambda _: b"\xff".decode(),
    "json": lambda _: json.loads("{"),
    "deep json": lambda _: json.loads("[" * 100_000),
    "key": lambda _: {}["images"],
    "type": lambda _: int("3")["images"],
    "index": lambda _: [][0],
    "yaml": lambda _: yaml.safe_load("a: [\n"),
    "pickle": lambda _: pickle.loads(b"junk"),
    "zip": lambda _: zipfile.ZipFile(__file__),
    "struct": lambda _: struct.unpack("I", b""),
    "end": lambda _: pickle.loads(b""),
    "numpy": lambda _: np.zeros(3).reshape(2),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_a_parser_raises_is_one_line_with_file_and_advice(tmp_path, kind):
    with pytest.raises(UserError) as error, reading(tmp_path / "a.json", "get it again"):
        BAD[kind](tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'a.json'}: ")
    assert str(error.value).endswith("; get it again")
    assert "\n" not in str(error.value)


def test_errors_for_the_user_pass_the_boundary_unchanged(tmp_path):
    with pytest.raises(UserError, match=r"^mine$"), reading(tmp_path):
        raise UserError("mine")


def test_only_one_process_holds_a_lock(tmp_path):
    path = tmp_path / "folder" / "x.lock"
    ask = (
        "import sys; from pathlib import Path; from utils.files import only_process\n"
        "with only_process(Path(sys.argv[1]), 'the work'): print('held')"
    )

    def other() -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", ask, str(path)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    with only_process(path, "the work"):
        assert "the work is under way in another process" in other().stderr
    assert other().stdout == "held\n"
    assert not path.exists()


def test_an_identity_tells_contents_apart_and_names_what_differs():
    assert digest(np.arange(3), ["a"]) == digest(np.arange(6)[:3], ["a"])
    assert len({digest(*x) for x in ([np.arange(3)], [np.arange(4)], [["a"]], [["b"]])}) == 4
    one = {"captions": "1", "test": "2", "word_list": None}
    assert what_differs(one, {"captions": "1", "test": "2", "norms": "3", "word_list": "4"}) == []
    assert what_differs(one, {"captions": "0", "test": "0"}) == [PARTS["captions"], PARTS["test"]]
    assert what_differs(one, {"captions": "0", "test": "0"}, ["test"]) == [PARTS["test"]]
