"""What the clock says of a row: a model beside the original, and beside the row before it where the two compare."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from squeeze.data.base import Dataset
from squeeze.evaluate.generation import GenerationMetric
from squeeze.evaluate.latency import Paired, compare_clocks, compare_latency
from squeeze.evaluate.metrics import ClockMetric, Latency, Metric
from squeeze.ledger import Score, timed_score
from squeeze.models.base import Model
from squeeze.models.language.artifact import LanguageArtifact
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.progress import Progress
from squeeze.run.kept import Kept, read_model, write_model
from squeeze.store import Store


class Timer:
    """Times models in turns with the original.

    Args:
        data: What a batch is drawn from.
    """

    def __init__(
        self, metrics: Sequence[Metric], data: Dataset | None, store: Store, progress: Progress, original: Kept
    ) -> None:
        self.metrics = [metric for metric in metrics if isinstance(metric, ClockMetric)]
        self.data, self.store, self.progress, self.original = data, store, progress, original

    def row(self, kept: Kept, previous: Kept) -> tuple[dict[str, Score], dict[str, Any]]:
        """Scores by metric, and in milliseconds what they come from."""
        timings: dict[str, Score] = {}
        clock: dict[str, Any] = {}
        for metric in self.metrics:
            to_original = to_previous = None
            if isinstance(metric, GenerationMetric):
                to_original = self._generated(metric, kept.model)
            elif isinstance(metric, Latency) and self.data is not None:
                to_original = self._batch(metric, kept, self.original)
                same = previous.key == self.original.key
                to_previous = to_original if same else self._batch(metric, kept, previous)
            if to_original is not None:
                timings[metric.label] = timed_score(metric, to_original, to_previous)
                clock[metric.label] = _clock(metric, to_original, to_previous)
        return timings, clock

    def _generated(self, metric: GenerationMetric, model: Model) -> Paired | None:
        """None for a model that is no artifact yet: it is walked block by block and does not write."""
        if not isinstance(model, LanguageArtifact):
            return None
        old = self._in_onnx(self.original)
        assert isinstance(old, LanguageArtifact)
        return compare_clocks(metric.clock(model), metric.clock(old), metric.seconds)

    def _batch(self, metric: Latency, new: Kept, old: Kept) -> Paired:
        assert self.data is not None
        batch = self.data.batch(self.data.typical(metric.batch))
        models = [self._in_onnx(kept) if metric.runtime == "onnxruntime" else kept.model for kept in (new, old)]
        runners = [model.runner(batch, metric.threads) for model in models]
        return compare_latency(runners[0], runners[1], metric.seconds)

    def _in_onnx(self, kept: Kept) -> Model:
        """A torch model as ONNX Runtime will run it: else a change of runtime would pass for a change of model."""
        model = kept.model
        if not isinstance(model, TorchModel | LanguageModel):
            return model

        def write(folder: Path) -> None:
            write_model(folder, ExportOnnx().run(model, Context(progress=self.progress)), {}, {})

        read = partial(read_model, code_folder=None)
        return self.store.cached("timing export", {"model": kept.key}, write, read, "float ONNX, for timing").model


def _clock(metric: ClockMetric, to_original: Paired, to_previous: Paired | None) -> dict[str, Any]:
    """What this host's clock said, in milliseconds, and how it was asked."""
    before = {"previous_ms": to_previous.old_ms} if to_previous else {}
    asked = metric.model_dump(mode="json", exclude={"seconds", "runtime"})
    return {
        "new_ms": to_original.new_ms,
        "original_ms": to_original.old_ms,
        **before,
        "pairs": to_original.pairs,
        **asked,
    }
