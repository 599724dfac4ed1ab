"""Share of the loss caused by earlier passes that a training recovered: ``(before - after) / (before - original)``.

0 %: nothing, 100 %: all of it. "Retained", the share of the original's score that is left, is another number. Shares
are of a mean over examples (of perplexity: of its logarithm), and paired: the same examples are in both differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from squeeze.algorithms.stats import CONFIDENCE, Interval, mean_by_unit, ratio_by_unit
from squeeze.evaluate.metrics import ExampleMetric, Metric
from squeeze.scores import Measured, per_example


@dataclass(frozen=True)
class Recovered:
    """The share of a loss that was won back.

    Args:
        interval: 95 %; None: a single unit tells nothing of the others.
        lost: What had been lost before, in the metric's unit before it is shown (perplexity: nats per token).
    """

    value: float
    interval: Interval | None
    lost: float


def recovered(
    metrics: Sequence[Metric], labels: np.ndarray | None, new: Measured, original: Measured, before: Measured
) -> dict[str, Recovered]:
    """By metric that is better when lower: the recovered share, where the loss before was certain."""
    shares = {}
    for metric in metrics:
        if not isinstance(metric, ExampleMetric) or metric.higher_is_better or metric.counts or new.on(metric) is None:
            continue
        after, first, last = (
            per_example(metric, labels, model, original).astype(np.float64) for model in (new, original, before)
        )
        on = new.on(metric)
        share = _share(last - after, last - first, on.units if on else None)
        if share is not None:
            shares[metric.label] = share
    return shares


def _share(won: np.ndarray, lost: np.ndarray, units: np.ndarray | None) -> Recovered | None:
    damage = mean_by_unit(lost, units)
    interval = damage.interval(CONFIDENCE)
    if damage.value <= 0 or (interval is not None and interval.low <= 0):
        return None
    ratio = ratio_by_unit(won, lost, units)
    return Recovered(ratio.value, ratio.interval(CONFIDENCE), damage.value)
