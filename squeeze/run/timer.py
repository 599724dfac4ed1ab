"""Timings of a row: a model against the original, and against the row before where comparable."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from squeeze import registry
from squeeze.data.base import Dataset
from squeeze.evaluate.generation import GenerationMetric
from squeeze.evaluate.latency import Open, Paired, compare, paired, same_bytes, stopwatch
from squeeze.evaluate.metrics import ClockMetric, Latency, Metric
from squeeze.ledger import Score, timed_score
from squeeze.models.base import Batch, Model
from squeeze.models.language.artifact import in_runtime
from squeeze.models.tasks.base import TOKENS
from squeeze.passes.base import Context
from squeeze.plan.plan import AnyPass
from squeeze.progress import Progress
from squeeze.run.stored import StoredModel, read_model, write_model
from squeeze.store import Store
from squeeze.versions import content_digest
from squeeze.work import temporary_folder


class Timer:
    """Times models in turns with the original.

    Args:
        data: What a batch is drawn from; None: from the golden input.
    """

    def __init__(
        self, metrics: Sequence[Metric], data: Dataset | None, store: Store, progress: Progress, original: StoredModel
    ) -> None:
        self.metrics = [metric for metric in metrics if isinstance(metric, ClockMetric)]
        self.data, self.store, self.progress, self.original = data, store, progress, original
        # A/A spread in milliseconds, by metric and original
        self._against_itself: dict[tuple[str, str], tuple[float, float]] = {}
        self._digests: dict[str, str] = {}  # by a model's key in the store

    def row(self, stored: StoredModel, previous: StoredModel) -> tuple[dict[str, Score], dict[str, Any]]:
        """Scores by metric, and in milliseconds what they come from."""
        timings: dict[str, Score] = {}
        clock: dict[str, Any] = {}
        if not self.metrics or stored.model.cannot_run():
            return timings, clock
        stored, previous = stored.with_weights(), previous.with_weights()
        for metric in filter(lambda each: self._takes(each, stored), self.metrics):
            with self.progress.during(f"time {metric.label}"):
                timings[metric.label], clock[metric.label] = self._timed(metric, stored, previous)
        return timings, clock

    def _timed(self, metric: ClockMetric, stored: StoredModel, previous: StoredModel) -> tuple[Score, dict[str, Any]]:
        original = self._in_runtime_of(stored, self._as_timed(metric, self.original))
        _, original_ms = self._spread(metric, original)
        to_original = self._compared(metric, stored, original, original_ms)
        to_previous = to_original if previous.key == self.original.key else None
        if to_previous is None and self._comparable(metric, stored, previous):
            to_previous = self._compared(metric, stored, previous, to_original.new_ms)
        return timed_score(metric, to_original, to_previous), _clock(metric, to_original, to_previous)

    def _takes(self, metric: ClockMetric, stored: StoredModel) -> bool:
        """A language model that is no artifact yet is walked block by block and does not write."""
        if isinstance(metric, GenerationMetric):
            return stored.model.task.outputs == TOKENS and not stored.model.blocks
        return isinstance(metric, Latency)

    def _comparable(self, metric: ClockMetric, stored: StoredModel, previous: StoredModel) -> bool:
        """False across an export to another runtime: the ratio would measure the runtimes."""
        same = _own_writer(stored.model) == _own_writer(previous.model)
        return same and self._takes(metric, previous) and isinstance(metric, Latency)

    def _compared(self, metric: ClockMetric, new: StoredModel, old: StoredModel, known_ms: float) -> Paired:
        """The two by the clock; where both are one file, what is known of it: ``known_ms``."""
        spread, _ = self._spread(metric, self._in_runtime_of(new, self._as_timed(metric, self.original)))
        new, old = self._as_timed(metric, new), self._as_timed(metric, old)
        if self._digest(new) == self._digest(old):
            return same_bytes(known_ms, spread)
        blocks = compare(self._opens(metric, new), self._opens(metric, old), metric.seconds, metric.sessions)
        return paired(blocks, spread)

    def _spread(self, metric: ClockMetric, original: StoredModel) -> tuple[float, float]:
        """How far this host's clock is off where the original is timed against itself, measured once a run.

        Args:
            original: As it is timed: in ONNX Runtime, or in the runtime of what is timed beside it.
        """
        known = (metric.label, original.key)
        if known not in self._against_itself:
            opens = self._opens(metric, original)
            blocks = compare(opens, opens, metric.seconds, metric.sessions)
            self._against_itself[known] = blocks.spread, blocks.old_ms
        return self._against_itself[known]

    def _opens(self, metric: ClockMetric, stored: StoredModel) -> Open:
        model = stored.model
        if isinstance(metric, GenerationMetric):
            return lambda: metric.clock(in_runtime(model.reopened()))
        assert isinstance(metric, Latency)
        batch = self._batch(metric.batch)
        return lambda: stopwatch(model.reopened().runner(batch, metric.threads))

    def _batch(self, examples: int) -> Batch:
        if self.data is not None:
            return self.data.batch(self.data.typical(examples))
        golden = self.original.model.task.golden(self.original.model)
        places = torch.arange(examples) % len(golden)
        return Batch({name: tensor[places] for name, tensor in golden.inputs.items()})

    def _as_timed(self, metric: ClockMetric, stored: StoredModel) -> StoredModel:
        """A torch model as ONNX Runtime will run it: else a change of runtime would pass for a change of model."""
        model = stored.model
        if isinstance(metric, Latency) and metric.runtime == "own":
            return stored
        from squeeze.passes.export.export_onnx import ExportOnnx  # it and onnx_ir take seconds to import

        if ExportOnnx.gives(model.form) is None:
            return stored

        export: AnyPass = ExportOnnx()

        def write(folder: Path) -> None:
            write_model(folder, export.run(model, Context(progress=self.progress)), {}, {})

        read = partial(read_model, code_folder=None)
        return self.store.cached("timing export", {"model": stored.key}, write, read, "float ONNX, for timing")

    def _in_runtime_of(self, stored: StoredModel, original: StoredModel) -> StoredModel:
        """The original as a float file of the runtime that ``stored`` is for, where that is not ONNX Runtime."""
        name = _own_writer(stored.model)
        if name is None or original.model.form != "onnx":
            return original
        from squeeze.models.onnx_model import as_graph

        model = as_graph(original.model)

        def write(folder: Path) -> None:
            with temporary_folder("timing") as work:
                file = registry.load("writers", name)().write(model, work)
                runtime = registry.load("runtimes", str(stored.model.runtime))
                write_model(folder, runtime.artifact(file, model.facts, model.task), {}, {})

        inputs, read = {"model": original.key, "writer": name}, partial(read_model, code_folder=None)
        return self.store.cached("timing file", inputs, write, read, f"float {name} file, for timing")

    def _digest(self, stored: StoredModel) -> str:
        if stored.key not in self._digests:
            self._digests[stored.key] = content_digest(stored.model_folder)
        return self._digests[stored.key]


def _own_writer(model: Model) -> str | None:
    """What writes the original for the runtime of an artifact, where latency is told beside its own float file."""
    if model.runtime is None:
        return None
    writer: str | None = registry.load("runtimes", model.runtime).float_writer
    return writer


def _clock(metric: ClockMetric, to_original: Paired, to_previous: Paired | None) -> dict[str, Any]:
    """The measured times in milliseconds, and the options of the measurement."""
    before = {"previous_ms": to_previous.old_ms} if to_previous else {}
    options = metric.model_dump(mode="json", exclude={"seconds", "runtime", "sessions"})
    return {
        "new_ms": to_original.new_ms,
        "original_ms": to_original.old_ms,
        **before,
        "sessions": to_original.blocks,
        "host_spread": to_original.spread,
        **options,
    }
