"""The ledger: one row per pass; what each score is, how it moved, how sure we are, and the verdict.

Same examples, same order for every row, so every delta is paired. What a clock measured stands apart from what must
be the same bytes on every run: ``Row.timings`` and ``Row.scores``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from squeeze.algorithms.stats import Interval, bootstrap_means, mcnemar_exact, percentile_interval
from squeeze.errors import DataError
from squeeze.evaluate.latency import Paired
from squeeze.evaluate.metrics import Answers, ExampleMetric, Metric, ModelMetric
from squeeze.models.base import Model

Verdict = Literal["better", "worse", "same within noise", "same"]
SIGNIFICANCE = 0.05
ROUNDING = 1e-6  # per example: another order of summation, not another model


@dataclass(frozen=True)
class ScoredOn:
    """Which data a score belongs to; scores on different data are never compared."""

    name: str
    sha256: str
    examples: int


@dataclass(frozen=True)
class Delta:
    """How a score moved: ``new - old`` and ``new / old``, each with its 95 % interval (None: exact or undefined)."""

    difference: float
    difference_interval: Interval | None
    ratio: float | None
    ratio_interval: Interval | None
    verdict: Verdict


@dataclass(frozen=True)
class Score:
    """One metric of one row."""

    metric: str
    unit: str
    value: float
    interval: Interval | None
    to_original: Delta | None = None
    to_previous: Delta | None = None


@dataclass(frozen=True)
class Measured:
    """What the ledger compares of one model: its answers (None: not scored) and its exact numbers."""

    answers: Answers | None
    exact: dict[str, int]
    scored_on: ScoredOn | None


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


def measure(model: Model, metrics: list[Metric], answers: Answers | None, scored_on: ScoredOn | None) -> Measured:
    """What the ledger keeps of a model."""
    exact = {metric.name: metric.value(model) for metric in metrics if isinstance(metric, ModelMetric)}
    return Measured(answers, exact, scored_on)


def scores(
    metrics: list[Metric], labels: np.ndarray | None, new: Measured, original: Measured, previous: Measured | None
) -> dict[str, Score]:
    """Score ``new`` by every metric that is not a timing, against the original and the row before it.

    ``previous`` is None for the original's own row, which has no deltas.
    """
    result = {}
    for metric in metrics:
        if isinstance(metric, ModelMetric):
            result[metric.name] = _exact_score(metric, new, original, previous)
        elif isinstance(metric, ExampleMetric) and new.answers is not None:
            result[metric.name] = _example_score(metric, labels, new, original, previous)
    return result


def timed_score(metric: Metric, to_original: Paired, to_previous: Paired | None) -> Score:
    """A latency score: its value is the ratio to the original."""
    first = _timed_delta(to_original)
    second = _timed_delta(to_previous) if to_previous else None
    return Score(metric.name, metric.unit, to_original.ratio, to_original.interval, first, second)


def _timed_delta(paired: Paired) -> Delta:
    verdict = _verdict_of_interval(paired.interval, 1.0, higher_is_better=False)
    return Delta(paired.new_ms - paired.old_ms, None, paired.ratio, paired.interval, verdict)


def _exact_score(metric: ModelMetric, new: Measured, original: Measured, previous: Measured | None) -> Score:
    value = new.exact[metric.name]
    if previous is None:
        return Score(metric.name, metric.unit, value, None)
    deltas = [_exact_delta(value, other.exact[metric.name], metric.higher_is_better) for other in (original, previous)]
    return Score(metric.name, metric.unit, value, None, *deltas)


def _exact_delta(new: int, old: int, higher_is_better: bool) -> Delta:
    verdict: Verdict = "same" if new == old else "better" if (new > old) == higher_is_better else "worse"
    return Delta(new - old, None, new / old if old else None, None, verdict)


def _example_score(
    metric: ExampleMetric, labels: np.ndarray | None, new: Measured, original: Measured, previous: Measured | None
) -> Score:
    models = [new] if previous is None else [new, original, previous]
    values = [_per_example(metric, labels, model, original) for model in models]
    means = metric.shown(bootstrap_means(np.stack(values, axis=1)))
    value, interval = _shown_mean(metric, values[0]), percentile_interval(means[:, 0])
    deltas = [_example_delta(metric, values[0], values[i], means[:, 0], means[:, i]) for i in range(1, len(models))]
    return Score(metric.name, metric.unit, value, interval, *deltas)


def _per_example(metric: ExampleMetric, labels: np.ndarray | None, model: Measured, original: Measured) -> np.ndarray:
    if model.scored_on != original.scored_on or model.answers is None or original.answers is None:
        raise DataError(f"{metric.name}: two scores on different data cannot be compared; score both on the same")
    values = metric.values(model.answers, labels, original.answers)
    if values.ndim != 1:
        raise DataError(f"{metric.name}: gave {list(values.shape)}; one number per example would do")
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
    if np.allclose(new, old, rtol=0, atol=ROUNDING):
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
