"""Word vector files, text and binary, well formed and not."""

import gzip
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_file_reads_the_same_as_text_and_binary(tmp_path_factory, data):
    dim = data.draw(st.integers(4, 9))
    floats = st.floats(-10, 10, width=32)
    words = st.text(st.characters(blacklist_categories=("Cs", "Z", "C")), min_size=1, max_size=4)
    records = data.draw(
        st.lists(
            st.tuples(words, st.lists(floats, min_size=dim, max_size=dim)), min_size=1, max_size=8
        )
    )
    wanted = data.draw(st.lists(words, max_size=4)) + [word for word, _ in records[::2]]
    expected = {}
    for word, values in records:
        expected.setdefault(word, values)
    folder = tmp_path_factory.mktemp("vectors")
    for number, content in enumerate(
        (
            binary(records, dim=dim),
            binary(records, dim=dim, line_feeds=True),
            text(records, dim=dim),
        )
    ):
        path = folder / f"{number}.vec"
        path.write_bytes(content)
        known, vectors = load_word_vectors(path, wanted, "--w2v_file")
        assert known.tolist() == [word in expected for word in wanted]
        assert vectors.tolist() == [expected[word] for word in wanted if word in expected]


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


def test_little_of_a_large_file_is_held(written):
    import tracemalloc

    zeros = b"\0" * 1200
    records = b"".join(b"word%d " % number + zeros for number in range(20000))
    path = written(b"20000 300\n" + records)
    tracemalloc.start()
    known, _ = load_word_vectors(path, ["word7", "word19999", "absent"], "--w2v_file")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert known.tolist() == [True, True, False]
    assert peak < len(records) / 3


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
    ("content", "said"),
    [
        (b"", "line 1"),
        (b"dog 1 2 3\n", "line 1"),
        (b"3 x\n", "line 1"),
        (b"-3 2\n", "line 1"),
        (b"3 0\ndog\n", "line 1"),
        (b"3 99999999999\ndog 1\n", "line 1"),
        (b"\xff\xfe3 \x003\n", "line 1"),
        (text(RECORDS, dim=4), "line 2"),
        (text(RECORDS, dim=2), "line 2"),
        (b"2 3\ncat 0.1 0.2 0.3\ndog 0.1 0.2\n", "line 3"),
        (b"2 3\ncat 0.1 0.2 0.3\ndog 0.1 0.2 0.3 0.4\n", "line 3"),
        (b"2 3\ncat 0.1 0.2 0.3\ndog 0.1 x 0.3\n", "line 3"),
        (b"2 3\ncat 0.1 0.2 0.3\ndog 0.1 nan 0.3\n", "line 3"),
        (b"2 3\ncat 0.1 0.2 0.3\ndog 0.1 1e39 0.3\n", "line 3"),
        (b"2 3\ncat 0.1 0.2 0.3\ndog\n", "line 3"),
        (b"2 3\nof 0.1 zero 0.3\ndog 0 0 0\n", "line 2"),
        (b"2 3\ncat\t0.125 0.25 0.375\ndog\t0 0 0\n", "line 2"),
        (text(RECORDS, count=4), "after 3 of the 4"),
        (binary(RECORDS, count=4), "record 4 of 4"),
        (binary(RECORDS)[:-1], "record 3 of 3"),
        (binary(RECORDS)[:20], "record 1 of 3"),
        (binary(RECORDS, count=2), "goes on after the 2"),
        (binary([("dog", [1.0, float("nan"), 0.0])]), "record 1: the vector of 'dog'"),
        (b"1 3\n" + b"\xfe" * 9000, "record 1 of 1"),
    ],
)
def test_malformed_files_are_refused_with_their_place(written, content, said):
    path = written(content)
    message = refusal_of(load_word_vectors, path, ["dog", "unheard"], "--w2v_file")
    assert str(path) in message
    assert said in message


def test_damaged_compressed_files_are_refused(written):
    packed = gzip.compress(binary(RECORDS))
    middle = len(packed) // 2
    for damaged in (b"no gzip", packed[:-12], packed[:middle] + b"\xff" * 9 + packed[middle:]):
        message = refusal_of(load_word_vectors, written(damaged, "v.gz"), ["x"], "--w2v_file")
        assert "v.gz" in message
