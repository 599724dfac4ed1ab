"""The clock of the measurements: what one layer of a chain adds, by medians of repeated calls."""

from __future__ import annotations

import time
from collections.abc import Callable

from squeeze.errors import ModelError
from squeeze.evaluate.latency import median_seconds

Call = Callable[[], object]
LEAST_RUNS = 7
WARM_UP_RUNS = 3
ATTEMPTS = 4
TOO_BUSY = "more layers took no longer: is the host busy?"
TIMES = 2  # each chain is timed so often, in turns; the fastest median counts, since other programs only slow it down


def seconds_a_layer(short: Call, long: Call, layers: int, seconds: float) -> float:
    """What each of ``layers`` more layers adds.

    Raises:
        ModelError: the longer chain is no slower, each time: the host is too busy.
    """
    for call in (short, long):
        for _ in range(WARM_UP_RUNS):
            call()
    for attempt in range(ATTEMPTS):
        turns = [tuple(median_seconds(call, seconds, LEAST_RUNS) for call in (short, long)) for _ in range(TIMES)]
        shorter, longer = min(turn[0] for turn in turns), min(turn[1] for turn in turns)
        if longer > shorter:
            return (longer - shorter) / layers
        seconds *= 2 + attempt
    raise ModelError(f"{TOO_BUSY} A larger --seconds would measure for longer")


def processor_seconds_a_layer(short: Call, long: Call, layers: int, seconds: float) -> float:
    """What each of ``layers`` more layers adds to the calling thread's processor time: the fastest call of each counts.

    Whatever else the host does is not in it, but for what it takes of caches and memory. Of calls on one thread.

    Args:
        seconds: On the clock, in which both are called in turns; longer, where one turn does not tell them apart.

    Raises:
        ModelError: the longer chain takes no longer, each time.
    """
    fastest = [float("inf"), float("inf")]
    for call in (short, long):
        call()
    for attempt in range(ATTEMPTS):
        end, runs = time.perf_counter() + seconds, 0
        while time.perf_counter() < end or runs < LEAST_RUNS:
            for place, call in enumerate((short, long)):
                start = time.thread_time()
                call()
                fastest[place] = min(fastest[place], time.thread_time() - start)
            runs += 1
        if fastest[1] > fastest[0]:
            return (fastest[1] - fastest[0]) / layers
        seconds *= 2 + attempt
        fastest = [float("inf"), float("inf")]
    raise ModelError(TOO_BUSY)
