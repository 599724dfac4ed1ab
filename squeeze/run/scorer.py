"""From a kept model to a row of the ledger: evidence once per model, paired deltas, the clock side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from squeeze.evaluate.evaluator import labels_of
from squeeze.evaluate.evidence.base import EVALUATE, Collectors, ScoredOn, Sources, Subject
from squeeze.evaluate.evidence.facts import ModelFacts, metric_key
from squeeze.evaluate.metrics import ExampleMetric, Metric
from squeeze.ledger import Measured, Row, measure, recovered, scores
from squeeze.run.stored import StoredModel
from squeeze.run.timer import Timer


class Scorer:
    """Scores models on the same data, each against the original and the row before it."""

    def __init__(self, metrics: Sequence[Metric], sources: Sources, original: StoredModel) -> None:
        self.metrics, self.original = list(metrics), original
        self.collectors = Collectors(metrics, sources)
        data = sources.evaluate if any(_scored_on_plan(metric) for metric in metrics) else None
        self.scored_on = ScoredOn.of(data) if data is not None else None
        self.labels = labels_of(data) if data is not None else None
        self.timer = Timer(metrics, sources.evaluate, sources.store, sources.progress, original)
        self._measured: dict[str, Measured] = {}
        self._by_files: dict[str, str] = {}  # the first key of artifacts, by the digest of their files

    def row(
        self,
        stored: StoredModel,
        name: str,
        branch: str | None,
        options: dict[str, Any],
        previous: StoredModel | None,
        again: Sequence[StoredModel] = (),
        trained: bool = False,
    ) -> Row:
        """Measure one model; ``previous`` is None for the original itself.

        Args:
            trained: Whether the pass makes up for what those before it took; the row tells how much.
            again: What the same pass made of other calibration samples; the row tells how far its scores spread.
        """
        new, original = self.measured(stored, name), self.measured(self.original, "original")
        before = self.measured(previous, name) if previous else None
        timings, clock = self.timer.row(stored, previous) if previous else ({}, {})
        table = scores(self.metrics, self.labels, new, original, before)
        others = [scores(self.metrics, self.labels, self.measured(one, name), original, None) for one in again]
        sampled = [label for label, score in table.items() if not score.exact]
        spread = {label: [v for one in (table, *others) if (v := one[label].value) is not None] for label in sampled}
        rest = timings, stored.measured | clock, spread if again else {}
        arithmetic = stored.model.arithmetic()
        won = recovered(self.metrics, self.labels, new, original, before) if trained and before else {}
        told = arithmetic, won, stored.model.cannot_run() or ""
        return Row(name, branch, stored.model.form, stored.key, options, table, stored.facts, *rest, *told)

    def measured(self, stored: StoredModel, name: str) -> Measured:
        """What every metric is computed from, collected once per model."""
        if stored.key not in self._measured and (same := self._of_same_files(stored)) is not None:
            self._measured[stored.key] = same
        if stored.key not in self._measured:
            opened = stored.model.reopened()  # closes its sessions: a decoder's session holds its weights several times
            again = (lambda: stored.with_weights().model.reopened()) if stored.is_released else None
            readings = self.collectors.readings(Subject(stored.key, opened, name, again, stored.exact()))
            self._measured[stored.key] = measure(readings, self.scored_on)
        return self._measured[stored.key]

    def exact(self, key: str) -> Mapping[str, int | None]:
        """The numbers that were counted of a model, by how they were."""
        counted = [metric for metric in self.metrics if issubclass(metric.evidence, ModelFacts)]
        return {metric_key(metric): self._measured[key].exact.get(metric.label) for metric in counted}

    def _of_same_files(self, stored: StoredModel) -> Measured | None:
        """What was measured of another row's model that is the same files in the same runtime: a target's often is."""
        if stored.model.runtime is None:
            return None
        key = self._by_files.setdefault(stored.digest(), stored.key)
        return self._measured.get(key)


def _scored_on_plan(metric: Metric) -> bool:
    """Per example of ``data.evaluate``."""
    return isinstance(metric, ExampleMetric) and EVALUATE in metric.reads()
