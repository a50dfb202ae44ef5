"""The text-only baseline: its pure functions, its files, and its training through main."""

import json
import logging
import shutil
import warnings

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.preprocessing import normalize

from datasets_src.captions import UNKNOWN, TokenizedCaptions
from datasets_src.norms import ASSOCIATION_FILE, CATEGORY_FILE, CONCRETENESS_FILE, load_norms
from datasets_src.pairs import load_training_pairs
from main import main
from models_src.baselines.text_only import (
    NO_CLUSTER,
    TextOnlyModel,
    co_occurrence,
    co_occurrence_concreteness,
    reference_words,
    train_text_only,
)
from models_src.baselines.word_vectors import cluster_vectors
from tests.test_cli import WORD_KEYS, fails
from tests.test_coco import refusal_of

UTILITY = "--utility=train_text_only_baseline"


def packed(captions):
    offsets = np.cumsum([0, *(len(caption) for caption in captions)])
    return TokenizedCaptions(np.array([t for c in captions for t in c], dtype=np.int32), offsets)


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


def test_clusters_depend_on_the_seed_only():
    vectors = np.random.default_rng(1).normal(size=(50, 3))
    first, again = (cluster_vectors(vectors, 7, seed=5) for _ in range(2))
    assert first.tolist() == again.tolist()
    assert first.tolist() != cluster_vectors(vectors, 7, seed=6).tolist()


@pytest.mark.parametrize("form", [np.array, csr_matrix])
def test_fewer_distinct_rows_than_clusters(form):
    rows = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clusters = cluster_vectors(form(rows), 41, seed=0)
        assert cluster_vectors(form(rows)[:0], 41, seed=0).shape == (0,)
    assert same_partition(clusters.tolist(), [0, 1, 0, 2, 1])


def test_co_occurrence_by_hand():
    # "a a b", "b c", nothing, a caption with a word outside the vocabulary
    matrix = co_occurrence(packed([[0, 0, 1], [1, 2], [], [UNKNOWN, 2]]), 4)
    assert matrix.dtype == np.int64
    assert matrix.toarray().tolist() == [[4, 2, 0, 0], [2, 2, 1, 0], [0, 1, 2, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_co_occurrence_is_the_sum_over_pairs_of_tokens(seed):
    rng = np.random.default_rng(seed)
    captions = [rng.integers(-1, 6, size=length).tolist() for length in rng.integers(8, size=8)]
    expected = np.zeros((6, 6), dtype=int)
    for caption in captions:
        for first in caption:
            for second in caption:
                if first >= 0 and second >= 0:
                    expected[first, second] += 1
    assert (co_occurrence(packed(captions), 6).toarray() == expected).all()


def test_reference_words_are_the_extremes_of_the_frequent_rated_words():
    ratings = np.arange(50) / 10.0
    counts = np.full(50, 11)
    counts[[0, 49]] = 10  # not more than 10
    ratings[[1, 48]] = np.nan
    concrete, abstract = reference_words(counts, ratings)
    assert concrete.tolist() == list(range(47, 27, -1))
    assert abstract.tolist() == list(range(2, 22))


@pytest.mark.parametrize(("rated", "each"), [(0, 0), (1, 0), (2, 1), (7, 3), (39, 19), (40, 20)])
def test_few_rated_words_are_halved(rated, each):
    ratings = np.concatenate([np.arange(rated, dtype=float), [np.nan] * 3])
    concrete, abstract = reference_words(np.full(rated + 3, 100), ratings)
    assert len(concrete) == len(abstract) == each
    assert not set(concrete) & set(abstract)


def test_concreteness_is_a_difference_of_summed_cosines():
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 3, size=(12, 12))
    raw[5] = 0  # a word without co-occurrence
    rows = normalize(csr_matrix(raw.astype(float)))
    concrete, abstract = np.array([1, 2, 3]), np.array([7, 8, 9])

    def cosine(first, second):
        lengths = np.linalg.norm(raw[first]) * np.linalg.norm(raw[second])
        return raw[first] @ raw[second] / lengths if lengths else 0.0

    expected = [
        sum(cosine(word, other) for other in concrete)
        - sum(cosine(word, other) for other in abstract)
        for word in range(12)
    ]
    found = co_occurrence_concreteness(rows, concrete, abstract)
    assert found.shape == (12,)
    assert found == pytest.approx(expected)
    assert found[5] == 0


def test_training_clusters_the_evaluated_words_only(demo_data):
    pairs = load_training_pairs(demo_data, use_all_images=False)
    norms = load_norms(demo_data)
    model = train_text_only(pairs, norms, cluster_num=5, seed=0)
    assert model.words == pairs.vocabulary.words
    clustered = {w for w, c in zip(model.words, model.clusters, strict=True) if c != NO_CLUSTER}
    assert clustered == set(norms.categories.words) & set(pairs.vocabulary.words)
    assert set(model.clusters.tolist()) == {NO_CLUSTER, 0, 1, 2, 3, 4}
    references = model.settings["reference_words"]
    index = {word: position for position, word in enumerate(model.words)}
    for side in references.values():
        assert len(side) == len(references["concrete"]) > 0
        assert all(pairs.vocabulary.counts[index[word]] > 10 for word in side)
    least_concrete = min(norms.concreteness[word] for word in references["concrete"])
    assert least_concrete >= max(norms.concreteness[word] for word in references["abstract"])
    means = {
        side: np.mean([model.concreteness[index[word]] for word in words])
        for side, words in references.items()
    }
    assert means["concrete"] > means["abstract"]


def test_the_answers_are_those_of_the_definition(demo_data):
    """Against dense arithmetic over the captions."""
    pairs = load_training_pairs(demo_data, use_all_images=False)
    norms = load_norms(demo_data)
    model = train_text_only(pairs, norms, cluster_num=6, seed=2)
    counts = np.zeros((len(pairs), len(model.words)))
    for caption, start in enumerate(pairs.captions.offsets[:-1]):
        for token in pairs.captions.tokens[start : pairs.captions.offsets[caption + 1]]:
            counts[caption, token] += 1
    rows = counts.T @ counts
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index = {word: position for position, word in enumerate(model.words)}
    sides = [[index[w] for w in words] for words in model.settings["reference_words"].values()]
    similarity = rows @ rows.T
    expected = similarity[:, sides[0]].sum(axis=1) - similarity[:, sides[1]].sum(axis=1)
    assert model.concreteness == pytest.approx(expected)
    evaluated = [index[word] for word in norms.categories.words if word in index]
    assert same_partition(
        model.clusters[evaluated].tolist(), cluster_vectors(rows[evaluated], 6, seed=2).tolist()
    )


def test_a_model_survives_the_disk(tmp_path):
    references = {"concrete": ["no"], "abstract": []}
    model = TextOnlyModel(
        ("dog", "é", "."),
        {"cluster_num": 2, "seed": 7, "reference_words": references},
        np.array([1, NO_CLUSTER, 0]),
        np.array([0.5, -1.25, 1e-17]),
    )
    model.save(tmp_path, "some.name")
    found = TextOnlyModel.load(tmp_path, "some.name")
    assert (found.words, found.settings) == (model.words, model.settings)
    assert found.clusters.dtype == np.int64
    assert found.clusters.tolist() == model.clusters.tolist()
    assert found.concreteness.tolist() == model.concreteness.tolist()


def test_malformed_models_are_refused(tmp_path):
    assert "there is none" in refusal_of(TextOnlyModel.load, tmp_path, "b")
    for name in ("a", "b"):
        TextOnlyModel(("dog",), {"seed": 0}, np.array([0]), np.array([1.0])).save(tmp_path, name)
    folder = tmp_path / "text_only"
    assert "there are a, b" in refusal_of(TextOnlyModel.load, tmp_path, "c")
    for bad in ("", "[", "kind: text_only", "a: 2020-13-45"):
        (folder / "b.cfg").write_text(bad)
        assert "b.cfg" in refusal_of(TextOnlyModel.load, tmp_path, "b")
    (folder / "a.mdl").write_bytes((folder / "a.mdl").read_bytes()[:100])
    assert "a.mdl" in refusal_of(TextOnlyModel.load, tmp_path, "a")
    (folder / "a.mdl").unlink()
    assert "a.mdl" in refusal_of(TextOnlyModel.load, tmp_path, "a")


@pytest.fixture
def places(demo_data, tmp_path):
    return [
        f"--datasets_dir={demo_data}",
        f"--models_dir={tmp_path / 'models'}",
        f"--results_dir={tmp_path / 'results'}",
    ]


def results_of(tmp_path, name="text_only"):
    return json.loads((tmp_path / "results" / f"train_text_only_baseline_{name}.json").read_text())


def test_the_utility_writes_model_and_scores(places, tmp_path, capsys):
    assert main([UTILITY, "--baseline_cluster_num=9", *places]) == 0
    results = results_of(tmp_path)
    metrics = results["metrics"]
    for section in ("categorization", "categorization_chance"):
        for words in ("known_words", "all_words"):
            assert set(metrics[section][words]) == WORD_KEYS
    assert metrics["word_association"]["pairs_found"] > 0
    assert metrics["concreteness"]["pearson_by_min_count"]["0"]["r"] > 0
    references = results["settings"]["reference_words"]
    all_words, others = (
        metrics[name]["word_count"]
        for name in ("concreteness", "concreteness_without_reference_words")
    )
    assert all_words - others == 2 * len(references["concrete"])
    assert results["settings"]["cluster_num"] == 9
    assert results["data"]["filtered"] is True
    assert results["not_measured"] == {}
    assert "v measure" in capsys.readouterr().out
    model = TextOnlyModel.load(tmp_path / "models", "text_only")
    assert results["settings"] == model.settings | {"dataset": "coco"}
    assert len(set(model.clusters.tolist()) - {NO_CLUSTER}) == 9


def test_the_same_seed_gives_the_same_files(places, tmp_path):
    found = []
    for _ in range(2):
        main([UTILITY, "--seed=4", "--overwrite", *places])
        found.append(
            [results_of(tmp_path), (tmp_path / "models/text_only/text_only.cfg").read_text()]
        )
    assert found[0] == found[1]


def test_more_clusters_than_words(places, tmp_path):
    (tmp_path / "words.txt").write_text("dog\ncar\n")
    arguments = [f"--word_list={tmp_path / 'words.txt'}", "--model_name=few"]
    assert main([UTILITY, *arguments, *places]) == 0
    model = TextOnlyModel.load(tmp_path / "models", "few")
    assert sorted(model.clusters.tolist())[-2:] == [0, 1]
    assert model.settings["clustered_words"] == 2


def without(demo_data, tmp_path, *names):
    """Copy the demo world's captions and norms but for some files."""
    data = tmp_path / "data"
    shutil.copytree(demo_data, data, ignore=shutil.ignore_patterns(*names))
    return data


def test_without_categories_nothing_is_clustered(demo_data, places, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    data = without(demo_data, tmp_path, CATEGORY_FILE)
    assert main([UTILITY, *places, f"--datasets_dir={data}"]) == 0
    results = results_of(tmp_path)
    assert results["metrics"]["categorization"] is None
    assert results["metrics"]["word_association"] is None
    assert results["metrics"]["concreteness"]["word_count"] > 0
    assert set(results["not_measured"]) == {"categorization", "word_association"}
    assert "no words are clustered" in caplog.text
    model = TextOnlyModel.load(tmp_path / "models", "text_only")
    assert set(model.clusters.tolist()) == {NO_CLUSTER}


def test_without_ratings_no_concreteness_is_learned(demo_data, places, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    data = without(demo_data, tmp_path, CONCRETENESS_FILE, ASSOCIATION_FILE)
    assert main([UTILITY, *places, f"--datasets_dir={data}"]) == 0
    results = results_of(tmp_path)
    assert results["metrics"]["concreteness"] is None
    assert results["metrics"]["concreteness_without_reference_words"] is None
    assert results["metrics"]["word_association"] is None
    assert results["settings"]["reference_words"] is None
    assert "concreteness is not learned" in caplog.text
    model = TextOnlyModel.load(tmp_path / "models", "text_only")
    assert not model.concreteness.any()
    assert model.settings["clustered_words"] > 0


def test_ratings_of_no_frequent_word_leave_concreteness_undefined(
    demo_data, places, tmp_path, caplog
):
    caplog.set_level(logging.INFO)
    data = without(demo_data, tmp_path, CONCRETENESS_FILE)
    (data / CONCRETENESS_FILE).write_text("Word\tBigram\tConc.M\ndog\t0\t5\nunheard\t0\t2\n")
    assert main([UTILITY, *places, f"--datasets_dir={data}"]) == 0
    metrics = results_of(tmp_path)["metrics"]
    assert metrics["concreteness"]["pearson_by_min_count"]["0"] == {"r": None, "word_count": 1}
    assert "concreteness is 0 for all words" in caplog.text


def test_without_any_norms_it_is_the_users_mistake(demo_data, places, tmp_path, capsys):
    data = without(demo_data, tmp_path, CATEGORY_FILE, CONCRETENESS_FILE)
    fails(capsys, UTILITY, *places, f"--datasets_dir={data}", mentions=CONCRETENESS_FILE)
    assert not list(tmp_path.rglob("*.mdl"))


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        (["--baseline_cluster_num=0"], "--baseline_cluster_num"),
        (["--word_list=absent.txt"], "absent.txt"),
        (["--datasets_dir=nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line(places, tmp_path, capsys, arguments, mentions):
    fails(capsys, UTILITY, *places, *arguments, mentions=mentions)
    assert not list(tmp_path.rglob("*.mdl"))


def test_a_model_is_not_overwritten_unasked(places, tmp_path, capsys):
    path = tmp_path / "models" / "text_only" / "text_only.mdl"
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    fails(capsys, UTILITY, *places, mentions="--overwrite")
    assert path.read_text() == "precious"
    assert main([UTILITY, "--overwrite", *places]) == 0
    TextOnlyModel.load(tmp_path / "models", "text_only")
