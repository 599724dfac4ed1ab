"""A budget line is read as it is written, means one thing, and is kept only where the whole interval keeps it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from squeeze.algorithms.stats import Interval
from squeeze.budget import Bound, judge_limit, parse_bound, parse_margin
from squeeze.comparison import delta_of
from squeeze.errors import UsageError
from squeeze.evaluate.counts import SizeBytes
from squeeze.evaluate.lm_eval import LmEval
from squeeze.evaluate.metrics import Flips, Kl, Latency, Loss, Metric, Top1
from squeeze.evaluate.perplexity import Perplexity
from squeeze.evaluate.probe import Cosine
from squeeze.ledger import Delta, Row, Score


def row(metric: str, value: float | None, exact: bool = False, **delta: object) -> Row:
    """A row with one score; ``delta`` is what it is compared to the original."""
    facts = {"difference": 0.0, "difference_interval": None, "ratio": None, "ratio_interval": None}
    to_original = Delta(**(facts | {"verdict": "worse"} | delta)) if delta else None  # type: ignore[arg-type]
    return Row("a", None, "torch", "key", {}, {metric: Score(metric, "count", value, None, to_original, exact=exact)})


@pytest.mark.parametrize(
    ("metric", "text", "expected"),
    [
        (SizeBytes(), "<= 30 %", ("ratio", True, 0.3)),
        (SizeBytes(), "<=30%", ("ratio", True, 0.3)),
        (SizeBytes(), "<= 300 KB", ("value", True, 300_000)),
        (SizeBytes(), "<= 1.5 MiB", ("value", True, 1.5 * 2**20)),
        (Loss(), "+2 %", ("ratio", True, 1.02)),
        (Loss(), "<= 0.05", ("value", True, 0.05)),
        (Kl(), "<= 0.05", ("value", True, 0.05)),
        (Top1(), "-1 points", ("difference", False, -0.01)),
        (Top1(), "-1 point", ("difference", False, -0.01)),
        (Top1(), ">= 95 % of the original", ("ratio", False, 0.95)),
        (Top1(), ">= 0.8", ("value", False, 0.8)),
        (Flips(), "+0.5 points", ("difference", True, 0.005)),
        (Cosine(), ">= 0.99", ("value", False, 0.99)),
        (Latency(), "<= 70 %", ("ratio", True, 0.7)),
    ],
)
def test_a_line_is_read_as_it_is_written(metric: Metric, text: str, expected: tuple[str, bool, float]) -> None:
    bound = parse_bound(metric, text)
    assert bound.metric == metric.label
    assert (bound.statistic, bound.at_most) == expected[:2]
    assert bound.limit == pytest.approx(expected[2])


def test_what_was_not_run_is_unproven_and_what_is_counted_of_it_is_judged() -> None:
    smaller = row("size_bytes", 300_000, exact=True, ratio=0.3)
    unrun = replace(smaller, not_run="Core ML runs on macOS only")
    judged = [
        parse_bound(metric, text).judge(unrun) for metric, text in ((SizeBytes(), "<= 40 %"), (Top1(), "-1 points"))
    ]
    assert [one.outcome for one in judged] == ["kept", "unproven"]
    assert judged[1].line() == "top1: at least -1 points: not measured: Core ML runs on macOS only: unproven"
    assert not judged[1].unknown


@pytest.mark.parametrize("text", ["30 %", "", "<= -3", "<= x", "< 3", "3", "<= 30 % %", "true", "nan", "<= inf", "-"])
def test_text_that_is_no_bound_is_told_with_examples_of_what_would_be(text: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be read; '<= 30 %', '\+2 %'"):
        parse_bound(SizeBytes(), text)


@pytest.mark.parametrize(
    ("metric", "text", "message"),
    [
        (Top1(), "<= 3 points", "points are a difference; write '-3 points'"),
        (Top1(), "+2", "a change wants a unit"),
        (Top1(), ">= 95 %", "'>= 0.95' bounds the share itself, '>= 95 % of the original' its ratio"),
        (Top1(), "-2 %", "'-2 points' bounds its change, '>= 98 % of the original' its ratio"),
        (Top1(), ">= 95", "a share lies between 0 and 1; '>= 0.95'"),
        (Top1(), "<= 300 KB", "top1 is not measured in bytes; '<= 300' bounds"),
        (LmEval(task="arc"), "-2 %", "'-2 points' bounds its change"),
        (Latency(), "-5 points", "points are of shares, and latency is none; '<= 95 %' of the original would do"),
        (Perplexity(), "+0.5 points", r"perplexity is none; '\+2 %' from the original would do"),
        (SizeBytes(), "-5 points", "size_bytes is none"),
        (Flips(), "<= 1 %", "flips of the original is 0, so there is no ratio to it; '<= 0.01' bounds its value"),
        (Kl(), "+5 %", "kl of the original is 0"),
        (Loss(), "-2 points of the original", "cannot be read"),
        (Loss(), "+2 % of the original", "'<= 2 % of the original' can"),
    ],
)
def test_a_bound_that_means_nothing_is_told_with_the_form_that_would(metric: Metric, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_bound(metric, text)


@pytest.mark.parametrize(
    ("interval", "outcome"),
    [((0.97, 1.01), "kept"), ((1.01, 1.03), "unproven"), ((1.021, 1.03), "broken"), ((1.02, 1.02), "kept")],
)
def test_a_bound_is_kept_or_broken_by_the_whole_interval_and_unproven_between(
    interval: tuple[float, float], outcome: str
) -> None:
    measured = row("loss", 1.0, ratio=sum(interval) / 2, ratio_interval=Interval(*interval))
    assert parse_bound(Loss(), "+2 %").judge(measured).outcome == outcome


@pytest.mark.parametrize(("low", "outcome"), [(-0.009, "kept"), (-0.02, "unproven")])
def test_points_lost_are_bounded_from_below_where_more_is_better(low: float, outcome: str) -> None:
    measured = row("top1", 0.9, difference=0.0, difference_interval=Interval(low, 0.01))
    judgement = parse_bound(Top1(), "-1 points").judge(measured)
    assert judgement.outcome == outcome
    interval = f"(95 % interval {100 * low:+.2f} points to +1.00 points)"
    assert judgement.line() == f"top1: at least -1 points: measured +0.00 points {interval}: {outcome}"


def test_a_bound_is_held_against_the_99_percent_interval() -> None:
    """At 95 % a skewed loss keeps too often what is outside."""
    old = np.ones(60)
    delta = delta_of(Loss(), old + np.random.default_rng(0).normal(0.01, 0.04, 60), old, None, same=False)
    assert delta.at is not None
    score = Score("loss", "nats", 1.0, None, delta)
    judgement = parse_bound(Loss(), "+9 %").judge(Row("a", None, "torch", "k", {}, {"loss": score}))
    assert delta.ratio_at is not None
    assert judgement.interval == delta.ratio_at(0.99)
    assert "99 % interval" in judgement.line()


def test_an_exact_number_is_its_own_interval() -> None:
    bound = parse_bound(SizeBytes(), "<= 30 %")
    assert bound.judge(row("size_bytes", 30, exact=True, ratio=0.3)).outcome == "kept"
    assert bound.judge(row("size_bytes", 31, exact=True, ratio=0.31)).outcome == "broken"


def test_a_score_that_chance_has_a_part_in_and_no_interval_is_never_kept() -> None:
    judgement = parse_bound(Top1(), ">= 90 % of the original").judge(row("top1", 0.9, ratio=1.0, ratio_interval=None))
    assert (judgement.outcome, judgement.lacking) == ("unproven", "no interval")


def test_models_that_answer_the_same_keep_what_bounds_their_change() -> None:
    """Nothing is sampled in a difference that is none."""
    assert parse_bound(Top1(), "-1 points").judge(row("top1", 0.9, verdict="same")).outcome == "kept"


def test_fewer_than_ten_independent_units_prove_nothing() -> None:
    values = row("loss", 1.0, ratio=1.0, ratio_interval=Interval(0.99, 1.01), units=9)
    judgement = parse_bound(Loss(), "+2 %").judge(values)
    assert judgement.outcome == "unproven"
    assert "9 independent units; 10 or more would do" in judgement.line()


@pytest.mark.parametrize(
    ("measured", "lacking"),
    [
        (row("other", 1.0), "not measured"),
        (row("size_bytes", None, exact=True), "unknown: it cannot be counted of this model, or of the original"),
        (row("size_bytes", 1.0, exact=True, ratio=None), "not measured"),
    ],
)
def test_what_was_not_measured_is_unproven_and_never_kept(measured: Row, lacking: str) -> None:
    judgement = parse_bound(SizeBytes(), "<= 30 %").judge(measured)
    assert judgement.outcome == "unproven"
    assert judgement.line().endswith(f"{lacking}: unproven")
    assert judgement.unknown == lacking.startswith("unknown")


def test_memory_is_held_against_the_peak() -> None:
    assert judge_limit("memory", 1_000, 1_000).outcome == "kept"
    assert judge_limit("disk", 1_000, 1_001).outcome == "broken"
    assert isinstance(judge_limit("memory", 1, 2).bound, Bound)


def test_a_margin_of_equivalence_is_points_of_a_share_and_percent_of_all_else() -> None:
    assert parse_margin(Top1(), "0.5 points").reach == pytest.approx(0.005)
    assert parse_margin(Perplexity(), "1 %").statistic == "ratio"
    for metric, text in ((Top1(), "1 %"), (Loss(), "1 points"), (Loss(), "0 %"), (Loss(), "-1 %"), (Loss(), "x")):
        with pytest.raises(UsageError, match=r"equivalence '.*' of .* cannot be read; '(1 points|2 %)' can"):
            parse_margin(metric, text)
