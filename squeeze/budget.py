"""A plan's budget: what the result may cost, against the original, and whether the interval keeps it.

size: "<= 30 %"                    at most 30 % of the original's
loss: "+2 %"                       at most 2 % more than the original's
top1: "-1 points"                  at most one percentage point below the original's; points are of shares
top1: ">= 95 % of the original"    a share says of what
kl: "<= 0.05"                      an absolute bound
size: "<= 300 KB"                  an absolute bound in bytes

A line is held against the 99 % interval: at 95 % small samples and skewed losses keep, at some sizes, up to 5 % of what
is outside; at 99 % ``benchmarks/coverage.py`` finds at most 2.5 % at any size.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from squeeze.algorithms.stats import FEWEST_UNITS, Interval
from squeeze.comparison import At, Margin
from squeeze.errors import UsageError
from squeeze.evaluate.metrics import Metric
from squeeze.ledger import Row, Score
from squeeze.models.options import BYTES

Outcome = Literal["kept", "broken", "unproven"]
PROOF_LEVEL = 0.99
UNKNOWN = "unknown: it cannot be counted of this model, or of the original"
ALIASES = {"size": "size_bytes"}
FORM = re.compile(r"^(<=|>=|\+|-)\s*(\d+(?:\.\d+)?)\s*(%|points?|[KMG]i?B|B)?(\s+of the original)?$", re.ASCII)
MARGIN = re.compile(r"^(\d+(?:\.\d+)?)\s*(%|points?)$", re.ASCII)
EXAMPLES = "'<= 30 %', '+2 %', '-1 points', '<= 0.05' or '<= 300 KB'"


@dataclass(frozen=True)
class Measurement:
    """What a bound is held against: a number and its interval (None: exact, or ``lacking`` says what is missing).

    ``unknown``: nobody can measure it; then nothing is kept.
    """

    value: float | None
    interval: Interval | None = None
    level: float = PROOF_LEVEL
    lacking: str = ""
    unknown: bool = False


@dataclass(frozen=True)
class Bound:
    """One line of a budget: a statistic of a metric that must stay on one side of a limit."""

    metric: str
    written: str  # as written in the plan
    text: str  # as worded in a judgement
    statistic: Literal["value", "ratio", "difference"]
    at_most: bool
    limit: float

    def judge(self, row: Row) -> Judgement:
        """Kept when the whole interval keeps it, broken when the whole interval breaks it, else unproven."""
        score = row.score(self.metric)
        why = f"not measured: {row.not_run}" if row.not_run else "not measured"
        measured = self._measurement(score) if score else Measurement(None, lacking=why)
        outcome = self._outcome(measured)
        return Judgement(
            self, measured.value, measured.interval, outcome, measured.level, measured.lacking, measured.unknown
        )

    def _measurement(self, score: Score) -> Measurement:
        delta = score.to_original
        if score.exact and (score.value is None or (delta is None and self.statistic != "value")):
            return Measurement(None, lacking=UNKNOWN, unknown=True)
        if self.statistic == "value":
            return _proof(score.value, score.interval, score.at, score.exact, score.units)
        if delta is None:
            return Measurement(None, lacking="not measured")
        exact = score.exact or delta.verdict == "same"
        if self.statistic == "difference":
            return _proof(delta.difference, delta.difference_interval, delta.at, exact, delta.units)
        return _proof(delta.ratio, delta.ratio_interval, delta.ratio_at, exact, delta.units)

    def _outcome(self, measured: Measurement) -> Outcome:
        if measured.value is None or measured.lacking:
            return "unproven"
        ends = measured.interval or Interval(measured.value, measured.value)
        inside = [end <= self.limit if self.at_most else end >= self.limit for end in ends]
        return "kept" if all(inside) else "unproven" if any(inside) else "broken"


def _proof(
    value: float | None, interval: Interval | None, at: At | None, exact: bool, units: int | None
) -> Measurement:
    """A number with the interval that proves it, or what is missing for a proof."""
    if value is None:
        return Measurement(None, lacking="not measured")
    if exact:
        return Measurement(value)
    proof, level = (at(PROOF_LEVEL), PROOF_LEVEL) if at else (interval, 0.95)
    if proof is None:
        return Measurement(value, lacking="no interval")
    if units is not None and units < FEWEST_UNITS:
        return Measurement(value, proof, level, f"{units} independent units; {FEWEST_UNITS} or more would do")
    return Measurement(value, proof, level)


@dataclass(frozen=True)
class Judgement:
    """A bound held against the last row of a branch."""

    bound: Bound
    value: float | None
    interval: Interval | None
    outcome: Outcome
    level: float = PROOF_LEVEL
    lacking: str = ""  # why it could not be proven, whatever was measured
    unknown: bool = False  # the count is unknown, which is as bad as broken

    def line(self) -> str:
        """``size_bytes: <= 30 % of the original: measured 27.1 %: kept``."""
        return f"{self.bound.metric}: {self.bound.text}: {self._measured()}: {self.outcome}"

    def _measured(self) -> str:
        if self.value is None:
            return self.lacking
        notes = []
        if self.interval:
            notes.append(
                f"{100 * self.level:g} % interval {self._say(self.interval.low)} to {self._say(self.interval.high)}"
            )
        notes += [self.lacking] if self.lacking else []
        return f"measured {self._say(self.value)}" + (f" ({'; '.join(notes)})" if notes else "")

    def _say(self, value: float) -> str:
        if self.bound.statistic == "ratio":
            return f"{value:.1%}".replace("%", " %")
        if self.bound.statistic == "difference":
            return f"{100 * value:+.2f} points"
        return f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}"


def parse_bound(metric: Metric, text: str | float) -> Bound:
    """Read one line of a budget; a change (``+2 %``) bounds the metric from its bad side.

    Raises:
        UsageError: the text is none of the forms above, or means nothing for this metric.
    """
    match = FORM.match(str(text).strip())
    if match is None:
        raise UsageError(f"budget '{text}' cannot be read; {EXAMPLES} can")
    sign, number, unit, of_original = match.group(1), float(match.group(2)), match.group(3) or "", bool(match.group(4))
    if of_original and (unit != "%" or sign in "+-"):
        raise UsageError(f"budget '{text}' cannot be read; '<= {number:g} % of the original' can")
    if sign in "+-":
        return _change(metric, str(text), number if sign == "+" else -number, unit)
    return _limit(metric, str(text), sign == "<=", number, unit, of_original)


def _limit(metric: Metric, text: str, at_most: bool, number: float, unit: str, of_original: bool) -> Bound:
    """``<=`` and ``>=``."""
    sign, label = "<=" if at_most else ">=", metric.label
    if unit.startswith("point"):
        cure = f"write '-{number:g} points' or '+{number:g} points'"
        raise UsageError(
            f"budget '{text}': points are a difference; {cure}" if metric.unit == "share" else _pointless(metric, text)
        )
    if unit == "%":
        _refuse_ratio_to_zero(metric, text, number)
        if metric.unit == "share" and not of_original:
            forms = (
                f"'{sign} {number / 100:g}' bounds the share itself, '{sign} {number:g} % of the original' its ratio"
            )
            raise UsageError(f"budget '{text}': {metric.label} is a share, so % may mean two things; {forms}")
        written = text if of_original else f"{text} of the original"
        return Bound(label, text, written, "ratio", at_most, number / 100)
    if unit and metric.unit != "bytes":
        raise UsageError(
            f"budget '{text}': {metric.label} is not measured in bytes; '{sign} {number:g}' bounds its value"
        )
    if metric.unit == "share" and number > 1:
        raise UsageError(f"budget '{text}': a share lies between 0 and 1; '{sign} {number / 100:g}' bounds it")
    return Bound(label, text, text, "value", at_most, number * BYTES.get(unit, 1))


def _change(metric: Metric, text: str, change: float, unit: str) -> Bound:
    """``+`` and ``-``: from the original."""
    at_most = not metric.higher_is_better
    side = "at most" if at_most else "at least"
    if unit.startswith("point"):
        if metric.unit != "share":
            raise UsageError(_pointless(metric, text))
        return Bound(metric.label, text, f"{side} {text}", "difference", at_most, change / 100)
    if unit != "%":
        raise UsageError(f"budget '{text}': a change wants a unit, % or points; {EXAMPLES} can be read")
    _refuse_ratio_to_zero(metric, text, abs(change))
    if metric.unit == "share":
        of = f"'{'<=' if at_most else '>='} {100 + change:g} % of the original'"
        raise UsageError(
            f"budget '{text}': {metric.label} is a share; '{change:+g} points' bounds its change, {of} its ratio"
        )
    return Bound(metric.label, text, f"{side} {text}", "ratio", at_most, 1 + change / 100)


def _pointless(metric: Metric, text: str) -> str:
    cure = "'<= 95 %' of the original" if metric.unit in ("ratio", "bytes", "count") else "'+2 %' from the original"
    return f"budget '{text}': points are of shares, and {metric.label} is none; {cure} would do"


def _refuse_ratio_to_zero(metric: Metric, text: str, number: float) -> None:
    """A distance of the original from itself is 0."""
    if metric.distance and not metric.higher_is_better:
        cure = f"'<= {number / 100:g}' bounds its value"
        raise UsageError(f"budget '{text}': {metric.label} of the original is 0, so there is no ratio to it; {cure}")


def parse_margin(metric: Metric, text: str | float) -> Margin:
    """Read a margin of equivalence: points for shares, else percent of the original.

    Raises:
        UsageError: it is none, or the metric is not judged by an interval.
    """
    share, name = metric.unit == "share", metric.label
    example = "'1 points'" if share else "'2 %'"
    match = MARGIN.match(str(text).strip())
    if match is None or match.group(2).startswith("point") != share or not float(match.group(1)):
        raise UsageError(f"equivalence '{text}' of {name} cannot be read; {example} can")
    return Margin(name, str(text), "difference" if share else "ratio", float(match.group(1)) / 100)


def judge_limit(name: str, limit_bytes: int, peak_bytes: int) -> Judgement:
    """The plan's ``memory:`` or ``disk:`` against the most that was measured."""
    bound = Bound(name, f"<= {limit_bytes:,} B", f"<= {limit_bytes:,} bytes", "value", True, limit_bytes)
    return Judgement(bound, peak_bytes, None, "kept" if peak_bytes <= limit_bytes else "broken")
