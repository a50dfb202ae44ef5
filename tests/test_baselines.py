"""Baselines without a CNN: word vectors, the text-only model, supervised concreteness."""

import gzip
import json
import logging
import shutil
import struct
import warnings

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from datasets_src.captions import UNKNOWN, TokenizedCaptions
from datasets_src.norms import ASSOCIATION_FILE, CATEGORY_FILE, CONCRETENESS_FILE, load_norms
from datasets_src.pairs import load_training_pairs
from main import main
from models_src.baselines.supervised_concreteness import (
    SupervisedConcreteness,
    WordFeatures,
    endings,
    frequent_endings,
    train_supervised_concreteness,
)
from models_src.baselines.text_only import (
    NO_CLUSTER,
    TextOnlyModel,
    co_occurrence,
    reference_words,
    train_text_only,
)
from models_src.baselines.word_vectors import cluster_vectors, load_word_vectors
from tests.conftest import dirs, results_of
from tests.test_cli import fails
from tests.test_coco import refusal_of
from tests.test_wordnet import write_wordnet

BY_WORDS = ("train_text_only_baseline", "text_only")  # utility, and the name of its model
BY_RATINGS = ("train_concreteness_supervised_model", "supervised_concreteness")
TEXT_ONLY, SUPERVISED = f"--utility={BY_WORDS[0]}", f"--utility={BY_RATINGS[0]}"


@pytest.fixture
def places(demo_data, tmp_path):
    return dirs(demo_data, tmp_path)


def without(demo_data, tmp_path, *names):
    """Copy the demo world but for some files."""
    ignored = shutil.ignore_patterns(*names)
    return shutil.copytree(demo_data, tmp_path / "data", ignore=ignored)


# ---- files of word vectors


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
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def load(path, *words):
    return load_word_vectors(path, words, "--w2v_file")


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
    known, vectors = load(path, "né", "cat", "dog", "né", "Dog")
    assert known.tolist() == [True, False, True, True, False]
    assert vectors.dtype == np.float32
    expected = np.array([RECORDS[i][1] for i in (2, 1, 2)], dtype=np.float32)
    assert vectors.tolist() == expected.tolist()


@pytest.mark.parametrize("form", [binary, text])
def test_the_first_of_two_vectors_counts_and_absent_words_have_none(written, form):
    path = written(form([*RECORDS, ("dog", [9.0, 9.0, 9.0])]))
    known, vectors = load(path, "dog", "unheard")
    assert known.tolist() == [True, False]
    assert vectors.tolist() == [RECORDS[1][1]]
    known, vectors = load(path, "cat", "mouse")
    assert not known.any()
    assert vectors.shape == (0, 3)
    assert load(path)[1].shape == load(written(b"0 3\n"), "dog")[1].shape == (0, 3)


def test_reading_ends_when_all_words_are_found(written, tmp_path):
    path = written(binary(RECORDS)[:-5])  # cut off in the last record
    assert load(path, "dog")[0].tolist() == [True]
    assert "record 3 of 3" in refusal_of(load, path, "dog", "né")
    message = refusal_of(load, tmp_path / "absent.bin", "dog")
    assert "absent.bin" in message
    assert "--w2v_file" in message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"dog 1 2 3\n",
        text(RECORDS, dim=4),
        b"2 3\ncat 0.1 0.2 0.3\ndog 0.1 0.2\n",
        b"2 3\ncat 0.1 0.2 0.3\ndog 0.1 nan 0.3\n",
        text(RECORDS, count=4),
        binary(RECORDS, count=4),
        binary(RECORDS)[:-1],
        binary([("dog", [1.0, float("nan"), 0.0])]),
        b"1 3\n" + b"\xfe" * 9000,
    ],
)
def test_malformed_files_are_refused(written, content):
    for path in (written(content), written(gzip.compress(content)[:-2], "v.gz")):
        assert str(path) in refusal_of(load, path, "dog", "unheard")


# ---- k-means over word vectors


def same_partition(first, second):
    """Say whether two clusterings put the same rows together."""
    return len(set(zip(first, second, strict=True))) == len(set(first)) == len(set(second))


def test_clusters_are_the_groups_of_rows():
    rng = np.random.default_rng(0)
    groups = rng.integers(4, size=60)
    vectors = np.eye(4)[groups] + rng.normal(scale=0.05, size=(60, 4))
    for given_vectors in (vectors, csr_matrix(vectors), vectors.astype(np.float32)):
        clusters = cluster_vectors(given_vectors, 4, seed=3)
        assert clusters.dtype == np.int64
        assert same_partition(clusters.tolist(), groups.tolist())
    noise = rng.normal(size=(50, 3))
    first, again, other = (cluster_vectors(noise, 7, seed=seed).tolist() for seed in (5, 5, 6))
    assert first == again != other


@pytest.mark.parametrize("form", [np.array, csr_matrix])
def test_fewer_distinct_rows_than_clusters(form):
    rows = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clusters = cluster_vectors(form(rows), 41, seed=0)
        assert cluster_vectors(form(rows)[:0], 41, seed=0).shape == (0,)
    assert same_partition(clusters.tolist(), [0, 1, 0, 2, 1])


# ---- the text-only model


def test_co_occurrence_by_hand():
    # "a a b", "b c", nothing, a caption with a word outside the vocabulary
    tokens = np.array([0, 0, 1, 1, 2, UNKNOWN, 2], dtype=np.int32)
    matrix = co_occurrence(TokenizedCaptions(tokens, np.array([0, 3, 5, 5, 7])), 4)
    assert matrix.dtype == np.int64
    assert matrix.toarray().tolist() == [[4, 2, 0, 0], [2, 2, 1, 0], [0, 1, 2, 0], [0, 0, 0, 0]]


def test_reference_words_are_the_extremes_of_the_frequent_rated_words():
    ratings = np.arange(50) / 10.0
    counts = np.full(50, 11)
    counts[[0, 49]] = 10  # not more than 10
    ratings[[1, 48]] = np.nan
    concrete, abstract = reference_words(counts, ratings)
    assert concrete.tolist() == list(range(47, 27, -1))
    assert abstract.tolist() == list(range(2, 22))
    for rated, each in ((0, 0), (1, 0), (2, 1), (7, 3), (39, 19), (40, 20)):  # few are halved
        ratings = np.concatenate([np.arange(rated, dtype=float), [np.nan] * 3])
        concrete, abstract = reference_words(np.full(rated + 3, 100), ratings)
        assert len(concrete) == len(abstract) == each
        assert not set(concrete) & set(abstract)


def test_the_answers_are_those_of_the_definition(demo_data):
    """Against dense arithmetic over the captions."""
    pairs = load_training_pairs(demo_data, use_all_images=False)
    norms = load_norms(demo_data)
    model = train_text_only(pairs, norms, cluster_num=6, seed=2)
    assert model.words == pairs.vocabulary.words
    counts = np.zeros((len(pairs), len(model.words)))
    for caption, start in enumerate(pairs.captions.offsets[:-1]):
        for token in pairs.captions.tokens[start : pairs.captions.offsets[caption + 1]]:
            counts[caption, token] += 1
    rows = counts.T @ counts
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    concrete, abstract = (
        [model.words.index(word) for word in words]
        for words in model.settings["reference_words"].values()
    )
    assert len(concrete) == len(abstract) > 0
    assert pairs.vocabulary.counts[concrete + abstract].min() > 10
    similarity = rows @ rows.T
    expected = similarity[:, concrete].sum(axis=1) - similarity[:, abstract].sum(axis=1)
    assert model.concreteness == pytest.approx(expected)
    evaluated = [model.words.index(w) for w in norms.categories.words if w in model.words]
    assert np.flatnonzero(model.clusters != NO_CLUSTER).tolist() == sorted(evaluated)
    assert same_partition(
        model.clusters[evaluated].tolist(), cluster_vectors(rows[evaluated], 6, seed=2).tolist()
    )


def test_the_text_only_utility_writes_model_and_scores(places, tmp_path, capsys):
    assert main([TEXT_ONLY, "--baseline_cluster_num=9", *places]) == 0
    results = results_of(tmp_path, *BY_WORDS)
    metrics = results["metrics"]
    assert metrics["word_association"]["pairs_found"] > 0
    assert metrics["concreteness"]["pearson_by_min_count"]["0"]["r"] > 0
    references = results["settings"]["reference_words"]
    all_words, others = (
        metrics[name]["word_count"]
        for name in ("concreteness", "concreteness_without_reference_words")
    )
    assert all_words - others == 2 * len(references["concrete"])
    assert results["settings"]["cluster_num"] == 9
    assert results["not_measured"] == {}
    assert "v measure" in capsys.readouterr().out
    model = TextOnlyModel.load(tmp_path, "text_only")
    assert "there are text_only" in refusal_of(TextOnlyModel.load, tmp_path, "c")
    assert results["settings"] == model.settings | {"dataset": "coco"}
    assert len(set(model.clusters.tolist()) - {NO_CLUSTER}) == 9
    fails(capsys, TEXT_ONLY, "--baseline_cluster_num=9", *places, mentions="--overwrite")
    assert main([TEXT_ONLY, "--baseline_cluster_num=9", "--overwrite", *places]) == 0
    assert json.dumps(results_of(tmp_path, *BY_WORDS)) == json.dumps(results)
    (tmp_path / "words.txt").write_text("dog\ncar\n")
    arguments = [f"--word_list={tmp_path / 'words.txt'}", "--model_name=few"]
    assert main([TEXT_ONLY, *arguments, *places]) == 0  # more clusters than words
    model = TextOnlyModel.load(tmp_path, "few")
    assert sorted(model.clusters.tolist())[-2:] == [0, 1]
    assert model.settings["clustered_words"] == 2


FEW_RATINGS = "Word\tBigram\tConc.M\ndog\t0\t5\nunheard\t0\t2\n"


def test_what_lacks_its_norms_is_left_out(demo_data, places, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    data = without(demo_data, tmp_path, CATEGORY_FILE)
    call = [TEXT_ONLY, *places, f"--datasets_dir={data}", "--overwrite"]

    def trained_model():
        assert main(call) == 0
        return results_of(tmp_path, *BY_WORDS), TextOnlyModel.load(tmp_path, "text_only")

    results, model = trained_model()
    assert "no words are clustered" in caplog.text
    assert (model.clusters == NO_CLUSTER).all()
    assert set(results["not_measured"]) == {"categorization", "word_association"}
    assert results["metrics"]["categorization"] is results["metrics"]["word_association"] is None
    assert results["metrics"]["concreteness"]["word_count"] > 0

    shutil.copy(demo_data / CATEGORY_FILE, data)
    (data / CONCRETENESS_FILE).write_text(FEW_RATINGS)
    results, model = trained_model()
    assert "concreteness is 0 for all words" in caplog.text
    by_count = results["metrics"]["concreteness"]["pearson_by_min_count"]
    assert by_count["0"] == {"r": None, "word_count": 1}

    (data / CONCRETENESS_FILE).unlink()
    (data / ASSOCIATION_FILE).unlink()
    results, model = trained_model()
    assert "concreteness is not learned" in caplog.text
    assert not model.concreteness.any()
    assert (model.clusters != NO_CLUSTER).any()
    assert results["metrics"]["concreteness"] is None
    assert results["metrics"]["concreteness_without_reference_words"] is None
    assert results["settings"]["reference_words"] is None


# ---- supervised concreteness


def test_endings_by_hand():
    assert endings("bobcats") == ["s", "ts", "ats", "cats"]
    assert endings("cat") == ["t", "at"]  # a word is no ending of itself
    assert endings("a") == endings("") == []
    # ng: 3, g: 3, ing: 2, then all once, by the alphabet
    assert frequent_endings(["king", "ring", "long"]) == ["g", "ng", "ing", "ong"]
    assert len(frequent_endings([f"{number}" for number in range(1000, 2000)])) == 200


def test_features_are_those_of_the_fitted_words_scaled_by_kind():
    words = ["king", "ring", "long", "cat", "cow"]
    given = {"pos": np.array([[1.0, 0], [3, 0], [1, 2], [9, 9], [9, 9]])}
    features = WordFeatures(words, given, True).fit(np.arange(3), np.ones(3))
    found = features.transform(np.arange(5))
    pos = given["pos"] / np.sqrt(given["pos"][:3].var(axis=0).sum())
    # "g" and "ng" are of all words, "ing" of two, "ong" of one
    has = [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    by_ending = np.array(has) / np.sqrt(2 * 2 / 9)
    assert found == pytest.approx(np.hstack([pos, by_ending]))


def world(number=200, seed=0):
    """Words whose rating follows from one feature and from their ending."""
    rng = np.random.default_rng(seed)
    feature = rng.random((number, 2))
    is_abstract = rng.random(number) < 0.5
    stems = ["".join(rng.choice(list("bdfgklmpqrvz"), 5)) for _ in range(number)]
    words = np.char.add(stems, np.where(is_abstract, "ness", "oo")).tolist()
    return words, feature, 2 + 2 * feature[:, 0] + np.where(is_abstract, -1.0, 1.0)


def trained(words, ratings, features, use_endings=False, seed=0):
    return train_supervised_concreteness(
        words, ratings, given_features=features, use_endings=use_endings, seed=seed, settings={}
    )


def correlation(first, second):
    return np.corrcoef(first, second)[0, 1]


def test_each_kind_of_feature_helps_words_not_seen():
    words, feature, ratings = world()
    by_feature = trained(words, ratings, {"pos": feature})
    by_ending = trained(words, ratings, {}, use_endings=True)
    by_both = trained(words, ratings, {"pos": feature}, use_endings=True)
    for model, least, most in ((by_feature, 0.3, 0.7), (by_ending, 0.7, 0.95), (by_both, 0.95, 1)):
        assert least < correlation(model.cross_validated, ratings) <= most


def test_noise_is_not_predicted_but_learned_by_heart():
    rng = np.random.default_rng(3)
    ratings = rng.random(100) * 4 + 1
    model = trained([f"w{i}" for i in range(100)], ratings, {"noise": rng.normal(size=(100, 30))})
    assert abs(correlation(model.cross_validated, ratings)) < 0.3
    assert correlation(model.on_training_words, ratings) > 0.8


def test_a_word_does_not_see_its_own_rating():
    words, feature, ratings = world(60)
    changed = ratings.copy()
    changed[7] = 50.0
    first, second = (trained(words, values, {"pos": feature}) for values in (ratings, changed))
    assert first.cross_validated[7] == second.cross_validated[7]
    assert first.on_training_words[7] != second.on_training_words[7]
    assert (first.cross_validated != second.cross_validated).sum() >= 40  # the other folds
    other = trained(words, ratings, {"pos": feature}, seed=1)  # decides the folds
    assert first.cross_validated.tolist() != other.cross_validated.tolist()


def test_features_that_do_not_vary_predict_a_constant():
    words, _, ratings = world(20)
    model = trained(words, ratings, {"pos": np.zeros((20, 4))})
    assert np.isfinite(model.cross_validated).all()
    assert np.ptp(model.on_training_words) == 0
    assert "only 9 of" in refusal_of(trained, words[:9], ratings[:9], {"pos": np.zeros((9, 4))})


def test_the_supervised_utility_writes_model_and_scores(demo_data, places, tmp_path, capsys):
    (tmp_path / "v.vec").write_text("2 2\ndog 0.5 1\nzebra 1 1\n")
    arguments = ["--conc_use_pos", "--conc_use_suffix", "--conc_use_embeddings"]
    arguments += [f"--wordnet_dir={write_wordnet(tmp_path)}"]
    arguments += [f"--embeddings_file={tmp_path / 'v.vec'}"]
    assert main([SUPERVISED, *arguments, *places]) == 0
    results = results_of(tmp_path, *BY_RATINGS)
    metrics, recorded = results["metrics"], results["settings"]
    assert set(metrics) == {"concreteness", "concreteness_on_training_words"}
    seen, unseen = (
        metrics[name]["pearson_by_min_count"]["0"]["r"]
        for name in ("concreteness_on_training_words", "concreteness")
    )
    assert seen > unseen
    model = SupervisedConcreteness.load(tmp_path, "supervised_concreteness")
    assert metrics["concreteness"]["word_count"] == len(model.words)
    assert recorded == model.settings | {"dataset": "coco"}
    assert recorded["words_with_vector"] == len({"dog", "zebra"} & set(model.words)) > 0
    assert 0 < recorded["words_in_wordnet"] <= 4
    assert (recorded["conc_use_pos"], recorded["folds"]) == (True, 5)
    assert "concreteness on training words" in capsys.readouterr().out

    fails(capsys, SUPERVISED, *arguments, *places, mentions="--overwrite")
    data = without(demo_data, tmp_path)
    (data / "wiki-news-300d-1M.vec").write_text("1 2\ndog 0.5 1\n")
    more = ["--overwrite", "--conc_use_embeddings", *places, f"--datasets_dir={data}"]
    assert main([SUPERVISED, *more]) == 0  # the file of vectors is the default one
    assert results_of(tmp_path, *BY_RATINGS)["settings"]["words_with_vector"] == 1


def test_too_few_norms_are_one_line(demo_data, places, tmp_path, capsys):
    data = without(demo_data, tmp_path, CATEGORY_FILE, CONCRETENESS_FILE)
    supervised = [SUPERVISED, "--conc_use_suffix", *places, f"--datasets_dir={data}"]
    fails(capsys, TEXT_ONLY, *places, f"--datasets_dir={data}", mentions=CONCRETENESS_FILE)
    fails(capsys, *supervised, mentions=CONCRETENESS_FILE)
    (data / CONCRETENESS_FILE).write_text(FEW_RATINGS)
    fails(capsys, *supervised, mentions="only 1 of")
    assert not list(tmp_path.rglob("*.mdl"))


@pytest.mark.parametrize(
    ("utility", "arguments", "mentions"),
    [
        (TEXT_ONLY, ["--baseline_cluster_num=0"], "--baseline_cluster_num"),
        (TEXT_ONLY, ["--word_list=absent.txt"], "absent.txt"),
        (TEXT_ONLY, ["--datasets_dir=nowhere"], "nowhere"),
        (SUPERVISED, [], "--conc_use_pos, --conc_use_suffix, --conc_use_embeddings"),
        (SUPERVISED, ["--conc_use_pos", "--wordnet_dir=nowhere"], "wordnet-base"),
        (SUPERVISED, ["--conc_use_embeddings"], "wiki-news-300d-1M.vec"),
        (SUPERVISED, ["--conc_use_embeddings", "--embeddings_file=x.vec"], "--embeddings_file"),
    ],
)
def test_mistakes_are_one_line(places, tmp_path, capsys, utility, arguments, mentions):
    fails(capsys, utility, *places, *arguments, mentions=mentions)
    assert not list(tmp_path.rglob("*.mdl"))
    assert not list(tmp_path.rglob("*.json"))
