"""A budget line is read as it is written, and judged by the whole interval."""

from __future__ import annotations

import pytest

from squeeze.algorithms.stats import Interval
from squeeze.budget import Bound, judge_memory, parse_bound
from squeeze.errors import UsageError
from squeeze.ledger import Delta, Row, Score


def row(metric: str, value: float, **delta: object) -> Row:
    """A row with one score; ``delta`` overrides what it is compared to the original."""
    facts = {"difference": 0.0, "difference_interval": None, "ratio": None, "ratio_interval": None, "verdict": "same"}
    to_original = Delta(**(facts | delta)) if delta else None  # type: ignore[arg-type]
    score = Score(metric, "count", value, None, to_original)
    return Row("a", None, "torch", "key", {}, {metric: score})


@pytest.mark.parametrize(
    ("text", "higher_is_better", "expected"),
    [
        ("<= 30 %", False, ("ratio", True, 0.3)),
        ("<=30%", False, ("ratio", True, 0.3)),
        (">= 90 %", True, ("ratio", False, 0.9)),
        ("+2 %", False, ("ratio", True, 1.02)),
        ("-2 %", True, ("ratio", False, 0.98)),
        ("-1 points", True, ("difference", False, -0.01)),
        ("-1 point", True, ("difference", False, -0.01)),
        ("+0.5 points", False, ("difference", True, 0.005)),
        ("<= 0.05", False, ("value", True, 0.05)),
        ("<= 300 KB", False, ("value", True, 300_000)),
        ("<= 1.5 MiB", False, ("value", True, 1.5 * 2**20)),
    ],
)
def test_a_line_is_read_as_it_is_written(text: str, higher_is_better: bool, expected: tuple[str, bool, float]) -> None:
    bound = parse_bound("size", text, higher_is_better)
    assert bound.metric == "size_bytes"
    assert (bound.statistic, bound.at_most) == expected[:2]
    assert bound.limit == pytest.approx(expected[2])


@pytest.mark.parametrize("text", ["30 %", "", "<= -3", "<= x", "< 3", "3", "<= 30 % %", "true", "nan", "<= inf", "-"])
def test_text_that_is_no_bound_is_told_with_examples_of_what_would_be(text: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be read; '<= 30 %', '\+2 %'"):
        parse_bound("size", text)


@pytest.mark.parametrize(
    ("text", "said"), [("<= 3 points", "points are a difference; write '-3 points'"), ("+2", "a change wants a unit")]
)
def test_a_bound_of_the_wrong_unit_says_which_would_do(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_bound("top1", text, higher_is_better=True)


@pytest.mark.parametrize(
    ("interval", "outcome"),
    [((0.97, 1.01), "kept"), ((1.01, 1.03), "unproven"), ((1.021, 1.03), "broken"), ((1.02, 1.02), "kept")],
)
def test_a_bound_is_kept_or_broken_by_the_whole_interval_and_unproven_between(
    interval: tuple[float, float], outcome: str
) -> None:
    bound = parse_bound("loss", "+2 %")
    measured = row("loss", 1.0, ratio=sum(interval) / 2, ratio_interval=Interval(*interval))
    assert bound.judge(measured).outcome == outcome


@pytest.mark.parametrize(("low", "outcome"), [(-0.009, "kept"), (-0.02, "unproven")])
def test_points_lost_are_bounded_from_below_where_more_is_better(low: float, outcome: str) -> None:
    bound = parse_bound("top1", "-1 points", higher_is_better=True)
    measured = row("top1", 0.9, difference=0.0, difference_interval=Interval(low, 0.01))
    found = bound.judge(measured)
    assert found.outcome == outcome
    assert (
        found.line()
        == f"top1: at least -1 points: measured +0.00 points (95 % interval {100 * low:+.2f} points to "
        + (f"+1.00 points): {outcome}")
    )


def test_an_exact_number_is_its_own_interval() -> None:
    bound = parse_bound("size", "<= 30 %")
    assert bound.judge(row("size_bytes", 30, ratio=0.3)).outcome == "kept"
    assert bound.judge(row("size_bytes", 31, ratio=0.31)).outcome == "broken"


@pytest.mark.parametrize("measured", [row("other", 1.0), row("size_bytes", 1.0), row("size_bytes", 1.0, ratio=None)])
def test_what_was_not_measured_is_unproven_and_never_kept(measured: Row) -> None:
    found = parse_bound("size", "<= 30 %").judge(measured)
    assert found.outcome == "unproven"
    assert found.line().endswith("not measured: unproven")


def test_memory_is_held_against_the_peak() -> None:
    assert judge_memory(1_000, 1_000).outcome == "kept"
    assert judge_memory(1_000, 1_001).outcome == "broken"
    assert isinstance(judge_memory(1, 2).bound, Bound)
