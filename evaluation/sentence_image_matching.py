"""Whether an image's clusters tell its own caption from another image's.

Axes: N images (each with one caption), C clusters, M = N // 2 pairs of images.
"""

import numpy as np

ACCURACIES = ("accuracy", "accuracy_with_ties", "accuracy_half_ties")


def matching_outcomes(image_bits: np.ndarray, caption_bits: np.ndarray) -> np.ndarray:
    """Match images with captions by the clusters that both activate.

    Images 2k and 2k + 1 form a pair and each of the two is one trial: the Hamming distance of its
    bits to its own caption's bits against that to the other image's caption. An odd last image is
    left out.

    Args:
        image_bits: (N, C) bool, images in ascending id.
        caption_bits: (N, C) bool, the caption of each image.

    Returns:
        (M, 2) int8, a row for each pair: 1 where the own caption is nearer, 0 where both are as
        near, -1 where the other one is nearer.
    """
    pair_count, cluster_num = len(image_bits) // 2, image_bits.shape[1]
    images, captions = (
        bits[: 2 * pair_count].reshape(pair_count, 2, cluster_num)
        for bits in (image_bits, caption_bits)
    )
    own_distance = (images != captions).sum(axis=-1)  # (M, 2)
    other_distance = (images != captions[:, ::-1]).sum(axis=-1)  # (M, 2)
    outcomes: np.ndarray = np.sign(other_distance - own_distance)  # (M, 2)
    return outcomes.astype(np.int8)


def matching_scores(outcomes: np.ndarray) -> dict[str, float | int | None]:
    """Score the trials (M, 2) of ``matching_outcomes``.

    Returns:
        The share of trials where the own caption is nearer: a tie counts 0 in ``accuracy``, 1 in
        ``accuracy_with_ties`` (so bits that never differ score 1), one half in
        ``accuracy_half_ties``, whose chance level is exactly 0.5. None without a trial;
        ``trial_count`` = 2 M.
    """
    if outcomes.size == 0:
        return {**dict.fromkeys(ACCURACIES), "trial_count": 0}
    return {
        "accuracy": float((outcomes > 0).mean()),
        "accuracy_with_ties": float((outcomes >= 0).mean()),
        "accuracy_half_ties": float((1 + outcomes.mean()) / 2),
        "trial_count": outcomes.size,
    }
