"""How long two models take, side by side: they alternate in one process, so a drifting machine slows both alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from squeeze.algorithms.stats import Interval, ratio_of_medians

WARM_UP_S = 0.2
WARM_UP_RUNS = 3
LEAST_PAIRS = 15
MOST_PAIRS = 2_000

Runner = Callable[[], object]
Clock = Callable[[], float]  # does it once, and says how many seconds of that count


@dataclass(frozen=True)
class Paired:
    """Median milliseconds of both and the ratio new / old with its interval."""

    new_ms: float
    old_ms: float
    ratio: float
    interval: Interval
    pairs: int


def compare_latency(new: Runner, old: Runner, seconds: float) -> Paired:
    """Alternate the two runners for about that long; which goes first changes from pair to pair."""
    return compare_clocks(_timed(new), _timed(old), seconds)


def compare_clocks(new: Clock, old: Clock, seconds: float) -> Paired:
    """The same, of runs of which not every part counts."""
    for clock in (new, old):
        _warm_up(clock)
    timings: list[tuple[float, float]] = []
    stop = time.perf_counter() + seconds
    while len(timings) < LEAST_PAIRS or (time.perf_counter() < stop and len(timings) < MOST_PAIRS):
        timings.append(_pair(new, old, len(timings) % 2 == 0))
    new_s, old_s = np.array(timings).T
    ratio, interval = ratio_of_medians(new_s, old_s)
    return Paired(float(np.median(new_s)) * 1e3, float(np.median(old_s)) * 1e3, ratio, interval, len(timings))


def _pair(new: Clock, old: Clock, new_first: bool) -> tuple[float, float]:
    if new_first:
        return new(), old()
    old_s = old()
    return new(), old_s


def _timed(runner: Runner) -> Clock:
    def seconds() -> float:
        start = time.perf_counter()
        runner()
        return time.perf_counter() - start

    return seconds


def _warm_up(clock: Clock) -> None:
    stop = time.perf_counter() + WARM_UP_S
    for run in range(1_000):
        clock()
        if run >= WARM_UP_RUNS and time.perf_counter() > stop:
            return
