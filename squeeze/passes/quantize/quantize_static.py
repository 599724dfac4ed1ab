"""Static int8 for ONNX: ranges from calibration data, integer weights, integer activations.

What becomes an integer is decided by ``formats.onnx_scheme``, how a range is chosen by ``algorithms.ranges``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import onnx_ir as ir
import torch
from annotated_types import Gt, Le
from pydantic import model_validator
from torch import Tensor

from squeeze.algorithms.affine import Grid, QuantizedTensor, activation_grid, quantize_symmetric, symmetric_scale
from squeeze.algorithms.ranges import Method, choose_range
from squeeze.errors import EffectError, ModelError
from squeeze.formats.grid_kind import GridKind
from squeeze.formats.onnx_entry import slow_entry
from squeeze.formats.onnx_grid import store_grids, stored_grid, take_grids
from squeeze.formats.onnx_layer import LAYER_OPS, bias_vector, weight_matrix
from squeeze.formats.onnx_qdq import LayerWeights, hold_bias, write_qdq
from squeeze.formats.onnx_scheme import Scheme, plan_scheme
from squeeze.formats.onnx_simplify import simplify
from squeeze.models.base import FULLY, Model
from squeeze.models.onnx_model import OnnxModel
from squeeze.models.options import Unused
from squeeze.models.ort_session import Feed, feed
from squeeze.passes.base import Context, Pass, Preview
from squeeze.passes.effort import USUAL_WIDTH, Amount, Work
from squeeze.passes.quantize.int8_sizes import QDQ_BYTES, saved_bytes
from squeeze.passes.quantize.onnx_coverage import Coverage, measure_coverage
from squeeze.passes.quantize.onnx_ranges import collect_histograms
from squeeze.passes.quantize.onnx_rounding import round_layer
from squeeze.passes.quantize.onnx_walk import Array, Rounding, Walk
from squeeze.passes.quantize.selection import select, selection_faults

WALK_BYTES = 96 * 2**20  # bytes of the largest activation over all examples that run together
FLOAT_BYTES = 4
RANGE_VALUES = 160 * 2 * 4096 * 4  # numbers read and written to choose a range: candidates, bins, steps of each
HISTOGRAM_STEPS = 48  # times that a value is read or written until it is counted in a histogram


class QuantizeStatic(Pass[OnnxModel, OnnxModel]):
    """Compute on integers: ranges of activations from calibration data, weights of 8 bits.

    Weights that another pass has quantized (rtn, gptq: bits 8, group_size null) keep their integers; all others are
    rounded here.

    Each layer's bias is moved so that its output keeps its mean: on networks with depthwise convolutions that is the
    difference between usable and not.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"calibration"})
    leaves: ClassVar[frozenset[str]] = frozenset({"quantized", FULLY})
    refuses: ClassVar[frozenset[str]] = frozenset({FULLY, "float16"})
    promises: ClassVar[frozenset[str]] = frozenset({"fewer_bytes", "weights_changed"})

    method: Method = "mse"
    """How the range of an activation follows from what calibration saw."""
    percent: Annotated[float, Gt(50), Le(100)] = 99.99
    """For method percentile: share of values that is not clipped."""
    per_channel: bool = True
    """One scale per output channel; false: one per weight tensor, which ruins depthwise convolutions."""
    bias_correction: bool = True
    """Correct the mean error of quantized weights in the biases."""
    rounding: Literal["nearest", "gptq"] = "nearest"
    """gptq: each layer's integers are chosen on the inputs that the integers before it give, towards its float outputs:
    nearer to the original than nearest, for a few times the time of the walk that corrects biases."""
    activations: Literal["auto", "uint8", "int8"] = "auto"
    """Integer type of activations; auto: the one that target_cpu has the faster kernels for."""
    target_cpu: Literal["x86", "x86_avx2", "arm"] = "x86"
    """x86_avx2 (no VNNI): weights of 7 bits, since sums would overflow."""
    entry: Literal["auto", "float", "int8"] = "auto"
    """First layers: float where x86's float kernels beat the integer ones; auto: measured by their shapes."""
    include: tuple[str, ...] = ("*",)
    """Layers to change, by name."""
    exclude: tuple[str, ...] = ()
    """Layers to leave as they are."""

    @model_validator(mode="after")
    def _biases_take_the_mean(self) -> Self:
        if self.rounding == "gptq" and not (self.per_channel and self.bias_correction):
            raise ValueError("rounding: gptq goes with per_channel: true and bias_correction: true")
        return self

    @property
    def signed(self) -> bool:
        return self.activations == "int8" or (self.activations == "auto" and self.target_cpu == "arm")

    @property
    def weight_bits(self) -> int:
        """Without VNNI, two products of 8 by 8 bits overflow the 16 bits that they are added in."""
        return 7 if self.target_cpu == "x86_avx2" and not self.signed else 8

    def run(self, model: OnnxModel, context: Context) -> OnnxModel:
        """Plan, calibrate, round, write, and look at what the runtime makes of it."""
        graph_model = model.copy_ir()
        simplify(graph_model)
        stored = take_grids(graph_model.graph)
        prepared = OnnxModel(graph_model, model.source)
        scheme = self._scheme(graph_model.graph)
        ranges = self.calibrate(prepared, scheme, context)
        weights = self._weights(graph_model.graph, scheme, ranges, stored)
        if self.bias_correction and model.fixed_batch != 1:
            rounding = self._on_inputs(stored) if self.rounding == "gptq" else None
            walk = Walk(graph_model, scheme, ranges, _examples(prepared, context), context.threads, rounding)
            weights = walk.correct_biases(weights, context.progress)
        written = prepared.copy_ir()
        write_qdq(written, scheme, ranges, weights)
        store_grids(written.graph, {name: grid for name, grid in stored.items() if name not in weights})
        _require_same_grids(written.graph, stored)
        quantized = model.with_graph(written)
        quantized.ranges = ranges
        coverage = measure_coverage(graph_model.graph, quantized, scheme.skipped, self.target_cpu == "arm")
        _require_coverage(graph_model.graph, scheme, coverage)
        context.facts.update(coverage.facts())
        return quantized

    def work(self, model: Model, data: Amount | None) -> Work | None:
        """Every example once through the float graph, all values into histograms; then a walk with both streams."""
        macs, operations = model.macs(), model.operations()
        if data is None or macs is None or operations is None or not model.takes_images():
            return None
        values = sum(one.values for one in operations)
        largest = FLOAT_BYTES * max((one.values for one in operations), default=1) // 2
        walked = 2 * min(data.examples, WALK_BYTES // max(largest, 1)) if self.bias_correction else 0
        steps = HISTOGRAM_STEPS * data.examples + walked
        ranges = RANGE_VALUES * len(operations)
        return Work({USUAL_WIDTH: macs * (data.examples + walked)}, alone=steps * values + ranges)

    def faults(self, model: Model) -> Iterator[str]:
        yield from selection_faults(_layer_names(model), self.include, self.exclude)
        if self.rounding == "gptq" and model.fixed_batch == 1:
            yield "rounding: gptq needs many examples at once, and the graph takes one; rounding: nearest would do"

    def warnings(self, model: Model) -> Iterator[str]:
        if self.bias_correction and model.fixed_batch == 1:
            yield "bias_correction: the graph takes one example at a time, whose mean says too little: biases stay"

    def promised(self, before: Model) -> frozenset[str]:
        """Weights that are integers already do not get smaller."""
        return self.promises - ({"fewer_bytes"} if "quantized" in before.marks() else set())

    def grid_faults(self, grid: Mapping[str, GridKind], model: Model | None = None) -> Iterator[str]:
        names = {name.removesuffix(".weight"): kind for name, kind in grid.items()}
        for name in select(names, self.include, self.exclude):
            if fault := self._misfit(names[name]):
                yield f"{self.name}: {name}: {fault}"
                return  # one message is enough

    def unused(self, model: Model, grid: Mapping[str, GridKind] | None) -> Iterator[Unused]:
        if self.method != "percentile":
            yield Unused("percent", f"goes with method: percentile; method is {self.method}")
        if not any("Conv" in layer.kind for layer in model.layers()):
            yield Unused("entry", "is of convolutions, and the model has none: leave it out")

    def preview(self, model: Model, before: Preview) -> Preview:
        chosen = set(select(_layer_names(model), self.include, self.exclude))
        rounded = chosen - {name.removesuffix(".weight") for name in before.grid}
        saved = sum(saved_bytes(layer, QDQ_BYTES) for layer in model.layers() if layer.name in rounded)
        touched = tuple(layer.name for layer in model.layers() if layer.name in chosen)
        return Preview(touched, before.parameters, before.nbytes - saved, before.macs, exact=False)

    def _scheme(self, graph: ir.Graph) -> Scheme:
        names = [str(node.name) for node in graph if node.op_type in LAYER_OPS]
        wrong = list(selection_faults(names, self.include, self.exclude))
        if wrong:
            raise ModelError(f"{self.name}: {wrong[0]}")
        left_out = dict.fromkeys(names, "left out by include / exclude")
        for name in select(names, self.include, self.exclude):
            del left_out[name]
        if self.entry == "float" or (self.entry == "auto" and self.target_cpu != "arm"):
            left_out |= {name: "an entry layer, faster as float" for name in slow_entry(graph) if name not in left_out}
        scheme = plan_scheme(graph, left_out)
        if not scheme.layers:
            reason = next(iter(scheme.skipped.values()), "the graph has no Conv, Gemm or MatMul")
            raise EffectError(f"{self.name}: no layer can be quantized: {reason}")
        return scheme

    def calibrate(self, model: OnnxModel, scheme: Scheme, context: Context) -> dict[str, Grid]:
        """The grid of every activation that becomes integers, by name: what the model's ``ranges`` are."""
        histograms = collect_histograms(model, scheme.roots, context.calibration, context.threads, context.progress)
        ranges = {name: choose_range(h, self.method, self.percent) for name, h in histograms.items()}
        if self.method != "minmax" and all(ranges[name] == (h.low, h.high) for name, h in histograms.items()):
            raise EffectError(
                f"{self.name}: method {self.method} chose the very ranges of minmax for all {len(ranges)} activations; "
                "method minmax does the same faster"
            )
        return {name: activation_grid(low, high, self.signed) for name, (low, high) in ranges.items()}

    def _weights(
        self, graph: ir.Graph, scheme: Scheme, ranges: dict[str, Grid], stored: dict[str, QuantizedTensor]
    ) -> dict[str, LayerWeights]:
        """On the grid that a pass before has given, else rounded to nearest."""
        chosen = {}
        for node in graph:
            name = str(node.name)
            if name in scheme.layers:
                bias, source = bias_vector(node), ranges[scheme.root[str(node.inputs[0].name)]]  # type: ignore[union-attr]
                if name in stored and (fault := self._misfit(GridKind.of(stored[name]))):
                    raise ModelError(f"{self.name}: {name}: {fault}")
                weight = stored[name] if name in stored else self._rounded(weight_matrix(node))
                chosen[name] = LayerWeights(hold_bias(weight, bias, source.scale), bias)
        return chosen

    def _rounded(self, matrix: Tensor) -> QuantizedTensor:
        scale = None if self.per_channel else symmetric_scale(matrix.reshape(1, -1), self.weight_bits)
        return quantize_symmetric(matrix, self.weight_bits, scale=scale)

    def _on_inputs(self, stored: Mapping[str, QuantizedTensor]) -> Rounding:
        """Rounds by gptq where no pass before has chosen the integers."""

        def choose(node: ir.Node, nearest: QuantizedTensor, given: Array, original: Array) -> QuantizedTensor:
            if str(node.name) in stored:
                return nearest
            return round_layer(node, given, original, self.weight_bits)

        return choose

    def _misfit(self, kind: GridKind) -> str | None:
        """Why integer kernels cannot multiply with such a grid; None where they can."""
        if (kind.bits, kind.group_size, kind.symmetric) != (8, None, True):
            groups = "" if kind.group_size is None else f" in groups of {kind.group_size} weights"
            what = f"its weights have {kind.bits} bits{groups}{'' if kind.symmetric else ' and zero points'}"
            return f"{what}; integer kernels take bits: 8, group_size: null, symmetric: true; so does exclude here"
        if self.weight_bits < 8:
            return f"its weights have 8 bits, and {self.target_cpu} takes 7; quantize_static alone would round to them"
        return None


def _layer_names(model: Model) -> list[str]:
    return [layer.name for layer in model.layers() if layer.kind in {*LAYER_OPS, "Linear", "Conv1d", "Conv2d"}]


def _examples(model: OnnxModel, context: Context) -> Feed:
    """As many calibration examples, evenly spread, as walk through the graph together, or as many as it takes."""
    data = context.calibration
    values = [value for node in model.ir.graph for value in node.outputs]
    sizes = [[size for size in (value.shape or ())[1:] if isinstance(size, int)] for value in values]
    largest = max(4 * int(np.prod(size)) for size in sizes)
    count = model.fixed_batch or max(1, min(len(data), WALK_BYTES // largest))
    return feed(model.inputs, data.batch(np.linspace(0, len(data) - 1, count).astype(np.int64)), model.source)


def _require_same_grids(graph: ir.Graph, stored: Mapping[str, QuantizedTensor]) -> None:
    """Raise ``EffectError`` where weights that were quantized before have changed: a bias did not fit into 32 bits."""
    for node in graph:
        was, now = stored.get(str(node.name)), stored_grid(node) if str(node.name) in stored else None
        if was is not None and not (now and torch.equal(now.q, was.q) and torch.equal(now.scale, was.scale)):
            what = "its bias is too large for the scale of its weights, which would have to change"
            raise EffectError(f"quantize_static: {node.name}: {what}; exclude would leave it as it is")


def _require_coverage(graph: ir.Graph, scheme: Scheme, coverage: Coverage) -> None:
    """Raise ``EffectError`` unless every node that the scheme made integer is one for the runtime too."""
    planned: dict[str, int] = {}
    names = {*scheme.layers, *scheme.combining}
    for node in graph:
        planned[node.op_type] = planned.get(node.op_type, 0) + (str(node.name) in names)
    for kind, (count, _) in coverage.counts.items():
        if count < planned[kind]:
            raise EffectError(
                f"quantize_static: ONNX Runtime runs {count} of {planned[kind]} quantized {kind} operators on integers"
            )
