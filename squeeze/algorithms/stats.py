"""Paired statistics: how sure we are of a difference between two models scored on the same examples.

Bootstrap: Efron & Tibshirani, 1993. Exact McNemar: a binomial test on the examples where two models disagree.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95
CHUNK_VALUES = 4_000_000  # resampling weights held at once: 16 MB of float32


class Interval(NamedTuple):
    """A 95 % interval, ends included."""

    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """True where the value lies outside."""
        return not self.low <= value <= self.high


def bootstrap_means(columns: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Means of every column over the same resampled rows, so that differences of columns stay paired.

    Args:
        columns: ``[examples, columns]``: per-example scores, one column per model and metric.
        resamples: How many times the examples are drawn with replacement.
        seed: The same seed and number of examples draw the same rows, whatever the columns are.

    Returns:
        ``[resamples, columns]``. Cost: ``resamples * examples`` draws and one matrix product over them.
    """
    examples = len(columns)
    generator = np.random.default_rng(seed)
    values = columns.astype(np.float64)
    chunk = max(1, min(resamples, CHUNK_VALUES // max(examples, 1)))
    means = [_chunk_means(values, min(chunk, resamples - done), generator) for done in range(0, resamples, chunk)]
    return np.concatenate(means)


def _chunk_means(values: np.ndarray, rows: int, generator: np.random.Generator) -> np.ndarray:
    examples = len(values)
    drawn = generator.integers(0, examples, size=(rows, examples))
    offsets = np.arange(rows)[:, None] * examples
    counts = np.bincount((drawn + offsets).ravel(), minlength=rows * examples).reshape(rows, examples)
    means: np.ndarray = counts @ values / examples
    return means


def percentile_interval(samples: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """The central share of resampled statistics."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return Interval(float(low), float(high))


def mcnemar_exact(before: np.ndarray, after: np.ndarray) -> float:
    """Two-sided p-value that two paired yes/no outcomes ``[examples]`` differ only by chance."""
    from scipy.stats import binomtest

    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    if gained + lost == 0:
        return 1.0
    return float(binomtest(gained, gained + lost, 0.5).pvalue)


def ratio_of_medians(new: np.ndarray, old: np.ndarray, resamples: int = 2_000, seed: int = 0) -> tuple[float, Interval]:
    """``median(new) / median(old)`` of paired timings ``[pairs]``, with its bootstrap interval over the pairs."""
    drawn = np.random.default_rng(seed).integers(0, len(new), size=(resamples, len(new)))
    ratios = np.median(new[drawn], axis=1) / np.median(old[drawn], axis=1)
    return float(np.median(new) / np.median(old)), percentile_interval(ratios)
