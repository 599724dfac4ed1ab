"""How sure we are of a mean: studentized bootstrap over independent units, at any level of confidence.

A unit is what was drawn independently (an image, a document, a question); examples of one unit share their luck. Every
mean here is a ratio of sums over units, ``sum(numerator) / sum(denominator)``: a mean over examples (values, counts),
a paired difference (differences and counts), a ratio of two means (new values and old values).

Hall, 1988, https://doi.org/10.1214/aos/1176350933: bootstrap-t has the right length on the side of the long tail, and
still misses there with few units. ``SKEW`` stretches that side by ``1 + SKEW * (|skewness| - CHANCE_SKEW) / units``,
both chosen by ``benchmarks/coverage.py`` so that 93 to 97 % are covered from 10 units on, of normal and lognormal
(sigma <= 1) values; what normal values show of skewness by chance stretches little.
Sums have a fixed order (no BLAS), so that threads do not change a byte.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import scipy

RESAMPLES = 10_000
CONFIDENCE = 0.95
FEWEST_UNITS = 10  # with fewer, intervals are printed without a verdict
FEW_UNITS = 20  # with fewer, an interval is at least as wide as Student's t
MOST_UNITS = 1_024  # more units are pooled at random into this many: same mean, equally good interval
SKEW = 8.0
CHANCE_SKEW = 0.3
LEAST_SPREAD = 1e-9  # smallest spread of a resample, as a share of the data's: no division by zero
CHUNK_VALUES = 1_000_000  # resampled values in memory at once: 8 MB


class Interval(NamedTuple):
    """An interval of confidence, ends included; 95 % where nothing else is said."""

    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """True where the value lies outside."""
        return not self.low <= value <= self.high


class Studentized:
    """A mean over units, and its interval at any level.

    Args:
        numerators: ``[units]``, per unit the sum of the values.
        denominators: ``[units]``: how many values; None: one each.
        seed: The same seed and number of units draw the same units, whatever the values are.
    """

    def __init__(self, numerators: np.ndarray, denominators: np.ndarray | None = None, seed: int = 0) -> None:
        sums = np.asarray(numerators, dtype=np.float64)
        counts = np.ones_like(sums) if denominators is None else np.asarray(denominators, dtype=np.float64)
        self.value = float(sums.sum() / counts.sum())
        self.units, self.seed = len(sums), seed
        self._sums, self._counts = _pooled(sums, counts, seed)
        self._residuals = self._sums - self.value * self._counts

    @cached_property
    def standard_error(self) -> float:
        """Of the ratio, linearized."""
        units = len(self._residuals)
        if units < 2:
            return float("inf")
        return float(np.sqrt(units / (units - 1) * (self._residuals**2).sum()) / abs(self._counts.sum()))

    def interval(self, level: float = CONFIDENCE) -> Interval | None:
        """None where a single unit tells nothing of the others."""
        if self.units < 2:
            return None
        low, high = self._reach((1 - level) / 2)
        return Interval(self.value - low * self.standard_error, self.value + high * self.standard_error)

    def _reach(self, tail: float) -> tuple[float, float]:
        """Standard errors to either side."""
        units = len(self._residuals)
        student = float(scipy.special.stdtrit(units - 1, 1 - tail))
        if units < FEWEST_UNITS or self.standard_error == 0:
            return student, student
        low, high = np.quantile(self._statistics, [tail, 1 - tail])
        least = student if units < FEW_UNITS else 0.0
        skewness = _skewness(self._residuals)
        return (
            max(float(high), least) * (1 + SKEW * max(-skewness - CHANCE_SKEW, 0) / units),
            max(float(-low), least) * (1 + SKEW * max(skewness - CHANCE_SKEW, 0) / units),
        )

    @cached_property
    def _statistics(self) -> np.ndarray:
        """``[RESAMPLES]``: how many of its own standard errors each resampled mean lies off."""
        return resampled_statistics(self._residuals, self._counts, self.seed)


def resampled_statistics(residuals: np.ndarray, counts: np.ndarray, seed: int = 0) -> np.ndarray:
    """``[RESAMPLES]`` studentized means of residuals ``[units]``, whose own mean is 0."""
    draws = _draws(len(residuals), seed)
    step = max(1, CHUNK_VALUES // len(residuals))
    parts = [_statistics(residuals, counts, draws[start : start + step]) for start in range(0, RESAMPLES, step)]
    return np.concatenate(parts)


@lru_cache(maxsize=1)
def _draws(units: int, seed: int) -> np.ndarray:
    """``[RESAMPLES, units]`` numbers of units, 40 MB at most; every mean over as many units draws the same ones."""
    return np.random.default_rng(seed).integers(0, units, size=(RESAMPLES, units), dtype=np.int32)


def _statistics(residuals: np.ndarray, counts: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """``sum(r) / sqrt(sum((r - d * c)**2))`` of drawn units, where ``d`` is the resample's own ``sum(r) / sum(c)``.

    A resample whose denominators are all 0 has no ratio: it is taken as one of equal denominators, however small.
    """
    units, r = draws.shape[1], residuals[draws]
    sums, squares = r.sum(1), np.einsum("ij,ij->i", r, r)
    spread = squares - sums**2 / units
    if not (counts == counts[0]).all():
        c = counts[draws]
        all_counts = c.sum(1)
        off = np.divide(sums, all_counts, out=np.zeros_like(sums), where=all_counts > 0)
        own = squares - 2 * off * np.einsum("ij,ij->i", r, c) + off**2 * np.einsum("ij,ij->i", c, c)
        spread = np.where(all_counts > 0, own, spread)
    least = (residuals**2).sum() * LEAST_SPREAD
    statistics: np.ndarray = sums / np.sqrt(np.maximum(spread, least) * units / (units - 1))
    return statistics


def _pooled(sums: np.ndarray, counts: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """At most :data:`MOST_UNITS`: groups of independent units are independent units."""
    if len(sums) <= MOST_UNITS:
        return sums, counts
    group = np.random.default_rng(seed).permutation(len(sums)) % MOST_UNITS
    return np.bincount(group, sums), np.bincount(group, counts)


def _skewness(values: np.ndarray) -> float:
    values = np.ldexp(values, -np.frexp(np.abs(values).max())[1])  # third powers of tiny values would be 0
    second = float((values**2).mean())
    return float((values**3).mean()) / second**1.5 if second > 0 else 0.0


def mean_by_unit(values: np.ndarray, units: np.ndarray | None = None, seed: int = 0) -> Studentized:
    """The mean of ``[examples]`` values; ``units`` ``[examples]`` numbers the unit that each belongs to."""
    return ratio_by_unit(values, None, units, seed)


def ratio_by_unit(
    values: np.ndarray, others: np.ndarray | None, units: np.ndarray | None = None, seed: int = 0
) -> Studentized:
    """``sum(values) / sum(others)``, both ``[examples]``; None: ones."""
    values = np.asarray(values, dtype=np.float64)
    others = np.ones_like(values) if others is None else np.asarray(others, dtype=np.float64)
    if units is None:
        return Studentized(values, others, seed)
    return Studentized(np.bincount(units, values), np.bincount(units, others), seed)


def ratio_of_medians(new: np.ndarray, old: np.ndarray, resamples: int = 2_000, seed: int = 0) -> tuple[float, Interval]:
    """``median(new) / median(old)`` of paired timings ``[pairs]``, with its bootstrap interval over the pairs."""
    draws = np.random.default_rng(seed).integers(0, len(new), size=(resamples, len(new)))
    ratios = np.median(new[draws], axis=1) / np.median(old[draws], axis=1)
    low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(np.median(new) / np.median(old)), Interval(float(low), float(high))
