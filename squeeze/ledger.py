"""The ledger: one row per pass; what each score is, how it moved, how sure we are, and the verdict.

Same examples, same order for every row, so every delta is paired. What a clock measured stands apart from what must
be the same bytes on every run: ``Row.timings`` and ``Row.scores``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from squeeze.algorithms.stats import Interval, bootstrap_means, mcnemar_exact, percentile_interval
from squeeze.errors import DataError
from squeeze.evaluate.evidence.base import Answered, Estimate, Exact, Reading, ScoredOn
from squeeze.evaluate.latency import Paired
from squeeze.evaluate.metrics import Answers, ExampleMetric, Metric

Verdict = Literal["better", "worse", "same within noise", "same"]
SIGNIFICANCE = 0.05
NORMAL_95 = 1.959964  # standard errors on either side
DIFFERENT_DATA = "{}: two scores on different data cannot be compared; score both on the same"


@dataclass(frozen=True)
class Delta:
    """How a score moved: ``new - old`` and ``new / old``, each with its 95 % interval (None: exact or undefined)."""

    difference: float
    difference_interval: Interval | None
    ratio: float | None
    ratio_interval: Interval | None
    verdict: Verdict
    paired: bool = True  # False: from two standard errors, so wider than it would be over the same examples


@dataclass(frozen=True)
class Score:
    """One metric of one row."""

    metric: str
    unit: str
    value: float
    interval: Interval | None
    to_original: Delta | None = None
    to_previous: Delta | None = None
    scored_on: ScoredOn | None = None  # None: the ledger's own


class Estimated(NamedTuple):
    """A value that another tool worked out, with its standard error; nothing is known per example."""

    value: float
    standard_error: float
    scored_on: ScoredOn

    @property
    def interval(self) -> Interval:
        """95 %, normal."""
        return _normal(self.value, self.standard_error)


@dataclass(frozen=True)
class Measured:
    """What the ledger compares of one model: its answers (None: not scored), its exact numbers, and by a metric's
    label what was answered on data of the metric's own, or estimated elsewhere."""

    answers: Answers | None
    exact: dict[str, int]
    scored_on: ScoredOn | None
    own: dict[str, Answered] = field(default_factory=dict)
    estimated: dict[str, Estimated] = field(default_factory=dict)

    def on(self, metric: Metric) -> Answered | None:
        """What a metric is worked out from."""
        if metric.label in self.own:
            return self.own[metric.label]
        if self.answers is None or self.scored_on is None:
            return None
        return Answered(self.answers, self.scored_on)


@dataclass(frozen=True)
class Row:
    """One pass, measured."""

    name: str  # the pass, or "original"
    branch: str | None  # the target whose tail the pass belongs to; None: the trunk
    form: str
    key: str
    options: dict[str, Any]
    scores: dict[str, Score]
    facts: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, Score] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    spread: dict[str, list[float]] = field(default_factory=dict)  # by metric: its value, then with other calibrations

    def score(self, metric: str) -> Score | None:
        """The score of that name, timed or not."""
        return self.scores.get(metric) or self.timings.get(metric)

    def to_json(self, timings: bool = True) -> dict[str, Any]:
        """JSON values; without timings, the same on every run."""
        values = asdict(self)
        if not timings:
            del values["timings"], values["measured"]
        return values


@dataclass
class Ledger:
    """Rows in the order in which they were made; the first is the original."""

    scored_on: ScoredOn | None
    rows: list[Row] = field(default_factory=list)

    def to_json(self, timings: bool = True) -> dict[str, Any]:
        """JSON values; without timings, the same on every run."""
        scored_on = asdict(self.scored_on) if self.scored_on else None
        return {"scored_on": scored_on, "rows": [row.to_json(timings) for row in self.rows]}

    @property
    def original(self) -> Row:
        """The row of the model before pass 1."""
        return self.rows[0]

    def line_of(self, branch: str | None) -> list[Row]:
        """The rows that lead to a branch's end: the trunk, then its own."""
        return [row for row in self.rows if row.branch in (None, branch)]


def measure(readings: Mapping[str, Reading], scored_on: ScoredOn | None) -> Measured:
    """What the ledger keeps of a model: by a metric's label, what it is worked out from."""
    measured = Measured(None, {}, scored_on)
    for label, reading in readings.items():
        if isinstance(reading, Exact):
            measured.exact[label] = reading.value
        elif isinstance(reading, Estimate):
            on = ScoredOn(reading.data, reading.sha256, reading.examples)
            measured.estimated[label] = Estimated(reading.value, reading.standard_error, on)
        else:
            measured.own[label] = reading
    return measured


def scores(
    metrics: list[Metric], labels: np.ndarray | None, new: Measured, original: Measured, previous: Measured | None
) -> dict[str, Score]:
    """Score ``new`` by every metric that is not a timing, against the original and the row before it.

    ``previous`` is None for the original's own row, which has no deltas.
    """
    result = {}
    for metric in metrics:
        if metric.label in new.exact:
            result[metric.label] = _exact_score(metric, new, original, previous)
        elif metric.label in new.estimated:
            result[metric.label] = _estimated_score(metric, new, original, previous)
        elif isinstance(metric, ExampleMetric) and new.on(metric) is not None:
            result[metric.label] = _example_score(metric, labels, new, original, previous)
    return result


def timed_score(metric: Metric, to_original: Paired, to_previous: Paired | None) -> Score:
    """A latency score: its value is the ratio to the original."""
    first = _timed_delta(to_original)
    second = _timed_delta(to_previous) if to_previous else None
    return Score(metric.label, metric.unit, to_original.ratio, to_original.interval, first, second)


def _timed_delta(paired: Paired) -> Delta:
    verdict: Verdict = "same within noise" if paired.blocks else "same"
    if paired.told_apart:
        verdict = _verdict_of_interval(paired.interval, 1.0, higher_is_better=False)
    return Delta(paired.new_ms - paired.old_ms, None, paired.ratio, paired.interval, verdict)


def _exact_score(metric: Metric, new: Measured, original: Measured, previous: Measured | None) -> Score:
    value = new.exact[metric.label]
    if previous is None:
        return Score(metric.label, metric.unit, value, None)
    first, second = (
        _exact_delta(value, other.exact.get(metric.label), metric.higher_is_better) for other in (original, previous)
    )
    return Score(metric.label, metric.unit, value, None, first, second)


def _exact_delta(new: int, old: int | None, higher_is_better: bool) -> Delta | None:
    if old is None:  # not known of that model
        return None
    verdict: Verdict = "same" if new == old else "better" if (new > old) == higher_is_better else "worse"
    return Delta(new - old, None, new / old if old else None, None, verdict)


def _two(deltas: list[Delta]) -> tuple[Delta | None, Delta | None]:
    """To the original and to the row before; the original's own row has neither."""
    return (deltas[0], deltas[1]) if deltas else (None, None)


def _estimated_score(metric: Metric, new: Measured, original: Measured, previous: Measured | None) -> Score:
    this = new.estimated[metric.label]
    others = [] if previous is None else [original, previous]
    deltas = [_unpaired_delta(metric, this, other.estimated[metric.label]) for other in others]
    return Score(metric.label, metric.unit, this.value, this.interval, *_two(deltas), this.scored_on)


def _unpaired_delta(metric: Metric, new: Estimated, old: Estimated) -> Delta:
    """From the two standard errors alone."""
    if new.scored_on != old.scored_on:
        raise DataError(DIFFERENT_DATA.format(metric.label))
    moved = new.value - old.value
    interval = _normal(moved, float(np.hypot(new.standard_error, old.standard_error)))
    same = moved == 0 and new.standard_error == old.standard_error
    verdict: Verdict = "same" if same else _verdict_of_interval(interval, 0.0, metric.higher_is_better)
    return Delta(moved, interval, new.value / old.value if old.value else None, None, verdict, paired=False)


def _normal(value: float, standard_error: float) -> Interval:
    return Interval(value - NORMAL_95 * standard_error, value + NORMAL_95 * standard_error)


def _example_score(
    metric: ExampleMetric, labels: np.ndarray | None, new: Measured, original: Measured, previous: Measured | None
) -> Score:
    models = [new] if previous is None else [new, original, previous]
    values = [_per_example(metric, labels, model, original) for model in models]
    means = metric.shown(bootstrap_means(np.stack(values, axis=1)))
    value, interval = _shown_mean(metric, values[0]), percentile_interval(means[:, 0])
    deltas = [_example_delta(metric, values[0], values[i], means[:, 0], means[:, i]) for i in range(1, len(models))]
    scored_on = new.own[metric.label].scored_on if metric.label in new.own else None
    own = None if scored_on == new.scored_on else scored_on
    return Score(metric.label, metric.unit, value, interval, *_two(deltas), own)


def _per_example(metric: ExampleMetric, labels: np.ndarray | None, model: Measured, original: Measured) -> np.ndarray:
    this, other = model.on(metric), original.on(metric)
    if this is None or other is None or this.scored_on != other.scored_on:
        raise DataError(DIFFERENT_DATA.format(metric.label))
    values = metric.values(this.answers, labels, other.answers)
    if values.ndim != 1:
        raise DataError(f"{metric.label}: gave {list(values.shape)}; one number per example would do")
    return values


def _example_delta(
    metric: ExampleMetric, new: np.ndarray, old: np.ndarray, new_means: np.ndarray, old_means: np.ndarray
) -> Delta:
    difference = percentile_interval(new_means - old_means)
    ratio = ratio_interval = None
    if (old_means > 0).all():
        ratio = _shown_mean(metric, new) / _shown_mean(metric, old)
        ratio_interval = percentile_interval(new_means / old_means)
    verdict = _verdict(metric, new, old, difference)
    moved = _shown_mean(metric, new) - _shown_mean(metric, old)
    return Delta(moved, difference, ratio, ratio_interval, verdict)


def _shown_mean(metric: ExampleMetric, values: np.ndarray) -> float:
    return float(metric.shown(values.mean(keepdims=True))[0])


def _verdict(metric: ExampleMetric, new: np.ndarray, old: np.ndarray, difference: Interval) -> Verdict:
    if np.allclose(new, old, rtol=0, atol=metric.rounding):
        return "same"
    if not metric.counts or new.dtype != bool:
        return _verdict_of_interval(difference, 0.0, metric.higher_is_better)
    if mcnemar_exact(old.astype(bool), new.astype(bool)) >= SIGNIFICANCE:
        return "same within noise"
    return "better" if (new.mean() > old.mean()) == metric.higher_is_better else "worse"


def _verdict_of_interval(interval: Interval, neutral: float, higher_is_better: bool) -> Verdict:
    if not interval.excludes(neutral):
        return "same within noise"
    return "better" if (interval.low > neutral) == higher_is_better else "worse"
