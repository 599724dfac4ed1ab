"""What the ledger promises of its intervals and verdicts, simulated: the short version of ``benchmarks/coverage.py``.

The last tests break a function on purpose: a simulation that a wrong interval passes would prove nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from benchmarks import coverage
from squeeze.algorithms.proportions import PairedShares
from squeeze.algorithms.stats import Interval, Studentized
from squeeze.comparison import Delta

RUNS = 200  # 95 % of them: 93 to 97 % within what chance allows, 3 standard deviations
LEAST, MOST = 0.93 - 0.054, 0.97 + 0.030


def narrowed(interval: Interval | None, value: float) -> Interval | None:
    return interval and Interval((interval.low + value) / 2, (interval.high + value) / 2)


@pytest.mark.parametrize("draw", coverage.DRAWS)
@pytest.mark.parametrize("units", [10, 30])
def test_95_percent_intervals_of_means_hold_the_truth_as_often_as_they_say(draw: str, units: int) -> None:
    assert LEAST <= coverage.mean_coverage(coverage.DRAWS[draw], units, RUNS) <= MOST


def test_windows_of_one_document_do_not_count_as_if_they_were_independent() -> None:
    """20 documents of 10 windows with an intraclass correlation of .2: 73 % when each window counts."""
    assert LEAST <= coverage.document_coverage(0.2, 20, RUNS) <= MOST


def test_paired_shares_hold_the_truth_also_where_questions_share_a_document() -> None:
    assert LEAST <= coverage.yes_no_coverage(0.1, 0.1, 60, RUNS) <= MOST
    assert LEAST <= coverage.clustered_yes_no_coverage(0.3, 20, RUNS) <= 1


def test_a_ledger_in_which_nothing_is_true_seldom_says_that_something_is() -> None:
    alone, together = coverage.false_verdicts(rows=10, examples=60, ledgers=30)
    assert alone <= 0.05 + 0.02
    assert together <= 0.05 + 0.10


def test_no_verdict_contradicts_an_interval_in_random_tables() -> None:
    assert coverage.contradictions(coverage.random_tables(1_500)) == 0


@pytest.mark.parametrize("examples", [10, 50, 200])
def test_a_budget_is_seldom_kept_by_what_lies_outside_it(examples: int) -> None:
    """-1 points with a true -2 was kept in 37 % of runs."""
    assert coverage.false_kept_shares("-1 points", 0.03, 0.01, examples, RUNS) <= 0.025
    assert coverage.false_kept_means(coverage.LOSS, "+2 %", coverage.normal, min(examples, 60), RUNS) <= 0.025


def test_an_interval_that_is_halved_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Studentized.interval
    halved = lambda self, level=0.95: narrowed(whole(self, level), self.value)  # noqa: E731
    monkeypatch.setattr(Studentized, "interval", halved)
    assert coverage.mean_coverage(coverage.normal, 30, RUNS) < LEAST


def test_a_paired_interval_that_is_halved_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = PairedShares.interval
    monkeypatch.setattr(PairedShares, "interval", lambda self, level=0.95: narrowed(whole(self, level), self.value))
    assert coverage.yes_no_coverage(0.1, 0.1, 60, RUNS) < LEAST
    assert coverage.contradictions(coverage.random_tables(1_500)) > 0


def test_new_and_old_that_are_swapped_are_noticed() -> None:
    def swapped(deltas: Iterator[Delta]) -> Iterator[Delta]:
        opposite = {"better": "worse", "worse": "better"}
        return (replace(delta, verdict=opposite.get(delta.verdict, delta.verdict)) for delta in deltas)  # type: ignore[arg-type]

    assert coverage.contradictions(swapped(coverage.random_tables(300))) > 0


def test_gained_and_lost_that_are_swapped_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = PairedShares.interval
    swapped = lambda self, level=0.95: whole(replace(self, gained=self.lost, lost=self.gained), level)  # noqa: E731
    monkeypatch.setattr(PairedShares, "interval", swapped)
    assert coverage.contradictions(coverage.random_tables(300)) > 0
    assert coverage.yes_no_coverage(0.15, 0.02, 60, RUNS) < LEAST


def test_units_that_are_forgotten_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "delta_of", lambda m, new, old, units, same: _delta_of(m, new, old, None, same=same))
    assert coverage.document_coverage(0.2, 20, RUNS // 2) < LEAST


_delta_of = coverage.delta_of
