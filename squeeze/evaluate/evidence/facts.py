"""Evidence that needs no data of the plan: what the stored model is, the clock, and what other tools say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeeze.evaluate.evidence.base import Estimate, Evidence, Exact, Reading, Sources, Subject
from squeeze.models.tasks.base import TOKENS
from squeeze.versions import source_digest

if TYPE_CHECKING:
    from squeeze.evaluate.metrics import EstimateMetric, Metric, ModelMetric


def metric_key(metric: Metric) -> str:
    """Name, options and code of a metric: two with equal keys count the same."""
    return json.dumps([metric.name, metric.model_dump(mode="json"), source_digest(type(metric))], sort_keys=True)


class ModelFacts(Evidence):
    """An exact number of the model as stored; nothing is run."""

    runs = False

    def reading(self, metric: ModelMetric, model: Subject) -> Reading | None:  # type: ignore[override]
        if model.make_again is not None and (key := metric_key(metric)) in model.exact:
            return Exact(model.exact[key])
        return Exact(metric.value(model.with_weights().model))


class Clock(Evidence):
    """Times of two models in turns, by ``squeeze.run.timer``: no evidence of one model alone."""

    def reading(self, metric: Metric, model: Subject) -> Reading | None:
        return None


class GenerationClock(Clock):
    """Times of reading and writing tokens."""

    of_outputs = TOKENS


class Estimates(Evidence):
    """A value and its standard error that another tool works out on data of its own."""

    of_outputs = TOKENS

    def __init__(self, sources: Sources, metric: Metric) -> None:
        super().__init__(sources, metric)
        self._estimates: dict[str, Estimate] = {}

    @classmethod
    def scope(cls, metric: Metric) -> str:
        return metric.label

    def reading(self, metric: EstimateMetric, model: Subject) -> Reading | None:  # type: ignore[override]
        if model.key not in self._estimates:
            self._estimates[model.key] = self._estimate(metric, model)
        return self._estimates[model.key]

    def _estimate(self, metric: EstimateMetric, model: Subject) -> Estimate:
        sources = self.sources
        inputs: dict[str, Any] = {"model": model.key, "metric": metric.name, "asked": metric.cache_inputs(sources.root)}
        inputs["code"] = source_digest(type(metric))

        def write(folder: Path) -> None:
            estimate = metric.estimate(model.with_weights().model, sources.root, sources.progress)
            (folder / "estimate.json").write_text(json.dumps(estimate._asdict()))

        def read(folder: Path) -> Estimate:
            return Estimate(**json.loads((folder / "estimate.json").read_text()))

        return sources.store.cached("estimate", inputs, write, read, f"{metric.label} of {model.name}")
