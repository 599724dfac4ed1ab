"""A few examples that stand for all: as many from each cluster of their vectors, those nearest to its centre first.

Clusters by k-means in mini-batches (Sculley, 2010, https://doi.org/10.1145/1772690.1772862).
"""

from __future__ import annotations

import warnings

import numpy as np
from threadpoolctl import threadpool_limits

MOST_CLUSTERS = 1024
TOGETHER = 4096  # vectors whose distances to all centres are in memory, 32 MB


def spread_out(vectors: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Numbers of ``count`` examples in order.

    Args:
        vectors: float32 ``[n, width]``; at least ``count``.
    """
    if count >= len(vectors):
        return np.arange(len(vectors))
    cluster, distance = _clusters(vectors, min(count, MOST_CLUSTERS), seed)
    order = np.lexsort((distance, cluster))
    sizes = np.bincount(cluster)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # within its cluster, nearest first
    taken = order[np.lexsort((distance[order], rank))[:count]]  # every cluster gives its first, then its second, ...
    return np.sort(taken)


def _clusters(vectors: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The cluster of each vector, and its distance to that centre."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different vectors than clusters: fewer clusters
        means = MiniBatchKMeans(count, random_state=seed, n_init=1, batch_size=TOGETHER).fit(vectors)
        parts = [means.transform(vectors[start : start + TOGETHER]) for start in range(0, len(vectors), TOGETHER)]
    nearest = np.concatenate([part.argmin(1) for part in parts])
    return np.unique(nearest, return_inverse=True)[1], np.concatenate([part.min(1) for part in parts])
