"""How sure we are of a share, and of two shares over the same examples: intervals by inverting a score test.

Wilson, 1927, https://doi.org/10.1080/01621459.1927.10502953: one share.
Tango, 1998, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B: a paired difference.
Nam & Blackwelder, 2002, https://doi.org/10.1002/sim.1017: a paired ratio; at 1 its test is Tango's at 0, so the two
intervals exclude "no change" together.

Examples in units (questions of one text, copies of one image): counts are divided by the design effect, as Rao and
Scott do (Biometrics 48, 1992), and Student's t stands in for the normal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy

from squeeze.algorithms.stats import CONFIDENCE, Interval

NEAR = 1e-12  # distance of the root search from points where the test is undefined
MOST_RATIO = 1e6


@dataclass(frozen=True)
class Share:
    """A share of yes among examples."""

    yes: float
    examples: float
    units: int
    clustered: bool = False

    @property
    def value(self) -> float:
        return self.yes / self.examples

    def interval(self, level: float = CONFIDENCE) -> Interval:
        """Wilson's."""
        return wilson(self.yes, self.examples, _normal_or_t(level, self.units, self.clustered))


@dataclass(frozen=True)
class PairedShares:
    """Two shares of yes over the same examples.

    Args:
        both, gained, lost: Examples that are yes in both, only in the new one, only in the old one.
        examples: All of them.
    """

    both: float
    gained: float
    lost: float
    examples: float
    units: int
    clustered: bool = False

    @property
    def value(self) -> float:
        """New minus old."""
        return (self.gained - self.lost) / self.examples

    @property
    def ratio(self) -> float | None:
        """New over old; None where the old one is 0."""
        old = self.both + self.lost
        return (self.both + self.gained) / old if old else None

    def interval(self, level: float = CONFIDENCE) -> Interval:
        """Of the difference: Tango's."""
        return tango(self.gained, self.lost, self.examples, _normal_or_t(level, self.units, self.clustered))

    def ratio_interval(self, level: float = CONFIDENCE) -> Interval | None:
        """Of the ratio: Nam and Blackwelder's."""
        if self.ratio is None:
            return None
        z = _normal_or_t(level, self.units, self.clustered)
        return paired_ratio(self.both, self.gained, self.lost, z)


def share(values: np.ndarray, units: np.ndarray | None = None) -> Share:
    """From yes and no ``[examples]``, bool."""
    examples = len(values)
    count, groups = _groups(examples, units)
    effect = design_effect(values.astype(np.float64), groups)
    return Share(float(values.sum()) / effect, examples / effect, count, count < examples)


def paired_shares(new: np.ndarray, old: np.ndarray, units: np.ndarray | None = None) -> PairedShares:
    """From two times yes and no ``[examples]``, bool."""
    examples = len(new)
    count, groups = _groups(examples, units)
    effect = design_effect(new.astype(np.float64) - old.astype(np.float64), groups)
    both, gained, lost = (float(part.sum()) / effect for part in (new & old, new & ~old, old & ~new))
    return PairedShares(both, gained, lost, examples / effect, count, count < examples)


def _groups(examples: int, units: np.ndarray | None) -> tuple[int, np.ndarray]:
    groups = np.arange(examples) if units is None else units
    return len(np.unique(groups)), groups


def design_effect(values: np.ndarray, units: np.ndarray) -> float:
    """How many times the variance of a mean is what it would be if all examples were independent; at least 1.

    Where nothing varies, a unit's examples are taken for copies of each other.
    """
    examples, sizes = len(values), np.bincount(units)
    sizes = sizes[sizes > 0]
    if len(sizes) == examples:
        return 1.0
    residuals = values - values.mean()
    squares = (residuals**2).sum()
    if not squares:
        return float((sizes**2).sum() / examples)
    together = (np.bincount(units, residuals) ** 2).sum() * len(sizes) / max(len(sizes) - 1, 1)
    return max(1.0, float(together / squares))


def _normal_or_t(level: float, units: int, clustered: bool) -> float:
    """Standard errors to either side."""
    tail = (1 + level) / 2
    special = scipy.special
    return float(special.stdtrit(max(units - 1, 1), tail) if clustered else special.ndtri(tail))


def wilson(yes: float, examples: float, z: float) -> Interval:
    """Shares whose score test is not further off than ``z``."""
    share, square = yes / examples, z * z
    middle = (share + square / (2 * examples)) / (1 + square / examples)
    reach = z / (1 + square / examples) * np.sqrt(share * (1 - share) / examples + square / (4 * examples**2))
    low = 0.0 if not yes else middle - reach
    high = 1.0 if yes == examples else middle + reach
    return Interval(float(low), float(high))


def tango(gained: float, lost: float, examples: float, z: float) -> Interval:
    """Differences (new minus old) whose score test is not further off than ``z``."""

    def statistic(difference: float) -> float:
        return tango_statistic(gained, lost, examples, difference)

    value = (gained - lost) / examples
    low = -1.0 if lost == examples else _root(statistic, z, -1.0, value)
    high = 1.0 if gained == examples else _root(statistic, -z, value, 1.0)
    return Interval(low, high)


def tango_statistic(gained: float, lost: float, examples: float, difference: float) -> float:
    """Score test that the true difference is ``difference``: positive where it was measured higher."""
    a = 2 * examples
    b = -gained - lost + (2 * examples - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    likeliest = (np.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)  # share lost under this hypothesis
    variance = examples * (2 * likeliest + difference * (1 - difference))
    return float((gained - lost - examples * difference) / np.sqrt(max(variance, NEAR)))


def paired_ratio(both: float, gained: float, lost: float, z: float) -> Interval:
    """Ratios (new over old) whose score test is not further off than ``z``."""

    def statistic(log_ratio: float) -> float:
        return _ratio_statistic(both, gained, lost, float(np.exp(log_ratio)))

    new, old = both + gained, both + lost
    edge = float(np.log(MOST_RATIO))
    middle = float(np.log(new / old)) if new else -edge
    low = 0.0 if not new else float(np.exp(_root(statistic, z, -edge, middle)))
    return Interval(low, float(np.exp(_root(statistic, -z, middle, edge))))


def _ratio_statistic(both: float, gained: float, lost: float, ratio: float) -> float:
    """Score test that the true ratio is ``ratio``: positive where it was measured higher.

    ``v`` and ``w`` are the likeliest shares of gained and lost, among examples that either has, if that is the ratio:
    the root of ``a v**2 + b v + c`` and what the ratio then leaves for ``w``.
    """
    either = both + gained + lost
    a = either * ratio * (1 + ratio)
    b = both * (1 - ratio**2) - gained * (2 * ratio**2 - 1) - lost * ratio**2
    c = -gained * ratio * (1 - ratio)
    v = (np.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    w = max(1 - ratio + ratio * v, 0.0)
    return float((both + gained - ratio * (both + lost)) / np.sqrt(max(ratio * either * (v + w), NEAR)))


def _root(statistic: Callable[[float], float], at: float, low: float, high: float) -> float:
    """Where a statistic that falls from ``low`` to ``high`` passes ``at``; the end that is nearer where it does not."""
    from scipy.optimize import brentq

    if statistic(low + NEAR) <= at:
        return low
    if statistic(high - NEAR) >= at:
        return high
    return float(brentq(lambda x: statistic(x) - at, low + NEAR, high - NEAR, xtol=1e-12))
