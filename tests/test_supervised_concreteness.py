"""The supervised concreteness model: endings, cross-validation, files, training through main."""

import json
import shutil

import numpy as np
import pytest

from datasets_src.norms import CONCRETENESS_FILE
from datasets_src.wordnet import PARTS_OF_SPEECH
from main import main
from models_src.baselines.supervised_concreteness import (
    SupervisedConcreteness,
    WordFeatures,
    endings,
    frequent_endings,
    train_supervised_concreteness,
)
from tests.test_cli import fails
from tests.test_coco import refusal_of

UTILITY = "--utility=train_concreteness_supervised_model"


def test_endings_by_hand():
    assert endings("bobcats") == ["s", "ts", "ats", "cats"]
    assert endings("cat") == ["t", "at"]  # a word is no ending of itself
    assert endings("a") == endings("") == []
    # ng: 3, g: 3, ing: 2, then all once, by the alphabet
    assert frequent_endings(["king", "ring", "long"]) == ["g", "ng", "ing", "ong"]


def test_only_the_most_frequent_endings_are_kept_and_ties_go_by_the_alphabet():
    words = [f"x{first}{second}" for first in "abcdefghijklmno" for second in "pqrstuvwxyzabcd"]
    found = frequent_endings(words)
    assert len(found) == 200
    assert found[:15] == sorted("pqrstuvwxyzabcd")  # 15 times each
    assert found[15:] == sorted(word[1:] for word in words)[:185]


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
    words = [
        stem + ("ness" if abstract else "oo")
        for stem, abstract in zip(stems, is_abstract, strict=True)
    ]
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
    assert by_both.words == tuple(words)
    assert by_both.cross_validated.dtype == np.float64


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


def test_the_seed_decides_the_folds():
    words, feature, ratings = world(40)
    first, again, other = (
        trained(words, ratings, {"pos": feature}, seed=seed) for seed in (1, 1, 2)
    )
    assert first.cross_validated.tolist() == again.cross_validated.tolist()
    assert first.cross_validated.tolist() != other.cross_validated.tolist()
    assert first.on_training_words.tolist() == other.on_training_words.tolist()


def test_the_scale_of_a_kind_does_not_matter():
    words, feature, ratings = world(60)
    kinds = {"pos": feature, "embeddings": np.random.default_rng(0).normal(size=(60, 5))}
    larger = kinds | {"embeddings": kinds["embeddings"] * 1000}
    first, second = (trained(words, ratings, features) for features in (kinds, larger))
    assert first.cross_validated == pytest.approx(second.cross_validated, abs=1e-3)


def test_features_that_do_not_vary_predict_a_constant():
    words, _, ratings = world(20)
    model = trained(words, ratings, {"pos": np.zeros((20, 4))})
    assert np.isfinite(model.cross_validated).all()
    assert np.ptp(model.on_training_words) == 0


def test_too_little_to_train_on():
    words, feature, ratings = world(9)
    message = refusal_of(trained, words, ratings, {"pos": feature})
    assert "only 9 of" in message
    words, feature, ratings = world(10)
    assert len(trained(words, ratings, {"pos": feature}).cross_validated) == 10


def test_a_model_survives_the_disk(tmp_path):
    answers = np.array([4.5, 1.25]), np.array([5.0, 1.0])
    SupervisedConcreteness(("dog", "no"), {"conc_use_pos": True}, *answers).save(tmp_path, "m")
    found = SupervisedConcreteness.load(tmp_path, "m")
    assert (found.words, found.settings) == (("dog", "no"), {"conc_use_pos": True})
    assert found.cross_validated.tolist() == [4.5, 1.25]
    assert found.on_training_words.tolist() == [5.0, 1.0]
    message = refusal_of(SupervisedConcreteness.load, tmp_path, "absent")
    assert "train_concreteness_supervised_model --model_name absent" in message


@pytest.fixture
def wordnet(tmp_path):
    """A tiny WordNet with some of the demo world's words."""
    folder = tmp_path / "wordnet"
    folder.mkdir()
    lemmas = {"noun": ("dog", "car", "table"), "verb": ("run", "dog"), "adj": (), "adv": ()}
    for name in PARTS_OF_SPEECH:
        lines = ["  1 licence", *(f"{lemma} {name[0]} 2 1 @" for lemma in lemmas[name])]
        (folder / f"index.{name}").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def places(demo_data, tmp_path):
    return [
        f"--datasets_dir={demo_data}",
        f"--models_dir={tmp_path / 'models'}",
        f"--results_dir={tmp_path / 'results'}",
    ]


def results_of(tmp_path):
    name = "train_concreteness_supervised_model_supervised_concreteness.json"
    return json.loads((tmp_path / "results" / name).read_text())


def test_the_utility_writes_model_and_scores(places, wordnet, tmp_path, capsys):
    (tmp_path / "v.vec").write_text("2 2\ndog 0.5 1\nzebra 1 1\n")
    arguments = [
        "--conc_use_pos",
        "--conc_use_suffix",
        "--conc_use_embeddings",
        f"--wordnet_dir={wordnet}",
        f"--embeddings_file={tmp_path / 'v.vec'}",
    ]
    assert main([UTILITY, *arguments, *places]) == 0
    results = results_of(tmp_path)
    metrics, recorded = results["metrics"], results["settings"]
    assert set(metrics) == {"concreteness", "concreteness_on_training_words"}
    seen, unseen = (
        metrics[name]["pearson_by_min_count"]["0"]["r"]
        for name in ("concreteness_on_training_words", "concreteness")
    )
    assert seen > unseen
    model = SupervisedConcreteness.load(tmp_path / "models", "supervised_concreteness")
    assert metrics["concreteness"]["word_count"] == len(model.words)
    assert recorded == model.settings | {"dataset": "coco"}
    assert recorded["words_with_vector"] == len({"dog", "zebra"} & set(model.words)) > 0
    assert 0 < recorded["words_in_wordnet"] <= 4
    assert (recorded["conc_use_pos"], recorded["folds"]) == (True, 5)
    assert results["data"]["filtered"] is True
    printed = capsys.readouterr().out
    assert "concreteness on training words" in printed


def test_the_default_file_of_vectors_is_in_the_datasets_folder(demo_data, places, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(demo_data, data)
    (data / "wiki-news-300d-1M.vec").write_text("1 2\ndog 0.5 1\n")
    arguments = [UTILITY, "--conc_use_embeddings", *places, f"--datasets_dir={data}"]
    assert main(arguments) == 0
    assert results_of(tmp_path)["settings"]["words_with_vector"] == 1


def test_a_model_is_not_overwritten_unasked(places, tmp_path, capsys):
    assert main([UTILITY, "--conc_use_suffix", *places]) == 0
    path = tmp_path / "models" / "supervised_concreteness" / "supervised_concreteness.mdl"
    before = path.read_bytes()
    again = [UTILITY, "--conc_use_suffix", "--seed=9", *places]
    fails(capsys, *again, mentions="--overwrite")
    assert path.read_bytes() == before
    assert main([*again, "--overwrite"]) == 0
    assert path.read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        ([], "--conc_use_pos, --conc_use_suffix, --conc_use_embeddings"),
        (["--conc_use_pos", "--wordnet_dir=nowhere"], "wordnet-base"),
        (["--conc_use_embeddings"], "wiki-news-300d-1M.vec"),
        (["--conc_use_embeddings", "--embeddings_file=absent.vec"], "--embeddings_file"),
        (["--conc_use_suffix", "--datasets_dir=nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line(places, tmp_path, capsys, arguments, mentions):
    fails(capsys, UTILITY, *places, *arguments, mentions=mentions)
    assert not list(tmp_path.rglob("*.mdl"))
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    ("ratings", "mentions"),
    [(None, CONCRETENESS_FILE), ("dog\t0\t5\nunheard\t0\t2\n", "only 1 of")],
)
def test_too_few_ratings_are_one_line(demo_data, places, tmp_path, capsys, ratings, mentions):
    data = tmp_path / "data"
    shutil.copytree(demo_data, data)
    (data / CONCRETENESS_FILE).unlink()
    if ratings is not None:
        (data / CONCRETENESS_FILE).write_text(f"Word\tBigram\tConc.M\n{ratings}")
    arguments = [*places, f"--datasets_dir={data}", "--conc_use_suffix"]
    fails(capsys, UTILITY, *arguments, mentions=mentions)
    assert not list(tmp_path.rglob("*.mdl"))
