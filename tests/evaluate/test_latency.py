"""Latency: the clock says "better" or "worse" only where a second look would say so again."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from squeeze.algorithms.stats import Interval
from squeeze.evaluate.generation import Decode
from squeeze.evaluate.latency import (
    LEAST_PAIRS,
    MOST_BLOCKS,
    Blocks,
    Paired,
    compare,
    enough,
    paired,
    same_bytes,
    stopwatch,
)
from squeeze.evaluate.metrics import Latency
from squeeze.ledger import timed_score

Generator = np.random.Generator
BLOCKS = Latency().sessions
GENERATION_BLOCKS = Decode().sessions


def host(
    random: Generator, true_ratio: float, session_sd: float, blocks: int = BLOCKS, order_bias: float = 0.004
) -> Blocks:
    """Blocks as a host gives them: each session has a speed of its own, and the one opened first is a little faster.

    As many as are enough; the seconds do not run out.
    """
    most = MOST_BLOCKS * blocks
    sessions = random.normal(0, session_sd, (most, 2))
    swapped = np.where(np.arange(most) % 2 == 0, 1, -1) * order_bias
    noise = random.normal(0, 0.001, most)  # of the median of a block's pairs
    ratios = np.log(true_ratio) + sessions[:, 0] - sessions[:, 1] + swapped + noise
    count = next(count for count in range(blocks, most + 1, 2) if enough(ratios[:count], blocks, 0.0))
    return Blocks(ratios[:count], 1.0, 1.0)


def told_apart(random: Generator, true_ratio: float, session_sd: float, blocks: int = BLOCKS) -> bool:
    spread = host(random, 1.0, session_sd, blocks).spread
    return paired(host(random, true_ratio, session_sd, blocks), spread).told_apart


@pytest.mark.parametrize("blocks", [BLOCKS, GENERATION_BLOCKS])
@pytest.mark.parametrize("session_sd", [0.004, 0.01, 0.03, 0.1], ids=lambda sd: f"sessions differ by {sd:.1%}")
def test_a_model_beside_itself_is_called_faster_or_slower_in_at_most_5_percent(session_sd: float, blocks: int) -> None:
    random = np.random.default_rng(0)
    assert np.mean([told_apart(random, 1.0, session_sd, blocks) for _ in range(1000)]) <= 0.05


@pytest.mark.parametrize("blocks", [BLOCKS, GENERATION_BLOCKS])
@pytest.mark.parametrize("session_sd", [0.004, 0.01, 0.015])
def test_a_true_3_percent_is_found_4_times_of_5(session_sd: float, blocks: int) -> None:
    random = np.random.default_rng(1)
    assert np.mean([told_apart(random, 1.03, session_sd, blocks) for _ in range(500)]) >= 0.8


def test_the_old_way_would_not_pass() -> None:
    """One session of each, its pairs resampled: the noise of a pair is small, the session's own speed is not seen."""
    random, verdicts = np.random.default_rng(2), []
    for _ in range(200):
        pairs = random.normal(host(random, 1.0, 0.007).log_ratios[0], 0.01, 300)
        half = 1.96 * pairs.std() / np.sqrt(len(pairs))
        verdicts.append(abs(pairs.mean()) > half)
    assert np.mean(verdicts) > 0.5


def test_more_sessions_follow_while_the_interval_is_too_wide_and_time_is_left() -> None:
    wide, narrow = np.tile([-0.03, 0.03], 4), np.tile([-0.005, 0.005], 4)
    assert not enough(narrow[:7], 8, 0.0)
    assert enough(narrow, 8, 0.0)
    assert enough(narrow - 0.7, 8, 0.0)
    assert not enough(wide, 8, 0.0)
    assert enough(wide - 0.7, 8, 0.0)  # half as long: plain as it is
    assert enough(wide, 8, 31.0)
    assert enough(np.tile(wide, 4), 8, 0.0)


def test_no_interval_is_narrower_than_the_hosts_own_spread() -> None:
    steady = Blocks(np.full(BLOCKS, np.log(1.05)) + 1e-6 * np.arange(BLOCKS), 1.05, 1.0)
    assert paired(steady, 0.0).told_apart
    wide = paired(steady, 0.06)
    assert not wide.told_apart
    assert wide.interval.low == pytest.approx(1.05 * np.exp(-0.06), rel=1e-4)


def test_less_than_2_percent_gets_no_verdict() -> None:
    tiny = paired(Blocks(np.full(BLOCKS, np.log(1.015)), 1.015, 1.0), 0.001)
    assert tiny.interval.excludes(1.0)
    assert not tiny.told_apart


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (same_bytes(1.0, 0.01), "same"),
        (Paired(0.5, 1.0, 0.5, Interval(0.4, 0.6), BLOCKS, 0.01), "better"),
        (Paired(2.0, 1.0, 2.0, Interval(1.9, 2.1), BLOCKS, 0.01), "worse"),
    ],
)
def test_the_ledger_says_what_the_clock_told_apart(result: Paired, verdict: str) -> None:
    delta = timed_score(Latency(), result, None).to_original
    assert delta is not None
    assert delta.verdict == verdict


def test_the_slower_of_two_is_found_with_its_whole_interval() -> None:
    slow, fast = (lambda s=s: stopwatch(lambda: time.sleep(s)) for s in (0.004, 0.001))
    comparison = paired(compare(slow, fast, seconds=0.05, blocks=4), 0.0)
    assert comparison.interval.low > 1.5
    assert comparison.blocks in range(4, 17, 2)  # more on a busy machine, up to four times as many


def test_each_block_opens_fresh_sessions_in_swapped_order_and_its_runs_alternate() -> None:
    calls: list[str] = []

    def opened(name: str) -> Callable[[], float]:
        def timed() -> float:
            calls.append(name)
            return 1.0

        calls.append(f"open {name}")
        return timed

    compare(lambda: opened("new"), lambda: opened("old"), seconds=0.001, blocks=2)
    opens = [what for what in calls if what.startswith("open")]
    assert opens == ["open new", "open old", "open old", "open new"]
    assert calls[-4:] in (["new", "old", "old", "new"], ["old", "new", "new", "old"])
    assert calls.count("new") == calls.count("old") >= 2 * LEAST_PAIRS
