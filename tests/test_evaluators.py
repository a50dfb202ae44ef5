"""The evaluators between models and metrics, on hand-made answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from datasets_src.captions import Vocabulary
from datasets_src.norms import Categories, Norms
from evaluation.image_evaluation import (
    ImagePredictions,
    caption_bits,
    image_metrics,
    split_gold_boxes,
)
from evaluation.word_evaluation import (
    NO_CLUSTER,
    WordPredictions,
    predict_words,
    word_metrics,
    words_to_clusters,
)
from models_src.text_encoders.count import CountTextEncoder


class Table:
    """A text encoder that answers from a fixed table."""

    words = ("a", "dog", "cat", "odd")
    cluster_num = 3

    def word_posteriors(self):
        return torch.tensor(
            [[0.4, 0.2, 0.4], [0.1, 0.9, 0.0], [0.0, 0.3, 0.7], [0.0, 0.0, 0.0]],
            dtype=torch.float64,
        )


def test_words_to_clusters_with_ties_and_unknown_words():
    clusters, probabilities = words_to_clusters(Table(), ["cat", "a", "unheard", "odd", "dog"])
    assert clusters.tolist() == [2, 0, NO_CLUSTER, NO_CLUSTER, 1]
    assert probabilities.tolist() == [0.7, 0.4, 0, 0, 0.9]


def norms(**parts) -> Norms:
    names = ("categories", "concreteness", "association_file", "word_list")
    return Norms(**(dict.fromkeys(names) | {"absent": {}} | parts))


def test_evaluated_words_are_known_in_the_captions_and_in_the_word_list(tmp_path):
    words = ("dog", "cat", "odd", "eel", "car")
    predictions = WordPredictions(
        words,
        np.array([9, 8, 7, 6, 5]),
        np.array([1, 1, NO_CLUSTER, 2, 1]),
        np.array([0.9, 0.8, 0, 0.6, 0.5]),
    )
    categories = Categories(
        ("dog", "cat", "odd", "eel", "car", "unheard"), np.array([0, 0, 0, 0, 1, 1]), ("x", "y")
    )
    (tmp_path / "swow").write_text("R1\tdog\tcat\t4\nR2\tcat\tdog\t2\nR1\tdog\teel\t9\n")
    parts = {"categories": categories, "association_file": tmp_path / "swow"}
    metrics = word_metrics(predictions, norms(**parts), 0.7, 0)
    assert metrics["categorization"]["known_words"]["word_count"] == 4
    assert metrics["categorization"]["all_words"]["word_count"] == 6
    # clusters {dog cat car} {eel} {odd unheard}: 2 + 1 + 1 of 6
    assert metrics["categorization"]["all_words"]["purity"] == pytest.approx(4 / 6)
    # dog-cat 4 + 2; dog-car and cat-car share the cluster but are not in the file
    assert metrics["word_association"] == {
        "mean_association_strength": 6,
        "pairs_found": 1,
        "pairs_not_found": 2,
    }
    assert metrics["cluster_counts"] == {"active_clusters": 1, "active_tokens": 2}
    assert metrics["concreteness"] is None

    restricted = norms(**parts, word_list=frozenset({"dog", "car", "unheard"}))
    metrics = word_metrics(predictions, restricted, 0.7, 0)
    assert metrics["categorization"]["known_words"]["word_count"] == 2
    assert metrics["categorization"]["all_words"]["word_count"] == 6
    assert metrics["word_association"]["pairs_not_found"] == 1


def test_concreteness_is_over_rated_words_of_the_captions():
    predictions = predict_words(
        Table(), Vocabulary(("a", "dog", "cat", "odd"), np.arange(4, 0, -1))
    )
    ratings = {"dog": 5.0, "cat": 4.0, "a": 1.5, "unheard": 3.0}
    found = word_metrics(predictions, norms(concreteness=ratings), 0.5, 0)["concreteness"]
    assert found["word_count"] == 3
    metrics = word_metrics(predictions, norms(), 0.5, 0)
    for name in ("categorization", "categorization_chance", "concreteness", "word_association"):
        assert metrics[name] is None
    assert found["mean_absolute_error"] == pytest.approx((4.1 + 3.3 + 1.1) / 3)


def test_a_perfect_model_scores_one_everywhere(test_split):
    """One cluster per class, one predicted box and peak per instance, right on the gold box."""
    # setup's filter and a single class an image, so that what co-occurs is what is shown
    single = np.flatnonzero(test_split.instances.is_single_word())
    first = np.unique(test_split.instances.image, return_index=True)[1]
    alone = replace(
        test_split.instances,
        image=test_split.instances.image[first],
        class_index=single[np.arange(len(first)) % len(single)],
        boxes=test_split.instances.boxes[first],
        has_own_box=test_split.instances.has_own_box[first],
    )
    split = replace(test_split, instances=alone)
    class_count = len(alone.class_names)
    boxes = np.concatenate(split_gold_boxes(split))
    predictions = ImagePredictions(
        logits=np.zeros((len(split.image_ids), class_count), dtype=np.float32),
        bits=alone.counts(len(split.image_ids)) > 0,
        image=alone.image,
        cluster=alone.class_index,
        boxes=boxes,
        peaks=boxes[:, :2],
    )
    metrics, counts = image_metrics(predictions, split, np.arange(class_count), seed=0)
    assert all(found.shape == (len(split.image_ids), 3) for found in counts.values())
    for name in ("class_name_classification", "cluster_classification_co_occurrence",
                 "cluster_classification_iou", "bounding_box", "heatmap"):  # fmt: skip
        assert metrics[name]["f1"] == 1, name
    assert metrics["bounding_box_chance"]["f1"] < 0.5
    golds = [metrics[name]["true_positives"] + metrics[name]["false_negatives"]
             for name in ("bounding_box", "bounding_box_chance", "heatmap_chance")]  # fmt: skip
    assert golds == [len(alone.image)] * 3
    for name in ("bounding_box", "heatmap"):  # here the model guesses once for each gold box
        assert metrics[f"{name}_equal_guess_chance"] == metrics[f"{name}_chance"]


def test_a_model_that_activates_nothing_scores_zero_or_null(test_split):
    image_count, class_count = len(test_split.image_ids), len(test_split.instances.class_names)
    none = np.zeros(0, dtype=np.int64)
    predictions = ImagePredictions(
        np.zeros((image_count, 4), dtype=np.float32),
        np.zeros((image_count, 4), dtype=bool), none, none,
        np.zeros((0, 4), dtype=np.int64), np.zeros((0, 2), dtype=np.int64)
    )  # fmt: skip
    metrics, _ = image_metrics(predictions, test_split, np.zeros(class_count, dtype=int), seed=0)
    assert metrics["heatmap"]["precision"] is None
    assert metrics["heatmap"]["recall"] == 0
    # who guesses nothing is compared with chance that guesses nothing, and the published one
    assert metrics["heatmap_equal_guess_chance"]["false_positives"] == 0
    assert metrics["heatmap_chance"]["false_positives"] > 0
    assert metrics["class_name_classification"]["true_positives"] == 0


def test_caption_bits_are_scores_above_the_threshold():
    encoder = CountTextEncoder("generative", ("a", "b"), 3)
    tokens = torch.tensor([[0], [1]])
    encoder.update(tokens, encoder.score(tokens), torch.eye(3, dtype=torch.bool)[:2])
    bits = caption_bits(encoder, ["a b", "B", ""], 0.5)
    assert bits.tolist() == [[True, True, False], [False, True, False], [False, False, False]]
    assert caption_bits(encoder, [], 0.5).shape == (0, 3)
