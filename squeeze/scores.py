"""What each score of a model is, and how it moved from the original's and from the row before.

Same examples, same order for every model, so every delta is paired. Each verdict stands alone here; judging the rows of
a ledger together is ``squeeze.ledger``'s business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import scipy

from squeeze.algorithms.stats import CONFIDENCE, Interval
from squeeze.comparison import At, Delta, Verdict, concluded, delta_of, unsure, value_of, verdict_of, within_rounding
from squeeze.errors import DataError
from squeeze.evaluate.endings import EndingScores
from squeeze.evaluate.evidence.base import Answered, Estimate, Exact, Reading, ScoredOn
from squeeze.evaluate.latency import Paired
from squeeze.evaluate.metrics import Answers, ExampleMetric, Metric

ROUNDING = 1e-5  # relative to the largest logit: differences of summation order
DIFFERENT_DATA = "{}: two scores on different data cannot be compared; score both on the same"


@dataclass(frozen=True)
class Score:
    """One metric of one row.

    Args:
        value: None: unknown, which is never 0.
        interval: 95 %; None: exact, or nothing is known of it.
        exact: Counted, not sampled.
        units: Independent units that it rests on.
        floor: What an unchanged model would score by rounding alone, of a distance from the original.
        scored_on: None: the ledger's own.
        values, unit_numbers: ``[examples]``, what it is the mean of; not in the ledger's JSON.
    """

    metric: str
    unit: str
    value: float | None
    interval: Interval | None
    to_original: Delta | None = None
    to_previous: Delta | None = None
    scored_on: ScoredOn | None = None
    exact: bool = False
    units: int | None = None
    floor: float | None = None
    at: At | None = field(default=None, repr=False, compare=False)
    values: np.ndarray | None = field(default=None, repr=False, compare=False)
    unit_numbers: np.ndarray | None = field(default=None, repr=False, compare=False)


class Estimated(NamedTuple):
    """A value that another tool worked out, with its standard error; nothing is known per example."""

    value: float
    standard_error: float
    scored_on: ScoredOn

    def interval(self, level: float = CONFIDENCE) -> Interval:
        """Normal."""
        return _normal(self.value, self.standard_error, level)


@dataclass(frozen=True)
class Measured:
    """What the ledger compares of one model: its answers (None: not scored), its exact numbers (None: unknown), and by
    a metric's label what was answered on data of the metric's own, or estimated elsewhere."""

    answers: Answers | None
    exact: dict[str, int | None]
    scored_on: ScoredOn | None
    own: dict[str, Answered] = field(default_factory=dict)
    estimated: dict[str, Estimated] = field(default_factory=dict)
    units: np.ndarray | None = None

    def on(self, metric: Metric) -> Answered | None:
        """What a metric is computed from."""
        if metric.label in self.own:
            return self.own[metric.label]
        if self.answers is None or self.scored_on is None:
            return None
        return Answered(self.answers, self.scored_on, self.units)


def measure(readings: Mapping[str, Reading], scored_on: ScoredOn | None) -> Measured:
    """What the ledger keeps of a model: by a metric's label, what it is computed from."""
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

    Each verdict stands alone here; :meth:`Ledger.settled` judges the rows together. ``previous`` is None for the
    original's own row, which has no deltas.
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
    verdict: Verdict = "not told apart" if paired.blocks else "same"
    if paired.told_apart:
        verdict = verdict_of(paired.interval, 1.0, higher_is_better=False)
    return Delta(paired.new_ms - paired.old_ms, None, paired.ratio, paired.interval, verdict)


def _exact_score(metric: Metric, new: Measured, original: Measured, previous: Measured | None) -> Score:
    value = new.exact[metric.label]
    others = [] if previous is None else [original, previous]
    deltas = [exact_delta(value, other.exact.get(metric.label), metric.higher_is_better) for other in others]
    return Score(metric.label, metric.unit, value, None, *_two(deltas), exact=True)


def exact_delta(new: int | None, old: int | None, higher_is_better: bool) -> Delta | None:
    """How far a counted number moved; None where one is not known."""
    if new is None or old is None:  # unknown for one of the models
        return None
    verdict: Verdict = "same" if new == old else "better" if (new > old) == higher_is_better else "worse"
    return Delta(new - old, None, new / old if old else None, None, verdict)


def _two(deltas: Sequence[Delta | None]) -> tuple[Delta | None, Delta | None]:
    """To the original and to the row before; the original's own row has neither."""
    return (deltas[0], deltas[1]) if deltas else (None, None)


def _estimated_score(metric: Metric, new: Measured, original: Measured, previous: Measured | None) -> Score:
    this = new.estimated[metric.label]
    others = [] if previous is None else [original, previous]
    deltas = [_unpaired_delta(metric, this, other.estimated[metric.label]) for other in others]
    score = Score(metric.label, metric.unit, this.value, this.interval(), *_two(deltas), this.scored_on)
    return replace(score, units=this.scored_on.examples, at=this.interval)


def _unpaired_delta(metric: Metric, new: Estimated, old: Estimated) -> Delta:
    """From the two standard errors alone."""
    if new.scored_on != old.scored_on:
        raise DataError(DIFFERENT_DATA.format(metric.label))
    difference, error = new.value - old.value, float(np.hypot(new.standard_error, old.standard_error))
    ratio = new.value / old.value if old.value else None
    if difference == 0 and new.standard_error == old.standard_error:
        return Delta(difference, None, ratio, None, "same", paired=False)
    delta = unsure(difference, ratio, new.scored_on.examples, lambda level: _normal(difference, error, level))
    return concluded(replace(delta, paired=False, higher_is_better=metric.higher_is_better))


def _normal(value: float, standard_error: float, level: float) -> Interval:
    reach = float(scipy.special.ndtri((1 + level) / 2)) * standard_error
    return Interval(value - reach, value + reach)


def _example_score(
    metric: ExampleMetric, labels: np.ndarray | None, new: Measured, original: Measured, previous: Measured | None
) -> Score:
    values, this = per_example(metric, labels, new, original), new.on(metric)
    assert this is not None, "it was asked for"
    estimate = value_of(metric, values, this.units)
    deltas: list[Delta] = []
    for other in [] if previous is None else [original, previous]:
        again = deltas and other is original
        deltas.append(deltas[0] if again else _example_delta(metric, labels, values, new, other, original))
    own = None if this.scored_on == new.scored_on else this.scored_on
    score = Score(metric.label, metric.unit, estimate.value, estimate.at(CONFIDENCE), *_two(deltas), own)
    score = replace(score, values=values, unit_numbers=this.units)
    return replace(score, units=estimate.units, floor=_floor(metric, labels, original), at=estimate.at)


def _example_delta(
    metric: ExampleMetric,
    labels: np.ndarray | None,
    values: np.ndarray,
    new: Measured,
    other: Measured,
    original: Measured,
) -> Delta:
    this, that = new.on(metric), other.on(metric)
    before = per_example(metric, labels, other, original)
    assert this is not None
    assert that is not None
    same = within_rounding(metric, values, before) and (
        values.dtype != bool or _same_answers(this.answers, that.answers)
    )
    return delta_of(metric, values, before, this.units, same)


def _same_answers(new: Answers, old: Answers) -> bool:
    """Up to rounding; the same count of right answers alone is no proof that nothing changed."""
    if isinstance(new, EndingScores) and isinstance(old, EndingScores):
        new, old = new.log_probability, old.log_probability
    if not isinstance(new, np.ndarray) or not isinstance(old, np.ndarray):
        return False
    largest = np.abs(old[np.isfinite(old)]).max(initial=0)
    return bool(np.allclose(new, old, rtol=0, atol=ROUNDING * largest))


def _floor(metric: ExampleMetric, labels: np.ndarray | None, original: Measured) -> float | None:
    """What the original scores against itself in another order of summation, of a distance that is 0 for itself.

    Where that was not measured, it is what rounding may make.
    """
    if not metric.distance or metric.higher_is_better:
        return None
    this = original.on(metric)
    if this is not None and this.again is not None:
        second, first = this.again
        return float(metric.shown(metric.values(second, None, first).mean(keepdims=True))[0])
    itself = per_example(metric, labels, original, original)
    least = 0.0 if metric.counts else metric.rounding
    return max(float(metric.shown(itself.mean(keepdims=True))[0]), least)


def per_example(metric: ExampleMetric, labels: np.ndarray | None, model: Measured, original: Measured) -> np.ndarray:
    """``[examples]`` values of a metric, one per example.

    Raises:
        DataError: the two were scored on different data, or the metric gives no row of numbers.
    """
    this, other = model.on(metric), original.on(metric)
    if this is None or other is None or this.scored_on != other.scored_on:
        raise DataError(DIFFERENT_DATA.format(metric.label))
    values = metric.values(this.answers, labels, other.answers)
    if values.ndim != 1:
        raise DataError(f"{metric.label}: gave {list(values.shape)}; one number per example would do")
    return values
