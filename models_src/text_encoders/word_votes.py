"""Which cluster each word votes for: words that go with like images share one.

The image clusters that start from random votes hold synonyms apart ("dog", "puppy") and throw
strangers together. A word's profile (how much more often than at large do images of its captions
activate each cluster) tells both: profiles of synonyms point the same way. So the words that say
most of their images are clustered by the direction of their profiles, and each cluster keeps the
number under which most of its tokens voted before. Clustering and learning by turns follows
DeepCluster (Caron et al. 2018), here across two encoders.

Axes: V words, C clusters, D clusters that some word votes for.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor

# occurrences of an average word, added to each word's own, so that rare words have no sure profile
EVEN_OCCURRENCES = 20
FLOOR = -1.0  # log lifts below it say no more than that a word's images lack a cluster
FEWEST_OCCURRENCES = 10  # of a word whose profile may found a cluster; rarer words join one
MOST_FOUNDERS = 3000  # the most frequent; clustering takes their squared number in memory
FEWEST_VOTES = 2e-4  # share of all tokens below which a cluster's votes teach nothing


@dataclass(frozen=True)
class Votes:
    """What the words of a vocabulary vote for."""

    clusters: np.ndarray  # (V,) int64
    voting: np.ndarray  # (V,) bool; the others say too little of their images
    voted: np.ndarray  # (C,) bool: clusters with a share of the votes worth learning


def cluster_shares(sums: Tensor) -> Tensor:
    """Return p(c) of all tokens, (C,), from the (V, C) counts of words and clusters."""
    shares = sums.sum(dim=0) / sums.sum().clamp(min=1e-12) + 1e-4
    return shares / shares.sum()


def smoothed_posteriors(sums: Tensor, occurrences: Tensor, prior: Tensor) -> Tensor:
    """Return p(c|w), (W, C), with ``EVEN_OCCURRENCES`` that are spread as all tokens are.

    Args:
        sums: (W, C) posteriors or counts added up over each word's occurrences.
        occurrences: (W,); a word without any has the row p(c).
        prior: (C,) p(c), see ``cluster_shares``.
    """
    return (sums + EVEN_OCCURRENCES * prior) / (occurrences + EVEN_OCCURRENCES)[:, None]


def certainties(posteriors: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Return the share of a word's images' clusters that the word accounts for, (V,) in 0..1.

    It is the total variation distance of p(c|w), (V, C), from p(c), (C,): the probability that
    has to be moved to make one of the other, 0 for a word that goes with any image.
    """
    distances: np.ndarray = np.abs(posteriors - prior).sum(axis=1) / 2
    return distances


def word_profiles(posteriors: np.ndarray, prior: np.ndarray, voted: np.ndarray) -> np.ndarray:
    """Return the direction of each word's log lifts, (V, D), of length 1; 0 for an average word.

    Args:
        posteriors: (V, C) p(c|w).
        prior: (C,) p(c).
        voted: (C,) bool, the D clusters that count.
    """
    profiles: np.ndarray = np.log(posteriors / prior)[:, voted].clip(min=FLOOR)
    profiles -= profiles.mean(axis=1, keepdims=True)
    profiles /= np.linalg.norm(profiles, axis=1, keepdims=True).clip(min=1e-12)
    return profiles


def nearest_clusters(
    profiles: np.ndarray, members: np.ndarray, clusters: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return the cluster whose mean profile is nearest to each word's by cosine, (V,).

    Args:
        profiles: (V, D), see ``word_profiles``.
        members: (M,) the words whose means are taken.
        clusters: (M,) their clusters.
        weights: (M,) what they count.
    """
    centres = np.zeros((clusters.max(initial=0) + 1, profiles.shape[1]))
    np.add.at(centres, clusters, profiles[members] * weights[:, None])
    lengths = np.linalg.norm(centres, axis=1)
    cosines = profiles @ (centres / lengths.clip(min=1e-12)[:, None]).T
    cosines[:, lengths == 0] = -np.inf
    nearest: np.ndarray = cosines.argmax(axis=1)
    return nearest


def choose_votes(
    sums: Tensor, word_occurrences: Tensor, before: Votes, voting_share: float, distance: float
) -> Votes:
    """Found the clusters anew and let the words vote for them.

    Args:
        sums: (V, C) float64 shares of images' clusters, added up over each word's occurrences.
        word_occurrences: (V,), some of them above 0.
        before: What the words voted for until now.
        voting_share: Share of the tokens, 0..1, that vote: those of the words with the largest
            ``certainties``, so that "the" is silent and "dog" is not.
        distance: Largest cosine distance, 0..2, between words of a cluster (complete linkage); it
            grows until there are no more than C clusters. Rare words join the nearest.
    """
    prior = cluster_shares(sums)
    posteriors = smoothed_posteriors(sums, word_occurrences, prior).numpy()
    occurrences = word_occurrences.numpy()
    order = np.argsort(-certainties(posteriors, prior.numpy()), kind="stable")
    voting = np.zeros(len(sums), dtype=bool)
    voting[order[np.cumsum(occurrences[order]) <= voting_share * occurrences.sum()]] = True

    profiles = word_profiles(posteriors, prior.numpy(), before.voted)
    founders = np.flatnonzero(voting & (occurrences >= FEWEST_OCCURRENCES) & profiles.any(axis=1))
    founders = founders[np.argsort(-occurrences[founders], kind="stable")][:MOST_FOUNDERS]
    if len(founders) < 2:  # too little was seen
        return before
    weights = occurrences[founders]
    labels = _founded(profiles[founders], distance, sums.shape[1])
    # (K, C) tokens of each new cluster that voted for each old one: it keeps the commonest
    shared = np.zeros((labels.max() + 1, sums.shape[1]))
    np.add.at(shared, (labels, before.clusters[founders]), weights)
    labels = linear_sum_assignment(-shared)[1][labels]
    clusters = nearest_clusters(profiles, founders, labels, weights)
    clusters[founders] = labels
    tokens = np.bincount(clusters[voting], occurrences[voting], minlength=sums.shape[1])
    return Votes(clusters, voting, tokens >= FEWEST_VOTES * occurrences.sum())


def _founded(profiles: np.ndarray, distance: float, most: int) -> Any:
    """Cluster the rows by complete linkage at a distance, into ``most`` at most: (W,) labels."""
    options = {"metric": "cosine", "linkage": "complete"}
    labels = AgglomerativeClustering(None, distance_threshold=distance, **options).fit_predict(
        profiles
    )
    if labels.max() >= most:
        labels = AgglomerativeClustering(most, **options).fit_predict(profiles)
    return labels
