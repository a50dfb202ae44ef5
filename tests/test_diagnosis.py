"""What training says of its own health: alive clusters, empty inputs, agreement, the warning."""

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score

from models_src.diagnosis import (
    BatchStatistics,
    agreeing_clusters,
    empty_sums,
    step_sums,
    trouble,
)
from models_src.diagnosis import batch_statistics as means
from models_src.joint import StepResult


def sums(images: np.ndarray, captions: np.ndarray, visual=0.0, text=0.0) -> torch.Tensor:
    text = None if text is None else torch.tensor(text)
    bits = torch.from_numpy(images), torch.from_numpy(captions)
    return step_sums(StepResult(torch.tensor(visual), text, *bits))


def random_bits(seed: int, pairs: int = 400, clusters: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.random((pairs, clusters)) < rng.random(clusters)
    flipped = rng.random((pairs, clusters)) < 0.2
    return images, images ^ flipped


def test_sums_over_steps_are_means_over_all_pairs():
    images, captions = random_bits(0)
    first, rest = sums(images[:100], captions[:100], 1, 2), sums(images[100:], captions[100:], 5, 6)
    seen = means(first + rest)
    assert seen.visual_loss == pytest.approx((1 * 100 + 5 * 300) / 400)
    assert seen.text_loss == pytest.approx((2 * 100 + 6 * 300) / 400)
    assert seen.clusters_per_image == pytest.approx(images.sum() / 400)
    assert seen.clusters_per_caption == pytest.approx(captions.sum() / 400)
    assert seen.images_without_cluster == pytest.approx((~images.any(axis=1)).mean())
    assert seen.captions_without_cluster == pytest.approx((~captions.any(axis=1)).mean())


def test_text_loss_is_that_of_the_steps_in_which_the_text_encoder_learned():
    images, captions = random_bits(0)
    before = sums(images, captions, 1.0, None)
    assert means(before).visual_loss == 1
    assert means(before).text_loss is means(empty_sums(6)).text_loss is None
    assert means(sums(images, captions)).text_loss == 0
    learned = sums(images[:40], captions[:40], 4.0, 0.25)
    learned += sums(images[:10], captions[:10], 4.0, 0.5)
    assert means(before + learned).text_loss == pytest.approx((0.25 * 40 + 0.5 * 10) / 50)
    assert means(before + learned).visual_loss == pytest.approx((1 * 400 + 4 * 50) / 450)


def test_clusters_agree_whose_kappa_is_a_third_of_that_of_all():
    images, captions = random_bits(1)
    captions[:, 2] = images[::-1, 2]  # by chance
    captions[:, 4] = True
    images[:, 5] = captions[:, 5] = False
    kappas = [cohen_kappa_score(*bits) for bits in zip(images.T[:4], captions.T[:4], strict=True)]
    overall = means(sums(images, captions)).agreement
    expected = [bool(kappa >= overall / 3) for kappa in kappas]
    assert expected == [True, True, False, True]
    found = agreeing_clusters(sums(images, captions))
    assert found.tolist() == [*expected, False, True]  # nothing speaks against constant bits
    assert agreeing_clusters(empty_sums(3)).all()


def test_alive_clusters_fire_neither_hardly_ever_nor_always():
    images = np.zeros((2000, 5), dtype=bool)
    images[:, 1] = True  # for everything
    images[:1, 2] = True  # once in 2,000
    images[:2, 3] = True  # once in 1,000
    images[:1800, 4] = True
    seen = means(sums(images, ~images))
    assert seen.alive_image_clusters == 2
    assert seen.alive_caption_clusters == 1  # cluster 4; the others fire for nearly all


def test_agreement_of_one_cluster_is_cohens_kappa_and_keeps_its_bounds():
    for seed in range(5):
        images, captions = random_bits(seed, clusters=1)
        expected = cohen_kappa_score(images[:, 0], captions[:, 0])
        assert means(sums(images, captions)).agreement == pytest.approx(expected)
    assert means(sums(images, images)).agreement == pytest.approx(1)
    half = np.arange(100)[:, None] % 2 == 0
    assert means(sums(half, ~half)).agreement == pytest.approx(-1)
    constant = np.tile([True, False], (10, 1))
    assert means(sums(constant, constant)).agreement is None
    assert means(empty_sums(4)).agreement is None
    rng = np.random.default_rng(0)
    images, captions = (rng.random((50_000, 3)) < [0.05, 0.5, 0.95] for _ in range(2))
    assert abs(means(sums(images, captions)).agreement) < 0.02
    assert (images == captions).mean() > 0.7  # what plain agreement would praise


@pytest.mark.parametrize(
    ("images_without", "captions_without", "alive", "mentions"),
    [
        (0.6, 0.0, (90, 90), "60% of the images activate no cluster; try a lower --visual"),
        (0.6, 0.7, (90, 90), "70% of the captions activate no cluster; try a higher --voting"),
        (0.5, 0.5, (4, 90), "only 4 of 100 clusters tell images apart; try a longer --random"),
        (0.0, 0.0, (90, 1), "only 1 of 100 clusters tell captions apart"),
        (0.5, 0.5, (5, 5), None),
    ],
)
def test_trouble_is_named(images_without, captions_without, alive, mentions):
    values = vars(means(empty_sums(100))) | {
        "images_without_cluster": images_without,
        "captions_without_cluster": captions_without,
        "alive_image_clusters": alive[0],
        "alive_caption_clusters": alive[1],
    }
    found = trouble(BatchStatistics(**values), 100)
    assert mentions in found if mentions else found is None
