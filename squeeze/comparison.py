"""From per-example scores of two models to how far a score moved, how sure that is, and in which words.

Values come in, intervals come out at any level of confidence; a verdict is always read off the interval beside it.
Models, data and rows of the ledger are not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from squeeze.algorithms.proportions import paired_shares, share
from squeeze.algorithms.stats import CONFIDENCE, FEWEST_UNITS, Interval, mean_by_unit, ratio_by_unit
from squeeze.evaluate.metrics import ExampleMetric

Verdict = Literal["better", "worse", "not told apart", "equivalent", "same", "no verdict"]
At = Callable[[float], Interval | None]  # the interval at a level of confidence
DETECTED_4_IN_5 = (1.959964 + 0.841621) / 1.959964  # half-widths: a true change this large is detected with 80 % power
TOO_FEW = "{} independent units; {} or more would do"
DISTANCE = "a distance from the original cannot get better or worse"


@dataclass(frozen=True)
class Margin:
    """Changes that a plan declares to be as good as none, in a metric's own unit or relative to the original."""

    metric: str
    written: str
    statistic: Literal["difference", "ratio"]
    reach: float


@dataclass(frozen=True)
class Value:
    """A score with its interval; ``at`` gives it at any level."""

    value: float
    units: int | None
    at: At = field(repr=False)


@dataclass(frozen=True)
class Delta:
    """How a score moved: ``new - old`` and ``new / old``, each with its interval (None: exact or undefined).

    Args:
        level: Confidence of the two intervals; higher where several rows share their doubt.
        why: Why there is no verdict.
        smallest_seen: The smallest true change that would have been told apart four times in five.
        units: Independent units that it rests on; None: exact.
        higher_is_better, at, ratio_at: What verdicts are read with, and the intervals at any level; not written down.
    """

    difference: float | None
    difference_interval: Interval | None
    ratio: float | None
    ratio_interval: Interval | None
    verdict: Verdict
    paired: bool = True  # False: unpaired, from two standard errors, hence wider
    level: float = CONFIDENCE
    why: str = ""
    smallest_seen: float | None = None
    units: int | None = None
    higher_is_better: bool = field(default=False, repr=False, compare=False)
    at: At | None = field(default=None, repr=False, compare=False)
    ratio_at: At | None = field(default=None, repr=False, compare=False)

    @property
    def judged(self) -> bool:
        """Whether chance has a part in its verdict."""
        return self.at is not None and self.verdict not in ("same", "no verdict")

    def judged_at(self, level: float, margin: Margin | None = None) -> Delta:
        """The same change with intervals of that confidence, and the verdict that they give."""
        if not self.judged or self.at is None:
            return self
        interval = self.at(level)
        ratio_interval = self.ratio_at(level) if self.ratio_at else None
        assert interval is not None, "it was judged before"
        verdict = verdict_of(interval, 0.0, self.higher_is_better)
        if margin and _within(margin, interval, ratio_interval):
            verdict = "equivalent"
        ends = replace(self, difference_interval=interval, ratio_interval=ratio_interval)
        return replace(ends, verdict=verdict, level=level)

    def unjudged(self, why: str) -> Delta:
        """The same change without a verdict."""
        return replace(self, verdict="no verdict", why=why) if self.judged else self


def verdict_of(interval: Interval, neutral: float, higher_is_better: bool) -> Verdict:
    """Whether an interval contains "no change", or on which side of it the interval lies."""
    if not interval.excludes(neutral):
        return "not told apart"
    return "better" if (interval.low > neutral) == higher_is_better else "worse"


def _within(margin: Margin, difference: Interval, ratio: Interval | None) -> bool:
    """Two one-sided tests: both ends of the interval lie inside."""
    if margin.statistic == "difference":
        return max(-difference.low, difference.high) <= margin.reach
    return ratio is not None and 1 - margin.reach <= ratio.low and ratio.high <= 1 + margin.reach


def value_of(metric: ExampleMetric, values: np.ndarray, units: np.ndarray | None) -> Value:
    """The mean of ``[examples]`` values as the ledger shows it."""
    if metric.counts and values.dtype == bool:
        part = share(values, units)
        return Value(part.value, part.units, part.interval)
    mean = mean_by_unit(values, units)

    def at(level: float) -> Interval | None:
        interval = mean.interval(level)
        return interval and Interval(*(float(end) for end in metric.shown(np.array(interval))))

    return Value(_ledger_value(metric, mean.value), mean.units, at)


def delta_of(metric: ExampleMetric, new: np.ndarray, old: np.ndarray, units: np.ndarray | None, same: bool) -> Delta:
    """How the mean of ``[examples]`` values moved.

    Args:
        units: ``[examples]``: the independent unit that each belongs to; None: each is one.
        same: The two models answer the same up to rounding, so there is nothing to be unsure of.
    """
    yes_no = metric.counts and new.dtype == bool and old.dtype == bool
    delta = _shares(new, old, units) if yes_no else _means(metric, new, old, units)
    if same:
        return replace(delta, verdict="same", at=None, ratio_at=None, units=None)
    why = DISTANCE if metric.distance else ""
    return concluded(replace(delta, higher_is_better=metric.higher_is_better), why)


def concluded(delta: Delta, why: str = "") -> Delta:
    """A change with its 95 % intervals and what they say; ``why`` there is no verdict, if so."""
    assert delta.at is not None
    interval, ratio_interval = delta.at(CONFIDENCE), delta.ratio_at(CONFIDENCE) if delta.ratio_at else None
    smallest = (interval.high - interval.low) / 2 * DETECTED_4_IN_5 if interval else None
    delta = replace(delta, difference_interval=interval, ratio_interval=ratio_interval, smallest_seen=smallest)
    if delta.units is None or delta.units < FEWEST_UNITS:
        why = why or TOO_FEW.format(delta.units, FEWEST_UNITS)
    return delta.unjudged(why) if why else delta.judged_at(CONFIDENCE)


def holm(deltas: Sequence[Delta]) -> list[float]:
    """The confidence of each interval at which all their verdicts together are wrong in at most 5 % of ledgers.

    Holm, 1979: those that are told apart at the level of all make room for the others.
    """
    levels, remaining = [CONFIDENCE] * len(deltas), list(range(len(deltas)))
    while remaining:
        level = 1 - (1 - CONFIDENCE) / len(remaining)
        changed = [index for index in remaining if _is_change(deltas[index], level)]
        for index in changed or remaining:
            levels[index] = level
        remaining = [index for index in remaining if index not in changed] if changed else []
    return levels


def _is_change(delta: Delta, level: float) -> bool:
    """Whether "no change" lies outside the interval."""
    interval = delta.at(level) if delta.at else None
    return interval is not None and interval.excludes(0.0)


def within_rounding(metric: ExampleMetric, new: np.ndarray, old: np.ndarray) -> bool:
    """Whether the values of all examples are the same but for the order of a sum."""
    return bool(np.allclose(new, old, rtol=0, atol=metric.rounding))


def _shares(new: np.ndarray, old: np.ndarray, units: np.ndarray | None) -> Delta:
    pair = paired_shares(new, old, units)
    ratio_at = None if pair.ratio is None else pair.ratio_interval
    return unsure(pair.value, pair.ratio, pair.units, pair.interval, ratio_at)


def _means(metric: ExampleMetric, new: np.ndarray, old: np.ndarray, units: np.ndarray | None) -> Delta:
    new, old = new.astype(np.float64), old.astype(np.float64)
    apart = mean_by_unit(new - old, units)
    before, after = _ledger_value(metric, old.mean()), _ledger_value(metric, new.mean())
    differing = _differing(np.abs(new - old) > metric.rounding, units)
    if metric.logarithmic:
        return _of_logarithms(before, after, differing, apart.interval)
    if (old < 0).any() or (old <= metric.rounding).all():  # a ratio to rounding errors says nothing
        return unsure(after - before, None, differing, apart.interval, None)
    ratio = ratio_by_unit(new, old, units)

    def at(level: float) -> Interval | None:
        return _agreeing(apart.interval(level), 0.0, ratio.interval(level), 1.0)

    def ratio_at(level: float) -> Interval | None:
        return _agreeing(ratio.interval(level), 1.0, apart.interval(level), 0.0)

    return unsure(after - before, ratio.value, differing, at, ratio_at)


def _of_logarithms(before: float, after: float, units: int, log_ratio: At) -> Delta:
    """The ratio is exact in the logarithm; the difference is what it makes of the original's measured value."""

    def ratio_at(level: float) -> Interval | None:
        interval = log_ratio(level)
        return interval and Interval(float(np.exp(interval.low)), float(np.exp(interval.high)))

    def at(level: float) -> Interval | None:
        interval = ratio_at(level)
        return interval and Interval(before * (interval.low - 1), before * (interval.high - 1))

    return unsure(after - before, after / before, units, at, ratio_at)


def _agreeing(
    interval: Interval | None, neutral: float, other: Interval | None, other_neutral: float
) -> Interval | None:
    """Widened to "no change" where the other interval holds it: the two never contradict each other."""
    if interval is None or other is None or other.excludes(other_neutral):
        return interval
    return Interval(min(interval.low, neutral), max(interval.high, neutral))


def unsure(difference: float, ratio: float | None, units: int, at: At, ratio_at: At | None = None) -> Delta:
    """A change that is known by its intervals."""
    return Delta(difference, None, ratio, None, "not told apart", units=units, at=at, ratio_at=ratio_at)


def _differing(differ: np.ndarray, units: np.ndarray | None) -> int:
    """Units in which the two models differ at all: where few do, few carry the whole mean."""
    return int(differ.sum()) if units is None else len(np.unique(units[differ]))


def _ledger_value(metric: ExampleMetric, mean: float | Any) -> float:
    return float(metric.shown(np.array([mean]))[0])
