"""From a kept model to a row of the ledger: evidence once per model, paired deltas, the clock side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from squeeze.evaluate.evaluator import labels_of
from squeeze.evaluate.evidence.base import EVALUATE, Collectors, ScoredOn, Sources, Subject
from squeeze.evaluate.metrics import ExampleMetric, Metric
from squeeze.ledger import Measured, Row, measure, scores
from squeeze.run.kept import Kept
from squeeze.run.timer import Timer


class Scorer:
    """Scores models on the same data, each against the original and the row before it."""

    def __init__(self, metrics: Sequence[Metric], sources: Sources, original: Kept) -> None:
        self.metrics, self.original = list(metrics), original
        self.collectors = Collectors(metrics, sources)
        data = sources.evaluate if any(_scored_on_plan(metric) for metric in metrics) else None
        self.scored_on = ScoredOn.of(data) if data is not None else None
        self.labels = labels_of(data) if data is not None else None
        self.timer = Timer(metrics, sources.evaluate, sources.store, sources.progress, original)
        self._measured: dict[str, Measured] = {}

    def row(
        self,
        kept: Kept,
        name: str,
        branch: str | None,
        options: dict[str, Any],
        previous: Kept | None,
        again: Sequence[Kept] = (),
    ) -> Row:
        """Measure one model; ``previous`` is None for the original itself.

        Args:
            again: What the same pass made of other calibration samples; the row tells how far its scores spread.
        """
        new, original = self.measured(kept, name), self.measured(self.original, "original")
        before = self.measured(previous, name) if previous else None
        timings, clock = self.timer.row(kept, previous) if previous else ({}, {})
        found = scores(self.metrics, self.labels, new, original, before)
        others = [scores(self.metrics, self.labels, self.measured(one, name), original, None) for one in again]
        sampled = [label for label, score in found.items() if not score.exact]
        spread = {label: [v for one in (found, *others) if (v := one[label].value) is not None] for label in sampled}
        told = timings, kept.measured | clock, spread if again else {}
        arithmetic = kept.model.arithmetic()
        return Row(name, branch, kept.model.form, kept.key, options, found, kept.facts, *told, arithmetic)

    def measured(self, kept: Kept, name: str) -> Measured:
        """What every metric is worked out from, collected once per model."""
        if kept.key not in self._measured:
            readings = self.collectors.readings(Subject(kept.key, kept.model, name))
            self._measured[kept.key] = measure(readings, self.scored_on)
        return self._measured[kept.key]


def _scored_on_plan(metric: Metric) -> bool:
    """Per example of ``data.evaluate``."""
    return isinstance(metric, ExampleMetric) and EVALUATE in metric.reads()
