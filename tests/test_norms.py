import logging

import pytest

from datasets_src.norms import (
    ASSOCIATION_FILE,
    CATEGORY_FILE,
    CONCRETENESS_FILE,
    load_associations,
    load_categories,
    load_concreteness,
    load_norms,
    load_word_list,
)
from tests.test_coco import refusal_of

HEADER = "Word\tBigram\tConc.M\tConc.SD\tTotal\n"


@pytest.fixture
def written(tmp_path):
    """A function that writes a text to a file and returns its path."""

    def write(text, name="file.txt"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_fingerprint_notices_every_change_of_the_norms(tmp_path):
    changes = {
        CATEGORY_FILE: ("a: {dog: 1, cup: 2}", "a: {dog: 1}\nb: {cup: 2}"),
        CONCRETENESS_FILE: (HEADER + "dog\t0\t4.8\t1\t2\n", HEADER + "dog\t0\t4.7\t1\t2\n"),
        ASSOCIATION_FILE: ("r1\tdog\tcup\t3\n", "r1\tdog\tcup\t4\n"),
    }
    for name, (content, _) in changes.items():
        (tmp_path / name).write_text(content)
    whole = load_norms(tmp_path).fingerprint()
    assert load_norms(tmp_path).fingerprint() == whole
    (tmp_path / "words.txt").write_text("dog\n")
    assert load_norms(tmp_path, tmp_path / "words.txt").fingerprint() == whole
    found = {whole}
    for name, (content, other) in changes.items():
        (tmp_path / name).write_text(other)
        found.add(load_norms(tmp_path).fingerprint())
        (tmp_path / name).unlink()
        found.add(load_norms(tmp_path).fingerprint())
        (tmp_path / name).write_text(content)
    assert len(found) == 1 + 2 * len(changes)


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("a: {w: 1}\nb: {w: 2}\nc: {w: 1.5}", "b"),
        ("a: {w: 2}\nb: {w: 1}", "a"),
        ("a: {w: 1, v: 9}\nb: {w: 3}\nc: {w: 3.0}\nd: {w: 2}", "b"),  # a tie
        ("a: {w: -2}\nb: {w: -1}", "b"),
        ("a: {w: 9}\nb: {w: 10}", "b"),  # numbers, not texts, are compared
    ],
)
def test_word_in_several_categories_belongs_to_the_most_typical_then_the_first(
    written, text, category
):
    assert load_categories(written(text)).by_word()["w"] == category


def test_words_that_yaml_takes_for_other_things_stay_words(written):
    text = "no: {no: 1, on: 2, yes: 3, 123: 4, 1.50: 1, null: 2, ~: 2, 2001-01-01: 3, =: 1}\n12: {}"
    categories = load_categories(written(text))
    assert categories.names == ("no", "12")
    assert " ".join(categories.words) == "no on yes 123 1.50 null ~ 2001-01-01 ="


def test_repeated_categories_and_words_lose_nothing_and_are_counted(written, caplog):
    text = "a: {w: 1, v: 2, w: 3}\nb: {w: 2}\na:\n  u: 1\n  v: 1\n"
    categories = load_categories(written(text))
    assert categories.by_word() == {"w": "a", "v": "a", "u": "a"}
    assert categories.names == ("a", "b")
    assert "stand twice: 3, the first a" in caplog.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no categories"),
        ("[a, b]", "no categories"),
        ("a: {w: 1}\nb: {w: 1", "line 2"),
        ("a: {w: 1}\nb: [v, u]", "line 2: b holds no words"),
        ("a: {w: 1}\nb:", "line 2: b holds no words"),
        ("a:\n  w: 1\n  v: often", "line 3: the typicality of v"),
        ("a: {w: nan}", "typicality of w"),
        ("a: {w: [1]}", "typicality of w"),
        ("a: {w: 1}\nb: {[w]: 1}", ""),
        ("a: {w: \x01}", ""),
        ("[" * 20_000, ""),
        ('a: {"x\\ny": z}', "typicality of x y"),
    ],
)
def test_malformed_category_file_is_refused_by_name(written, text, said):
    path = written(text)
    message = refusal_of(load_categories, path)
    assert str(path) in message
    assert said in message


def test_concreteness_columns_are_found_by_their_name(written):
    path = written("x\tConc.M\tWord\tBigram\nq\t4.5\tdog\t0\nq\t1.25\tidea\t0\n")
    assert load_concreteness(path) == {"dog": 4.5, "idea": 1.25}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_concreteness_leaves_out_bigrams_and_takes_the_first_of_a_repeated_word(tmp_path, end):
    rows = [
        HEADER.strip(),
        "Dog\t0\t4.9\t0.1\t30",
        "dog\t0\t1.0\t0.1\t30",
        "zip file\t1\t4.1\t0.1\t30",
        "cat\t1\t3.0\t0.1\t30",
        "cat\t0\t4.0\t0.1\t30",
        " tree \t0\t5\t0.1\t30",
        "",
        "   ",
        "No\t0\t2.5\t0.1\t30",
    ]
    (tmp_path / "ratings.txt").write_bytes(end.join(rows).encode())
    ratings = load_concreteness(tmp_path / "ratings.txt")
    assert ratings == {"dog": 4.9, "cat": 4.0, "tree": 5.0, "no": 2.5}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no rating"),
        ("dog\t0\t4.9\n", "line 1"),
        ("Word\tBigram\tConc\ndog\t0\t4.9", "line 1"),
        ("Word,Bigram,Conc.M\ndog,0,4.9", "line 1"),
        (HEADER + "dog\t0\t4.9\t1\t1\ncat\t0", "line 3"),
        (HEADER + "dog\t0\tmuch\t1\t1", "line 2"),
        (HEADER + "dog\t0\tnan\t1\t1", "line 2"),
        (HEADER + "\n\ndog\n", "line 4"),
    ],
)
def test_malformed_concreteness_file_names_file_and_line(written, text, said):
    path = written(text)
    message = refusal_of(load_concreteness, path)
    assert str(path) in message
    assert said in message


def test_association_counts_of_both_orders_and_all_relations_are_added_up(written):
    rows = ["R1\tdog\tcat\t3", "R2\tcat\tdog\t4", "R123\tdog\tcat\t10", "", "R1\tcat\tbone\t1"]
    rows += ["R1\tdog\tdog\t3", "R1\tdog\tzebra\t4"]
    pairs, strengths = load_associations(written("\n".join(rows)), ["cat", "bone", "dog"])
    assert pairs.tolist() == [[0, 2], [0, 1]]
    assert strengths.tolist() == [17, 1]
    pairs, strengths = load_associations(written(""), ["cat"])
    assert (pairs.shape, strengths.shape) == ((0, 2), (0,))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("R1\tdog\tcat\t3\nR1\tdog\tcat\n", 2),
        ("R1,dog,cat,3\n", 1),
        ("R1\tdog\tcat\tmany\n", 1),
        ("R1\tdog\tcat\t3\n\nR1\tx\ty\tnan\n", 3),
        ("R1\tdog\tcat\t3\t4\n", 1),
        ("R1\tdog\tcat\t-3\n", 1),
    ],
)
def test_malformed_association_file_names_file_and_line(written, text, line):
    path = written(text)
    message = refusal_of(load_associations, path, ["dog", "cat"])
    assert str(path) in message
    assert f"line {line}" in message


def test_word_list_is_one_lower_case_word_a_line(written):
    assert load_word_list(written("\ufeffDog\n\n cat \nDOG\r\nno")) == {"dog", "cat", "no"}


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_word_list_without_words_is_refused(written, text):
    path = written(text)
    assert str(path) in refusal_of(load_word_list, path)


@pytest.mark.parametrize(
    "load", [load_categories, load_concreteness, load_word_list, lambda p: load_associations(p, [])]
)
def test_missing_file_folder_and_wrong_encoding_are_refused_by_name(tmp_path, load):
    latin = tmp_path / "latin.txt"
    latin.write_bytes("Straße".encode("latin-1"))
    for path in (tmp_path / "absent", tmp_path, latin):
        assert str(path) in refusal_of(load, path)


ALL_NORMS = {
    CATEGORY_FILE: "animal: {dog: 1}",
    CONCRETENESS_FILE: HEADER + "dog\t0\t4.9\t1\t1",
    ASSOCIATION_FILE: "R1\tdog\tcat\t1",
}


@pytest.mark.parametrize(
    ("removed", "absent"),
    [
        ([], {}),
        ([CONCRETENESS_FILE], {"concreteness": CONCRETENESS_FILE}),
        ([ASSOCIATION_FILE], {"word_association": ASSOCIATION_FILE}),
        # associations are measured between the words of the category file
        ([CATEGORY_FILE], {"categorization": CATEGORY_FILE, "word_association": CATEGORY_FILE}),
    ],
)
def test_absent_norms_are_none_and_reported(tmp_path, caplog, removed, absent):
    for name, text in ALL_NORMS.items():
        if name not in removed:
            (tmp_path / name).write_text(text, encoding="utf-8")
    with caplog.at_level(logging.INFO):
        norms = load_norms(tmp_path)
    assert norms.absent.keys() == absent.keys()
    assert (norms.categories is None) == ("categorization" in absent)
    assert (norms.concreteness is None) == ("concreteness" in absent)
    assert (norms.association_file is None) == ("word_association" in absent)
    assert norms.word_list is None
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == len(absent)
    for metric, name in absent.items():
        assert name in norms.absent[metric]
        assert any(metric in m and name in m and str(tmp_path) in m for m in messages)
