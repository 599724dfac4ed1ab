"""A plan's budget: what the result may cost, against the original, and whether the interval keeps it.

size: "<= 30 %"       at most 30 % of the original's
loss: "+2 %"          at most 2 % more than the original's
top1: "-1 points"     at most one percentage point below the original's
kl: "<= 0.05"         an absolute bound
size: "<= 300 KB"     an absolute bound in bytes
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from squeeze.algorithms.stats import Interval
from squeeze.errors import UsageError
from squeeze.ledger import Row, Score

Outcome = Literal["kept", "broken", "unproven"]
ALIASES = {"size": "size_bytes"}
BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
FORM = re.compile(r"^(<=|>=|\+|-)\s*(\d+(?:\.\d+)?)\s*(%|points?|[KMG]i?B|B)?$")
EXAMPLES = "'<= 30 %', '+2 %', '-1 points', '<= 0.05' or '<= 300 KB'"


@dataclass(frozen=True)
class Bound:
    """One line of a budget: a statistic of a metric that must stay on one side of a limit."""

    metric: str
    written: str  # as the plan says it
    text: str  # as a judgement says it
    statistic: Literal["value", "ratio", "difference"]
    at_most: bool
    limit: float

    def judge(self, row: Row) -> Judgement:
        """Kept when the whole interval keeps it, broken when the whole interval breaks it, else unproven."""
        score = row.score(self.metric)
        found = self._found(score) if score else None
        if found is None:
            return Judgement(self, None, None, "unproven")
        value, interval = found
        return Judgement(self, value, interval, self._outcome(interval or Interval(value, value)))

    def _found(self, score: Score) -> tuple[float, Interval | None] | None:
        if self.statistic == "value":
            return score.value, score.interval
        delta = score.to_original
        if delta is None:
            return None
        if self.statistic == "difference":
            return delta.difference, delta.difference_interval
        return None if delta.ratio is None else (delta.ratio, delta.ratio_interval)

    def _outcome(self, interval: Interval) -> Outcome:
        inside = [end <= self.limit if self.at_most else end >= self.limit for end in interval]
        return "kept" if all(inside) else "unproven" if any(inside) else "broken"


@dataclass(frozen=True)
class Judgement:
    """A bound held against the last row of a branch."""

    bound: Bound
    value: float | None
    interval: Interval | None
    outcome: Outcome

    def line(self) -> str:
        """``size_bytes: <= 30 % of the original: measured 27.1 %: kept``."""
        return f"{self.bound.metric}: {self.bound.text}: {self._measured()}: {self.outcome}"

    def _measured(self) -> str:
        if self.value is None:
            return "not measured"
        ends = (
            f" (95 % interval {self._say(self.interval.low)} to {self._say(self.interval.high)})"
            if self.interval
            else ""
        )
        return f"measured {self._say(self.value)}{ends}"

    def _say(self, value: float) -> str:
        if self.bound.statistic == "ratio":
            return f"{value:.1%}".replace("%", " %")
        if self.bound.statistic == "difference":
            return f"{100 * value:+.2f} points"
        return f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}"


def parse_bound(metric: str, text: str | float, higher_is_better: bool = False) -> Bound:
    """Read one line of a budget; a change (``+2 %``) bounds the metric from its bad side.

    Raises:
        UsageError: the text is none of the forms above.
    """
    match = FORM.match(str(text).strip())
    if match is None:
        raise UsageError(f"budget '{text}' cannot be read; {EXAMPLES} can")
    sign, number, unit = match.group(1), float(match.group(2)), match.group(3) or ""
    name = ALIASES.get(metric, metric)
    if sign in "+-":
        change = number if sign == "+" else -number
        return _change(name, str(text), change, unit, at_most=not higher_is_better)
    at_most = sign == "<="
    if unit == "%":
        return Bound(name, str(text), f"{text} of the original", "ratio", at_most, number / 100)
    if unit.startswith("point"):
        raise UsageError(
            f"budget '{text}': points are a difference; write '-{number:g} points' or '+{number:g} points'"
        )
    return Bound(name, str(text), str(text), "value", at_most, number * BYTES.get(unit, 1))


def _change(metric: str, text: str, change: float, unit: str, at_most: bool) -> Bound:
    side = "at most" if at_most else "at least"
    if unit == "%":
        return Bound(metric, text, f"{side} {text}", "ratio", at_most, 1 + change / 100)
    if unit.startswith("point"):
        return Bound(metric, text, f"{side} {text}", "difference", at_most, change / 100)
    raise UsageError(f"budget '{text}': a change wants a unit, % or points; {EXAMPLES} can be read")


def judge_memory(limit_bytes: int, peak_bytes: int) -> Judgement:
    """The plan's ``memory:`` against the measured peak of the process."""
    bound = Bound("memory", f"<= {limit_bytes:,} B", f"<= {limit_bytes:,} bytes", "value", True, limit_bytes)
    return Judgement(bound, peak_bytes, None, "kept" if peak_bytes <= limit_bytes else "broken")
