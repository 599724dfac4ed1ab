"""Two finished runs side by side: how far each score is from the other's, paired where the examples are the same.

Two scores are compared only where they are of the same data by the same convention. Rows that meet: the original, and
the ends of branches of one name; where each run has one end, these two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from squeeze import registry
from squeeze.comparison import Delta, delta_of, holm, within_rounding
from squeeze.errors import SqueezeError, UsageError
from squeeze.evaluate.metrics import ExampleMetric, Metric
from squeeze.ledger import NOT_PRIMARY
from squeeze.report.examples import UNITS, Arrays, read_examples
from squeeze.report.shape import ORIGINAL, Report, Row, Score, as_report
from squeeze.report.write import read_report
from squeeze.scores import exact_delta

TWO_CLOCKS = "timed in two runs; squeeze bench times packages on one host"
NOT_KEPT = "not known per example"


@dataclass(frozen=True)
class Finished:
    """One run as its folder tells it."""

    out: Path
    report: Report
    keys: list[str]  # store keys of the rows' models
    examples: Arrays

    @classmethod
    def read(cls, out: Path) -> Finished:
        """Read a run's --out folder.

        Raises:
            SqueezeError: it is none, or is damaged.
        """
        values = read_report(out)
        keys = [str(row.get("key")) for row in values["ledger"]["rows"]]
        report = as_report(values)
        if not report.rows:
            raise UsageError(f"{out}: its ledger has no row; run the plan to its end")
        return cls(out, report, keys, read_examples(out))

    def ends(self) -> dict[str, int]:
        """By branch, the number of its last row; the trunk's is "result"."""
        rows = self.report.rows
        return {branch or "result": rows.index(row) for branch, row in self.report.ends().items()}


@dataclass(frozen=True)
class Pair:
    """One score of two runs; ``change`` is the second less the first, None where they are not compared: ``why``."""

    row: str
    metric: str
    unit: str
    first: float | None
    second: float | None
    change: Delta | None
    why: str = ""


@dataclass(frozen=True)
class Comparison:
    """All pairs, and lines about what has no pair."""

    pairs: list[Pair] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare(first: Finished, second: Finished) -> Comparison:
    """Every score that both runs have, of the rows that meet.

    Raises:
        UsageError: no rows meet.
    """
    rows = _rows(first, second)
    pairs = [pair for name, places in rows.items() for pair in _pairs(name, first, second, places)]
    both = set(first.report.ledger.primary) & set(second.report.ledger.primary)
    reasons: dict[str, dict[str, None]] = {}
    for pair in pairs:
        if pair.change is None:
            reasons.setdefault(pair.why, {})[pair.metric] = None
    notes = [f"{', '.join(metrics)}: not compared: {why}" for why, metrics in reasons.items()]
    return Comparison(_judged(pairs, both), notes)


def _rows(first: Finished, second: Finished) -> dict[str, tuple[int, int]]:
    ends = first.ends(), second.ends()
    original = {ORIGINAL: (0, 0)}
    if len(ends[0]) == len(ends[1]) == 1:
        (name, place), (other, end) = *ends[0].items(), *ends[1].items()
        return original | {name if name == other else f"{name} / {other}": (place, end)}
    common = {name: (ends[0][name], ends[1][name]) for name in ends[0] if name in ends[1]}
    if not common:
        names = [", ".join(one) for one in ends]
        raise UsageError(
            f"{first.out} ends in {names[0]} and {second.out} in {names[1]}; targets of one name would be compared"
        )
    return original | common


def _pairs(name: str, first: Finished, second: Finished, places: tuple[int, int]) -> Iterator[Pair]:
    rows = first.report.rows[places[0]], second.report.rows[places[1]]
    for label in [*rows[0].scores, *rows[0].timings]:
        scores = rows[0].score(label), rows[1].score(label)
        if scores[0] is None or scores[1] is None:
            continue
        change = _change(label, (first, second), places, rows, (scores[0], scores[1]))
        delta, why = (change, "") if isinstance(change, Delta) else (None, change)
        yield Pair(name, label, scores[0].unit, scores[0].value, scores[1].value, delta, why)


def _change(
    label: str,
    runs: tuple[Finished, Finished],
    places: tuple[int, int],
    rows: tuple[Row, Row],
    scores: tuple[Score, Score],
) -> Delta | str:
    """How far the second is from the first; or why that is not known."""
    if label in rows[0].timings:
        return TWO_CLOCKS
    metrics = [_metric(run, label) for run in runs]
    if metrics[0] is None or metrics[0] != metrics[1]:
        return _conventions(metrics, runs)
    data = [score.scored_on or run.report.ledger.scored_on for score, run in zip(scores, runs, strict=True)]
    if scores[0].exact and scores[1].exact:
        values = [None if score.value is None else int(score.value) for score in scores]
        return exact_delta(values[1], values[0], metrics[0].higher_is_better) or "unknown of one of them"
    if data[0] is None or data[1] is None or data[0].sha256 != data[1].sha256:
        names = [f"{on.name} (sha256 {on.sha256[:12]})" if on else "no data" for on in data]
        return f"{runs[0].out} is scored on {names[0]}, {runs[1].out} on {names[1]}"
    if metrics[0].needs_original and runs[0].keys[0] != runs[1].keys[0]:
        return "distances from two different originals"
    return _paired(metrics[0], label, runs, places)


def _paired(metric: Metric, label: str, runs: tuple[Finished, Finished], places: tuple[int, int]) -> Delta | str:
    old, new = (run.examples.get(f"{place}/{label}") for run, place in zip(runs, places, strict=True))
    if old is None or new is None or not isinstance(metric, ExampleMetric):
        return NOT_KEPT
    units = [run.examples.get(f"{UNITS}/{label}") for run in runs]
    sizes = {len(array) for array in (old, new, *units) if array is not None}
    if len(sizes) != 1:
        counts = ", ".join(map(str, sorted(sizes)))
        raise SqueezeError(f"{label}: {counts} values for the same examples; run both plans again")
    one_model = runs[0].keys[places[0]] == runs[1].keys[places[1]]
    near = old.dtype != bool and within_rounding(metric, new, old)
    return delta_of(metric, new, old, units[0], one_model or near)


def _metric(run: Finished, label: str) -> Metric | None:
    """The metric of that label in a report's plan; None: it is not registered."""
    for written in run.report.plan.get("metrics", []):
        for name, options in written.items() if isinstance(written, dict) else ():
            if ":" in str(name):  # a report is data: it imports nobody's code
                continue
            try:
                metric: Metric = registry.load("metrics", str(name)).model_validate(options or {})
            except (SqueezeError, ValueError):
                continue
            if metric.label == label:
                return metric
    return None


def _conventions(metrics: list[Metric | None], runs: tuple[Finished, Finished]) -> str:
    known = [metric for metric in metrics if metric is not None]
    if len(known) < len(metrics):
        return "its metric is not registered here"
    options = [known[i].model_dump(mode="json") for i in (0, 1)]
    differing = {key for key in options[0] | options[1] if options[0].get(key) != options[1].get(key)}
    parts = [", ".join(f"{key}: {one.get(key)}" for key in sorted(differing)) for one in options]
    return f"other conventions: {parts[0]} in {runs[0].out}, {parts[1]} in {runs[1].out}"


def _judged(pairs: list[Pair], primary: set[str]) -> list[Pair]:
    """Metrics that both runs call primary are judged together; the others have intervals alone."""
    judged: list[Any] = [pair for pair in pairs if pair.metric in primary and pair.change and pair.change.judged]
    levels = dict(zip(map(id, judged), holm([pair.change for pair in judged]), strict=True))
    return [_with_verdict(pair, levels.get(id(pair))) for pair in pairs]


def _with_verdict(pair: Pair, level: float | None) -> Pair:
    if pair.change is None:
        return pair
    return replace(pair, change=pair.change.unjudged(NOT_PRIMARY) if level is None else pair.change.judged_at(level))
