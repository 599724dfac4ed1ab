"""How far a score may move on a host whose outputs differ: by arithmetic, not by what sampling would allow."""

from __future__ import annotations

from typing import Any

import numpy as np

from squeeze.evaluate.metrics import EstimateMetric, ExampleMetric, Metric


def slack(metric: Metric, value: float, shift: float, answers: Any, examples: int) -> float:
    """How far ``value`` may move where each output of the model differs by up to ``shift``.

    Two outputs come nearer by 2 shifts at most, and a log-softmax moves by no more. Where outputs are not kept, a share
    may move by one example, and by those whose second output is that near if gaps are spread evenly from 0 to 1: few
    models are less sure than that.

    Args:
        answers: The evidence that ``value`` was worked out from.
    """
    if isinstance(metric, ExampleMetric) and not metric.counts:
        return float(value * np.expm1(2 * shift)) if metric.logarithmic else 2 * shift
    if isinstance(metric, ExampleMetric) and metric.rank and isinstance(answers, np.ndarray):
        return near_share(answers, metric.rank, 2 * shift)
    if isinstance(metric, ExampleMetric | EstimateMetric):
        return min(1.0, 2 * shift + 1 / max(examples, 1))
    return 0.0


def near_share(logits: np.ndarray, rank: int, gap: float) -> float:
    """Share of examples ``[n, classes]`` whose output at that rank is less than ``gap`` above the next one."""
    if logits.shape[1] <= rank:
        return 0.0  # nothing comes after it
    falling = -np.sort(-logits.astype(np.float64), axis=1)
    return float((falling[:, rank - 1] - falling[:, rank] < gap).mean())
