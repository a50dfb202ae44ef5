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
NORMS = {
    CATEGORY_FILE: "animal: {dog: 1, cup: 2}",
    CONCRETENESS_FILE: HEADER + "dog\t0\t4.8\t1\t2\n",
    ASSOCIATION_FILE: "R1\tdog\tcup\t3\n",
}


@pytest.fixture
def written(tmp_path):
    """A function that writes a text to a file and returns its path."""

    def write(text):
        (tmp_path / "file.txt").write_bytes(text.encode())
        return tmp_path / "file.txt"

    return write


@pytest.fixture
def folder(tmp_path):
    for name, text in NORMS.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_fingerprint_notices_every_change_of_the_norms(folder):
    whole = load_norms(folder).fingerprint()
    (folder / "words.txt").write_text("dog\n")
    assert load_norms(folder, folder / "words.txt").fingerprint() == whole
    found = [whole]
    for name, text in NORMS.items():
        (folder / name).write_text(text.replace("dog", "owl"))
        found.append(load_norms(folder).fingerprint())
        (folder / name).unlink()
        found.append(load_norms(folder).fingerprint())
        (folder / name).write_text(text)
        assert load_norms(folder).fingerprint() == whole
    assert len(set(found)) == 1 + 2 * len(NORMS)


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


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_concreteness_leaves_out_bigrams_and_takes_the_first_of_a_repeated_word(written, end):
    rows = ["Dog\t0\t4.9", "dog\t0\t1.0", "zip file\t1\t4.1", "cat\t1\t3.0", "cat\t0\t4.0"]
    rows += [" tree \t0\t5", "", "   ", "No\t0\t2.5"]
    path = written(end.join(["Word\tBigram\tConc.M", *rows]))
    assert load_concreteness(path) == {"dog": 4.9, "cat": 4.0, "tree": 5.0, "no": 2.5}
    path = written(end.join(["x\tConc.M\tWord\tBigram", "q\t4.5\tdog\t0", "q\t1.25\tidea\t0"]))
    assert load_concreteness(path) == {"dog": 4.5, "idea": 1.25}  # columns are found by name


def test_association_counts_of_both_orders_and_all_relations_are_added_up(written):
    rows = ["R1\tdog\tcat\t3", "R2\tcat\tdog\t4", "R123\tdog\tcat\t10", "", "R1\tcat\tbone\t1"]
    rows += ["R1\tdog\tdog\t3", "R1\tdog\tzebra\t4"]
    pairs, strengths = load_associations(written("\n".join(rows)), ["cat", "bone", "dog"])
    assert pairs.tolist() == [[0, 2], [0, 1]]
    assert strengths.tolist() == [17, 1]
    pairs, strengths = load_associations(written(""), ["cat"])
    assert (pairs.shape, strengths.shape) == ((0, 2), (0,))


def test_word_list_is_one_lower_case_word_a_line(written):
    assert load_word_list(written("\ufeffDog\n\n cat \nDOG\r\nno")) == {"dog", "cat", "no"}


def associations(path):
    return load_associations(path, ["dog", "cat"])


@pytest.mark.parametrize(
    ("load", "text", "said"),
    [
        (load_categories, "", "no categories"),
        (load_categories, "[a, b]", "no categories"),
        (load_categories, "a: {w: 1}\nb: {w: 1", "line 2"),
        (load_categories, "a: {w: 1}\nb: [v, u]", "line 2: b holds no words"),
        (load_categories, "a:\n  w: 1\n  v: often", "line 3: the typicality of v"),
        (load_categories, "a: {w: nan}", "typicality of w"),
        (load_categories, "a: {w: [1]}", "typicality of w"),
        (load_categories, "a: {w: 1}\nb: {[w]: 1}", ""),
        (load_categories, "a: {w: \x01}", ""),
        (load_categories, "[" * 20_000, ""),
        (load_categories, 'a: {"x\\ny": z}', "typicality of x y"),
        (load_concreteness, "", "no rating"),
        (load_concreteness, "dog\t0\t4.9\n", "line 1"),
        (load_concreteness, "Word,Bigram,Conc.M\ndog,0,4.9", "line 1"),
        (load_concreteness, HEADER + "dog\t0\t4.9\t1\t1\ncat\t0", "line 3"),
        (load_concreteness, HEADER + "dog\t0\tmuch\t1\t1", "line 2"),
        (load_concreteness, HEADER + "\n\ndog\t0\tnan\t1\t1", "line 4"),
        (associations, "R1\tdog\tcat\t3\nR1\tdog\tcat\n", "line 2"),
        (associations, "R1,dog,cat,3\n", "line 1"),
        (associations, "R1\tdog\tcat\tmany\n", "line 1"),
        (associations, "R1\tdog\tcat\t3\n\nR1\tx\ty\tnan\n", "line 3"),
        (associations, "R1\tdog\tcat\t3\t4\n", "line 1"),
        (associations, "R1\tdog\tcat\t-3\n", "line 1"),
        (load_word_list, "\n \n", "no word"),
    ],
)
def test_malformed_file_is_refused_by_name_and_line(written, load, text, said):
    path = written(text)
    message = refusal_of(load, path)
    assert str(path) in message
    assert said in message


@pytest.mark.parametrize("load", [load_categories, load_concreteness, load_word_list, associations])
def test_missing_file_folder_and_wrong_encoding_are_refused_by_name(tmp_path, load):
    latin = tmp_path / "latin.txt"
    latin.write_bytes("Straße".encode("latin-1"))
    for path in (tmp_path / "absent", tmp_path, latin):
        assert str(path) in refusal_of(load, path)


@pytest.mark.parametrize(
    ("removed", "absent"),
    [
        (None, set()),
        (CONCRETENESS_FILE, {"concreteness"}),
        (ASSOCIATION_FILE, {"word_association"}),
        # associations are measured between the words of the category file
        (CATEGORY_FILE, {"categorization", "word_association"}),
    ],
)
def test_absent_norms_are_none_and_reported(folder, caplog, removed, absent):
    if removed:
        (folder / removed).unlink()
    with caplog.at_level(logging.INFO):
        norms = load_norms(folder)
    assert norms.absent == dict.fromkeys(absent, f"no file {removed} in {folder}")
    assert (norms.categories is None) == ("categorization" in absent)
    assert (norms.concreteness is None) == ("concreteness" in absent)
    assert (norms.association_file is None) == ("word_association" in absent)
    said = {f"{metric} is not measured: {reason}" for metric, reason in norms.absent.items()}
    assert {record.getMessage() for record in caplog.records} == said
