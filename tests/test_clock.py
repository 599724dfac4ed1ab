"""What one more layer takes is told of calls whose times a busy host blurs."""

from __future__ import annotations

import pytest

from squeeze.errors import ModelError
from squeeze.measure import clock


def turns(monkeypatch: pytest.MonkeyPatch, times: list[tuple[float, float]]) -> None:
    """A processor's clock by which the short and the long call of each attempt take what ``times`` says."""
    now = {"wall": 0.0, "thread": 0.0, "calls": 0}

    def wall() -> float:
        now["wall"] += 1.0
        return now["wall"]

    def thread() -> float:
        now["calls"] += 1
        call, ends = divmod(int(now["calls"]) - 1, 2)
        attempt = min(call // (2 * clock.LEAST_RUNS), len(times) - 1)
        now["thread"] += times[attempt][call % 2] if ends else 0.0
        return now["thread"]

    monkeypatch.setattr(clock.time, "perf_counter", wall)
    monkeypatch.setattr(clock.time, "thread_time", thread)


def nothing() -> None:
    pass


def test_a_turn_that_tells_nothing_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    turns(monkeypatch, [(2.0, 2.0), (2.0, 5.0)])
    assert clock.processor_seconds_a_layer(nothing, nothing, 3, seconds=0.0) == 1.0


def test_calls_that_never_differ_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    turns(monkeypatch, [(2.0, 2.0)])
    with pytest.raises(ModelError, match="more layers took no longer: is the host busy"):
        clock.processor_seconds_a_layer(nothing, nothing, 3, seconds=0.0)
