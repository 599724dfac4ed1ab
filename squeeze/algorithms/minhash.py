"""MinHash: texts that have most of their runs of words in common, found without comparing each with each.

Broder, 1997, "On the resemblance and containment of documents": the least of all hashes of a set is that of a union of
two sets with the chance of their resemblance, ``|A & B| / |A | B|``. Candidates are texts whose hashes agree in a whole
band (Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", chapter 3); how many hashes of the two agree then
estimates the resemblance. 512 bytes a text.
"""

from __future__ import annotations

import numpy as np
import scipy

HASHES = 128  # the estimate's standard error at a resemblance of 0.8 is 0.035
BANDS = 16  # of 8 hashes: a pair that resembles by 0.8 is a candidate 95 times in 100
SHIFT = np.uint64(32)
AT_ONCE = 4096  # runs: 4 MB of hashes


def signature(runs: np.ndarray) -> np.ndarray:
    """The least of each of 128 hashes, uint32 ``[128]``.

    Args:
        runs: uint64 ``[n]``, a hash per run of words; at least one.
    """
    least = np.full(HASHES, np.iinfo(np.uint32).max, np.uint32)
    for start in range(0, len(runs), AT_ONCE):
        hashed = (runs[start : start + AT_ONCE, None] * FACTORS + OFFSETS) >> SHIFT  # modulo 2**64, upper half
        least = np.minimum(least, hashed.min(0).astype(np.uint32))
    return least


def first_alike(signatures: np.ndarray, resemblance: float) -> np.ndarray:
    """``[n]``: the number of the first text that each resembles; its own where there is none before it.

    Args:
        signatures: uint32 ``[n, 128]``.
        resemblance: What the estimate must reach.
    """
    count = len(signatures)
    links = [np.stack([np.arange(count)] * 2, 1)]
    for band in np.split(signatures, BANDS, axis=1):
        _, first, bucket = np.unique(band, axis=0, return_index=True, return_inverse=True)
        pairs = np.stack([np.arange(count), first[bucket.reshape(-1)]], 1)
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        agreeing = (signatures[pairs[:, 0]] == signatures[pairs[:, 1]]).mean(1)
        links.append(pairs[agreeing >= resemblance])
    one, other = np.concatenate(links).T
    graph = scipy.sparse.coo_array((np.ones(len(one)), (one, other)), shape=(count, count))
    parts = scipy.sparse.csgraph.connected_components(graph, directed=False)[1]
    _, first, group = np.unique(parts, return_index=True, return_inverse=True)
    alike: np.ndarray = first[group]
    return alike


_random = np.random.default_rng(1997)
FACTORS = _random.integers(0, 2**64, HASHES, np.uint64) | np.uint64(1)
OFFSETS = _random.integers(0, 2**64, HASHES, np.uint64)
