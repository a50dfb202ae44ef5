"""k-means over the rows of a matrix. Axes: W words, D features."""

import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

STARTS = 10  # k-means runs from this many starts; the tightest result counts


def cluster_vectors(vectors: "np.ndarray | csr_matrix", cluster_num: int, seed: int) -> np.ndarray:
    """Cluster rows by k-means with Euclidean distance.

    Rows are taken as they are: whoever wants cosines brings them to length 1 first. Equal rows
    share a cluster, so that with fewer distinct rows than ``cluster_num`` there are only as many
    clusters as distinct rows.

    Args:
        vectors: (W, D) finite numbers, dense or scipy sparse.
        cluster_num: Number of clusters, at least 1.
        seed: Of the starts; the same seed gives the same clusters.

    Returns:
        (W,) int64 clusters in 0..cluster_num-1; without rows an empty array.

    Raises:
        ValueError: a value is not finite, or ``cluster_num`` is less than 1.
    """
    if cluster_num < 1:
        raise ValueError(f"cluster_num must be at least 1, not {cluster_num}")
    if not vectors.shape[0]:
        return np.empty(0, dtype=np.int64)

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    k_means = KMeans(
        min(cluster_num, _distinct_row_count(vectors)), n_init=STARTS, random_state=seed
    )
    with warnings.catch_warnings():
        # rows that differ by rounding only may end up in fewer clusters, which is well
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusters: np.ndarray = k_means.fit_predict(vectors)
        return clusters.astype(np.int64)


def _distinct_row_count(vectors: "np.ndarray | csr_matrix") -> int:
    """Return the number of different rows of a dense or sparse (W, D) matrix."""
    from scipy.sparse import csr_matrix, issparse

    if not issparse(vectors):
        return len(np.unique(vectors, axis=0))
    rows = csr_matrix(vectors, copy=True)
    rows.sum_duplicates()  # also sorts the columns of each row
    rows.eliminate_zeros()
    bounds = zip(rows.indptr[:-1], rows.indptr[1:], strict=True)
    return len(
        {
            (rows.indices[start:end].tobytes(), rows.data[start:end].tobytes())
            for start, end in bounds
        }
    )
