"""The clock of the measurements: medians of repeated calls, and what one layer of a chain adds."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from squeeze.errors import ModelError

Call = Callable[[], object]
LEAST_RUNS = 7
WARM_UP_RUNS = 3
ATTEMPTS = 4
TIMES = 2  # each chain is timed so often, in turns; the fastest median counts, since other programs only slow it down


def median_seconds(call: Call, seconds: float) -> float:
    """Of one call, measured for so long."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < LEAST_RUNS or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def seconds_a_layer(short: Call, long: Call, layers: int, seconds: float) -> float:
    """What each of ``layers`` more layers adds.

    Raises:
        ModelError: the longer chain is no slower, each time: the host is too busy.
    """
    for call in (short, long):
        for _ in range(WARM_UP_RUNS):
            call()
    for attempt in range(ATTEMPTS):
        turns = [(median_seconds(short, seconds), median_seconds(long, seconds)) for _ in range(TIMES)]
        shorter, longer = min(turn[0] for turn in turns), min(turn[1] for turn in turns)
        if longer > shorter:
            return (longer - shorter) / layers
        seconds *= 2 + attempt
    raise ModelError("more layers took no longer: is the host busy? A larger --seconds would measure for longer")
