"""The clock of the measurements: what one layer of a chain adds, by medians of repeated calls."""

from __future__ import annotations

from collections.abc import Callable

from squeeze.errors import ModelError
from squeeze.evaluate.latency import median_seconds

Call = Callable[[], object]
LEAST_RUNS = 7
WARM_UP_RUNS = 3
ATTEMPTS = 4
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
    raise ModelError("more layers took no longer: is the host busy? A larger --seconds would measure for longer")
