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

    Raises:
        ValueError: the shapes differ.
    """
    image_bits = np.asarray(image_bits, dtype=bool)
    caption_bits = np.asarray(caption_bits, dtype=bool)
    if image_bits.shape != caption_bits.shape:
        raise ValueError(
            f"image bits of shape {image_bits.shape} for caption bits of shape {caption_bits.shape}"
        )
    trial_count = len(image_bits) // 2 * 2
    pairs = (trial_count // 2, 2, image_bits.shape[1])
    images = image_bits[:trial_count].reshape(pairs)  # (M, 2, C)
    captions = caption_bits[:trial_count].reshape(pairs)  # (M, 2, C)
    own_distance = (images != captions).sum(axis=-1)  # (M, 2)
    other_distance = (images != captions[:, ::-1]).sum(axis=-1)  # (M, 2)
    outcomes: np.ndarray = np.sign(other_distance - own_distance)  # (M, 2)
    return outcomes.astype(np.int8)


def matching_scores(outcomes: np.ndarray) -> dict[str, float | int | None]:
    """Score the trials (M, 2) of ``matching_outcomes``.

    Returns:
        ``accuracy``, the share of trials where the own caption is strictly nearer;
        ``accuracy_with_ties``, where it is at least as near (so bits that never differ score 1);
        ``accuracy_half_ties``, where a tie counts one half, so that chance is exactly 0.5; all in
        0..1 and None without a trial; ``trial_count`` = 2 M.
    """
    if outcomes.size == 0:
        return {**dict.fromkeys(ACCURACIES), "trial_count": 0}
    return {
        "accuracy": float((outcomes > 0).mean()),
        "accuracy_with_ties": float((outcomes >= 0).mean()),
        "accuracy_half_ties": float((1 + outcomes.mean()) / 2),
        "trial_count": outcomes.size,
    }
