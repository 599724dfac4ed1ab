"""Which range of real values the integers of an activation should cover, from what calibration saw.

A :class:`Histogram` takes batch after batch in constant memory; the observers read a range off it.
Pure functions on arrays; running the model is the business of ``squeeze.passes``.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, log2
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Method = Literal["minmax", "percentile", "entropy", "mse"]
Range = tuple[float, float]

BINS_PER_SIDE = 4096  # at least 2,048 bins lie in the range in use; with 128, entropy cannot differ from minmax
SHRINKS = np.linspace(1.0, 0.2, 161)  # candidate ranges, as parts of the observed one
LEVELS = 256


class Histogram:
    """Counts of values, symmetric around zero; the width doubles as larger values arrive, so memory is constant."""

    def __init__(self) -> None:
        self.low, self.high = 0.0, 0.0
        self.limit = 0.0
        self.counts = np.zeros(2 * BINS_PER_SIDE, dtype=np.int64)

    def add(self, values: NDArray[np.floating[Any]]) -> None:
        """Count one batch."""
        low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(-low, high))
        if self.limit > 0:
            self.counts += np.histogram(values, bins=self.counts.size, range=(-self.limit, self.limit))[0]

    @property
    def centers(self) -> Floats:
        """The middle of each bin."""
        width = self.limit / BINS_PER_SIDE
        return (np.arange(self.counts.size, dtype=np.float64) - BINS_PER_SIDE + 0.5) * width

    def _widen(self, largest: float) -> None:
        if self.limit == 0:
            self.limit = 2.0 ** ceil(log2(largest)) if largest > 0 else 0.0
        while self.limit < largest:
            inner = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.pad(inner, BINS_PER_SIDE // 2)
            self.limit *= 2


def minmax(histogram: Histogram) -> Range:
    """Everything that was seen: no value is clipped, and one outlier coarsens the grid for all."""
    return histogram.low, histogram.high


def percentile(histogram: Histogram, percent: float = 99.99) -> Range:
    """The middle ``percent`` of the values; the rest is clipped."""
    counts, centers = histogram.counts, histogram.centers
    if not counts.sum():
        return minmax(histogram)
    share = np.cumsum(counts) / counts.sum()
    tail = (1 - percent / 100) / 2
    half_bin = histogram.limit / BINS_PER_SIDE / 2
    low = float(centers[int(np.searchsorted(share, tail, side="right"))]) - half_bin
    high = float(centers[min(int(np.searchsorted(share, 1 - tail)), counts.size - 1)]) + half_bin
    return min(max(low, histogram.low), 0.0), max(min(high, histogram.high), 0.0)  # zero always lies in the range


def mse(histogram: Histogram) -> Range:
    """The range with the least squared error: clipping a few large values is traded against finer steps.

    Banner et al., 2018, https://arxiv.org/abs/1810.05723, here on the histogram itself.
    """
    return _best_shrink(histogram, _squared_error)


def entropy(histogram: Histogram) -> Range:
    """The range with the least Kullback-Leibler divergence between the values and their 256 levels.

    Migacz, "8-bit inference with TensorRT", 2017. Zeros are left out: the grid holds them exactly, and the spike that a
    ReLU makes of them would pull every range together.
    """
    without_zeros = Histogram()
    without_zeros.low, without_zeros.high, without_zeros.limit = histogram.low, histogram.high, histogram.limit
    without_zeros.counts = histogram.counts.copy()
    without_zeros.counts[BINS_PER_SIDE] = 0
    return _best_shrink(without_zeros, _divergence)


def choose_range(histogram: Histogram, method: Method, percent: float = 99.99) -> Range:
    """The range by the observer of that name."""
    if method == "percentile":
        return percentile(histogram, percent)
    return {"minmax": minmax, "mse": mse, "entropy": entropy}[method](histogram)


def _best_shrink(histogram: Histogram, loss: Callable[[Floats, Floats, float, float], float]) -> Range:
    is_used = histogram.counts > 0
    counts, centers = histogram.counts[is_used].astype(np.float64), histogram.centers[is_used]
    if not counts.size:
        return minmax(histogram)
    losses = [loss(counts, centers, histogram.low * part, histogram.high * part) for part in SHRINKS]
    part = float(SHRINKS[int(np.argmin(losses))])
    return histogram.low * part, histogram.high * part


def _squared_error(counts: Floats, centers: Floats, low: float, high: float) -> float:
    scale = (high - low) / (LEVELS - 1)
    rounded = np.round((np.clip(centers, low, high) - low) / scale) * scale + low
    return float((counts * (centers - rounded) ** 2).sum())


def _divergence(counts: Floats, centers: Floats, low: float, high: float) -> float:
    """KL of the values clipped to the range from the same values spread evenly over their level."""
    scale = (high - low) / (LEVELS - 1)
    level = np.clip(np.round((centers - low) / scale), 0, LEVELS - 1).astype(np.int64)
    inside = (centers >= low) & (centers <= high)
    p = np.where(inside, counts, 0.0)
    q = _spread(p, level, inside)
    edges = np.flatnonzero(inside)
    if not edges.size:
        return np.inf
    p[edges[0]] += counts[: edges[0]].sum()  # what is clipped lands on the outermost values
    p[edges[-1]] += counts[edges[-1] + 1 :].sum()
    p, q = p / p.sum(), q / q.sum()
    is_used = (p > 0) & (q > 0)
    return float((p[is_used] * np.log(p[is_used] / q[is_used])).sum())


def _spread(p: Floats, level: NDArray[np.int64], inside: NDArray[np.bool_]) -> Floats:
    mass = np.bincount(level, weights=p, minlength=LEVELS)
    bins = np.bincount(level, weights=inside.astype(np.float64), minlength=LEVELS)
    return np.where(inside, mass[level] / np.maximum(bins[level], 1), 0.0)
