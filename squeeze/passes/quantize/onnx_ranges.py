"""Run the float graph on calibration data and note how its values are spread, in constant memory."""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from squeeze.algorithms.ranges import Histogram
from squeeze.data.base import Dataset
from squeeze.errors import DataError
from squeeze.formats.onnx_file import onnx_bytes
from squeeze.models.onnx_model import OnnxModel
from squeeze.models.ort_session import feed, fitting, open_session
from squeeze.progress import Progress

RESIDENT_BYTES = 128 * 2**20  # bytes of exposed values per batch


def collect_histograms(
    model: OnnxModel, names: list[str], data: Dataset, threads: int, progress: Progress
) -> dict[str, Histogram]:
    """One histogram per named value, over all calibration examples.

    Raises:
        DataError: There is nothing to calibrate on.
    """
    if not len(data):
        raise DataError(f"{data.name}: no calibration examples")
    inputs = [spec.name for spec in model.inputs if spec.name in names]
    inner = [name for name in names if name not in inputs]
    exposed, size = _expose(model, inner)
    session = open_session(onnx_bytes(exposed), threads, model.source)
    histograms = {name: Histogram() for name in names}
    batches = data.batches(size)
    for batch in progress.track(batches, "calibrating", -(-len(data) // size)):
        arrays = feed(model.inputs, batch, model.source)
        for name in inputs:
            histograms[name].add(arrays[name])
        for part in fitting(arrays, len(batch), model.fixed_batch) if inner else ():
            for name, array in zip(inner, session.run(inner, part), strict=True):
                histograms[name].add(array)
    return histograms


def _expose(model: OnnxModel, names: list[str]) -> tuple[ir.Model, int]:
    """The graph with these values as further outputs, and how many examples may go through it at once."""
    exposed = model.copy_ir()
    already = {value.name for value in exposed.graph.outputs}
    values = [value for node in exposed.graph for value in node.outputs if value.name in names]
    exposed.graph.outputs.extend(value for value in values if value.name not in already)
    per_example = sum(4 * _size(value) for value in values) or 1
    return exposed, max(1, min(32, RESIDENT_BYTES // per_example))


def _size(value: ir.Value) -> int:
    """Elements of one example, as far as known."""
    return prod(size for size in (value.shape or ())[1:] if isinstance(size, int))
