"""Word vector files, text and binary, well formed and not."""

import gzip
import struct

import numpy as np
import pytest

from models_src.baselines import word_vectors
from models_src.baselines.word_vectors import load_word_vectors
from tests.test_coco import refusal_of

RECORDS = [("</s>", [0.5, -1.0, 2.0]), ("dog", [1.5, 0.25, -3.0]), ("né", [0.0, 1.0, 1e-3])]


def binary(records, count=None, dim=3, line_feeds=False):
    header = f"{len(records) if count is None else count} {dim}\n".encode()
    end = b"\n" if line_feeds else b""
    return header + b"".join(
        word.encode() + b" " + struct.pack(f"<{len(values)}f", *values) + end
        for word, values in records
    )


def text(records, count=None, dim=3, end="\n"):
    lines = [f"{word} {' '.join(map(repr, values))}" for word, values in records]
    header = f"{len(records) if count is None else count} {dim}"
    return end.join([header, *lines, ""]).encode()


@pytest.fixture
def written(tmp_path):
    def write(content, name="vectors"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize(
    "content",
    [
        binary(RECORDS),
        binary(RECORDS, line_feeds=True),
        text(RECORDS),
        text(RECORDS, end="\r\n"),
        text(RECORDS, end=" \n"),  # fastText ends its lines with a space
        text(RECORDS).rstrip(b"\n"),
        text(RECORDS) + b"\n\n",
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_both_forms_give_the_wanted_vectors_in_the_order_asked_for(written, content, packed):
    path = written(gzip.compress(content), "v.gz") if packed else written(content)
    known, vectors = load_word_vectors(path, ["né", "cat", "dog", "né", "Dog"], "--w2v_file")
    assert known.tolist() == [True, False, True, True, False]
    assert known.dtype == bool
    assert vectors.dtype == np.float32
    expected = np.array([RECORDS[i][1] for i in (2, 1, 2)], dtype=np.float32)
    assert vectors.tolist() == expected.tolist()


@pytest.mark.parametrize("form", [binary, text])
def test_the_first_of_two_vectors_counts(written, form):
    records = [*RECORDS, ("dog", [9.0, 9.0, 9.0])]
    known, vectors = load_word_vectors(written(form(records)), ["dog", "unheard"], "--w2v_file")
    assert known.tolist() == [True, False]
    assert vectors.tolist() == [RECORDS[1][1]]


@pytest.mark.parametrize("form", [binary, text])
def test_no_wanted_word_is_there(written, form):
    for words in ([], ["cat", "mouse"]):
        known, vectors = load_word_vectors(written(form(RECORDS)), words, "--w2v_file")
        assert known.tolist() == [False] * len(words)
        assert vectors.shape == (0, 3)
    assert load_word_vectors(written(b"0 3\n"), ["dog"], "--w2v_file")[1].shape == (0, 3)


@pytest.mark.parametrize("line_feeds", [False, True])
def test_records_may_lie_across_blocks(written, monkeypatch, line_feeds):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 5)).astype(np.float32)
    records = [(f"word{number}", row.tolist()) for number, row in enumerate(values)]
    path = written(binary(records, dim=5, line_feeds=line_feeds))
    wanted = [f"word{number}" for number in range(299, -1, -3)]
    for block in (40, 64, 101, 1 << 20):  # bytes; a record has up to 29
        monkeypatch.setattr(word_vectors, "BLOCK", block)
        known, vectors = load_word_vectors(path, [*wanted, "absent"], "--w2v_file")
        assert known.tolist() == [True] * len(wanted) + [False]
        assert (vectors == values[299::-3]).all()


def test_reading_ends_when_all_words_are_found(written):
    path = written(binary(RECORDS)[:-5])  # cut off in the last record
    assert load_word_vectors(path, ["dog"], "--w2v_file")[0].tolist() == [True]
    refusal_of(load_word_vectors, path, ["dog", "né"], "--w2v_file")


def test_a_missing_file_names_the_option(tmp_path):
    message = refusal_of(load_word_vectors, tmp_path / "absent.bin", ["dog"], "--w2v_file")
    assert "absent.bin" in message
    assert "--w2v_file" in message
    refusal_of(load_word_vectors, tmp_path, ["dog"], "--w2v_file")  # a folder


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"dog 1 2 3\n",
        b"3 x\n",
        b"\xff\xfe3 \x003\n",
        text(RECORDS, dim=4),
        text(RECORDS, dim=2),
        b"2 3\ncat 0.1 0.2 0.3\ndog 0.1 0.2\n",
        b"2 3\ncat 0.1 0.2 0.3\ndog 0.1 x 0.3\n",
        b"2 3\ncat 0.1 0.2 0.3\ndog 0.1 nan 0.3\n",
        b"2 3\ncat 0.1 0.2 0.3\ndog 0.1 1e39 0.3\n",
        text(RECORDS, count=4),
        binary(RECORDS, count=4),
        binary(RECORDS)[:-1],
        binary([("dog", [1.0, float("nan"), 0.0])]),
        b"1 3\n" + b"\xfe" * 9000,
    ],
)
def test_malformed_files_are_refused(written, content):
    path = written(content)
    assert str(path) in refusal_of(load_word_vectors, path, ["dog", "unheard"], "--w2v_file")


def test_damaged_compressed_files_are_refused(written):
    packed = gzip.compress(binary(RECORDS))
    for damaged in (b"no gzip", packed[:-12]):
        message = refusal_of(load_word_vectors, written(damaged, "v.gz"), ["x"], "--w2v_file")
        assert "v.gz" in message
