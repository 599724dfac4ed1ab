"""How long two models take, side by side: the ratio new / old, with an interval that a second look would confirm.

A session has a speed of its own: two sessions of one file differ by up to a percent, and the order in which they are
opened matters. So several fresh sessions of each model are opened in turn, in swapped order; within a block the runs of
the two alternate, so that a drifting machine slows both alike; the interval is Student's t over the blocks' log-ratios.
The same is done with the original against itself (A/A): no interval is narrower than what this host then shows. Where
the interval is still too wide to tell a small difference, more sessions follow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import scipy

from squeeze.algorithms.stats import Interval

WARM_UP_S = 0.05  # a run longer than this suffices as warm-up
LEAST_PAIRS = 5  # runs in a block
MOST_PAIRS = 500
CONFIDENCE = 0.95
NEGLIGIBLE = 0.02  # a ratio this near to 1 gets no verdict, however narrow its interval
NARROW = NEGLIGIBLE / 2  # half-width of an interval that resolves 3 %
PLAIN = 4.0  # a ratio this many half-widths away from 1 needs no narrower interval
MOST_BLOCKS = 4  # at most this many times the blocks asked for
MOST_SECONDS = 30.0  # at most this many times the seconds asked for, opening and warm-up included

Clock = Callable[[], float]  # runs once; returns the seconds that count
Open = Callable[[], Clock]  # opens a fresh session


@cache
def students_t(degrees: int) -> float:
    """The two-sided quantile of ``CONFIDENCE``."""
    return float(scipy.special.stdtrit(degrees, (1 + CONFIDENCE) / 2))


@dataclass(frozen=True)
class Blocks:
    """Log-ratios ``[blocks]`` of two models, and the median milliseconds of both."""

    log_ratios: np.ndarray
    new_ms: float
    old_ms: float

    @property
    def mean(self) -> float:
        return float(self.log_ratios.mean())

    @property
    def half_width(self) -> float:
        """Of the t interval of the mean."""
        count = len(self.log_ratios)
        error = float(self.log_ratios.std(ddof=1)) / np.sqrt(count)
        return float(students_t(count - 1) * error)

    @property
    def spread(self) -> float:
        """How far from a ratio of 1 these may be: of a model against itself, what this host's clock is worth."""
        return abs(self.mean) + self.half_width


@dataclass(frozen=True)
class Paired:
    """Two models by the clock.

    Args:
        new_ms, old_ms: Medians.
        interval: 95 %, of the ratio; never narrower than ``spread``.
        blocks: Fresh sessions of each; 0 where the two are the same bytes and no clock was asked.
        spread: Of the original against itself on this host, as a share.
    """

    new_ms: float
    old_ms: float
    ratio: float
    interval: Interval
    blocks: int = 0
    spread: float = 0.0

    @property
    def told_apart(self) -> bool:
        """Whether one is faster: the interval leaves out 1, and the ratio is not negligible."""
        return self.interval.excludes(1.0) and abs(self.ratio - 1) > NEGLIGIBLE


def same_bytes(milliseconds: float, spread: float) -> Paired:
    """A model beside the very same file: no clock is needed."""
    return Paired(milliseconds, milliseconds, 1.0, Interval(1.0, 1.0), 0, spread)


def paired(blocks: Blocks, spread: float) -> Paired:
    """The ratio with its interval, on a host with that A/A spread."""
    half = max(blocks.half_width, spread)
    low, ratio, high = np.exp([blocks.mean - half, blocks.mean, blocks.mean + half])
    interval = Interval(float(low), float(high))
    return Paired(blocks.new_ms, blocks.old_ms, float(ratio), interval, len(blocks.log_ratios), spread)


def compare(new: Open, old: Open, seconds: float, blocks: int) -> Blocks:
    """Time two models in turns.

    Args:
        seconds: Of alternating runs in ``blocks`` blocks; sessions and warm-up come on top.
        blocks: At least so many fresh sessions of each model, an even number; one of each is open at a time.
    """
    timings: list[np.ndarray] = []
    began = time.perf_counter()
    while not enough(log_ratios(timings), blocks, (time.perf_counter() - began) / seconds):
        timings.append(_block(new, old, seconds / blocks, new_first=len(timings) % 2 == 0))
    new_s, old_s = np.median([np.median(block, axis=0) for block in timings], axis=0)
    return Blocks(log_ratios(timings), float(new_s) * 1e3, float(old_s) * 1e3)


def log_ratios(timings: Sequence[np.ndarray]) -> np.ndarray:
    """The median of each block's pairs, ``[blocks]``."""
    return np.array([np.median(np.log(block[:, 0] / block[:, 1])) for block in timings])


def enough(ratios: np.ndarray, blocks: int, times_seconds: float) -> bool:
    """Whether blocks with these log-ratios need no more beside them.

    Args:
        blocks: At least so many; more in even numbers, so that each model is opened first in half of them.
        times_seconds: How often the seconds asked for have gone.
    """
    if len(ratios) < blocks or len(ratios) % 2:
        return False
    so_far = Blocks(ratios, 1.0, 1.0)
    if so_far.half_width <= max(NARROW, abs(so_far.mean) / PLAIN):
        return True
    return len(ratios) >= MOST_BLOCKS * blocks or times_seconds >= MOST_SECONDS


def stopwatch(run: Callable[[], object]) -> Clock:
    """The wall clock of a whole call."""

    def seconds() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return seconds


def median_seconds(call: Callable[[], object], seconds: float, least: int) -> float:
    """Of one call, repeated for so long and at least so often; nothing warms up."""
    clock, times = stopwatch(call), list[float]()
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        times.append(clock())
    return float(np.median(times))


def _block(new: Open, old: Open, seconds: float, new_first: bool) -> np.ndarray:
    """Seconds ``[pairs, 2]`` of one fresh session of each."""
    if new_first:
        first, second = new(), old()
    else:
        second, first = old(), new()
    for clock in (first, second) if new_first else (second, first):
        _warm_up(clock)
    timings: list[tuple[float, float]] = []
    stop = time.perf_counter() + seconds
    while len(timings) < LEAST_PAIRS or (time.perf_counter() < stop and len(timings) < MOST_PAIRS):
        timings.append(_pair(first, second, len(timings) % 2 == 0))
    return np.array(timings)


def _pair(new: Clock, old: Clock, new_first: bool) -> tuple[float, float]:
    if new_first:
        return new(), old()
    old_s = old()
    return new(), old_s


def _warm_up(clock: Clock) -> None:
    stop = time.perf_counter() + WARM_UP_S
    for _ in range(MOST_PAIRS):
        clock()
        if time.perf_counter() > stop:
            return
