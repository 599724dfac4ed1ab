"""ONNX operators without weights in ``.tflite``: which kernel, which options, in which layout.

Each function adds the operators of one node and gives its output. What is not in the table is refused by name: an
operator that is guessed would be a wrong answer on a phone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import onnx_ir as ir

from squeeze.errors import ModelError
from squeeze.formats.onnx_attributes import attributes, numbers, padding, value_sizes
from squeeze.formats.onnx_graph import constant, input_at
from squeeze.formats.onnx_options import mean_axes, sliced_places
from squeeze.formats.onnx_step import Step
from squeeze.writers.tflite.layers import padded
from squeeze.writers.tflite.values import LAST, PLACE, Value, Values

Add = Callable[[Values, ir.Node, Sequence[Value], Step | None], Value]
FIXED = {"Sigmoid": Step(1 / 256, -128), "Softmax": Step(1 / 256, -128), "Tanh": Step(1 / 128, 0)}
"""Grids that integer kernels give, whatever the graph has."""


def _elementwise(
    kind: str, options: str, values: Values, node: ir.Node, reads: Sequence[Value], step: Step | None
) -> Value:
    """Two operands, each broadcast to the other."""
    rank = len(value_sizes(node.outputs[0]))
    last = rank == 4 and any(read.last for read in reads)
    if any(len(read.shape) != rank and (last or len(read.shape) == 4) for read in reads):
        raise ModelError(f"{node.name}: {node.op_type} of values with different numbers of axes; equal ones would do")
    computed = iter([values.turned(read, last) for read in reads])
    inputs = [value for value in node.inputs if value is not None]
    operands = [values.stored(v, last, rank) if constant(v) is not None else next(computed) for v in inputs]
    out = values.new(node.outputs[0], last, step)
    values.file.operator(kind, [operand.index for operand in operands], [out.index], options)
    return out


def _unary(kind: str, values: Values, node: ir.Node, reads: Sequence[Value], step: Step | None) -> Value:
    """One operand, any layout."""
    out = values.new(node.outputs[0], reads[0].last, step)
    values.file.operator(kind, [reads[0].index], [out.index])
    return out


def _clip(values: Values, node: ir.Node, reads: Sequence[Value], step: Step | None) -> Value:
    kind = activation_of(node)
    if kind is None:
        raise ModelError(f"{node.name}: Clip to other bounds than 0 .. 6, or 0 and above, has no form in .tflite here")
    return _unary(kind, values, node, reads, step)


def _softmax(values: Values, node: ir.Node, reads: Sequence[Value], step: Step | None) -> Value:
    rank = len(reads[0].shape)
    if int(attributes(node).get("axis", -1)) % rank != rank - 1:
        raise ModelError(f"{node.name}: Softmax over the last axis would do")
    source = values.turned(reads[0], last=False)
    out = values.new(node.outputs[0], False, step)
    values.file.operator("SOFTMAX", [source.index], [out.index], "SoftmaxOptions", beta=1.0)
    return out


def _mean(values: Values, node: ir.Node, reads: Sequence[Value], step: Step | None) -> Value:
    rank = len(reads[0].shape)
    axes, keeps = mean_axes(node, rank)
    axes = [axis % rank for axis in axes]
    source = reads[0] if keeps else values.turned(reads[0], last=axes == [2, 3] and reads[0].last)
    places = [PLACE[axis] if source.last else axis for axis in axes]
    out = values.new(node.outputs[0], source.last and keeps, step)
    numbers_of = values.file.constant(f"{node.name}.axes", np.array(places, np.int32))
    values.file.operator("MEAN", [source.index, numbers_of], [out.index], "ReducerOptions", keepDims=keeps)
    return out


def _pool(values: Values, node: ir.Node, reads: Sequence[Value], step: Step | None) -> Value:
    options = attributes(node)
    kernel = tuple(options["kernel_shape"])
    strides, dilations = (tuple(options.get(name, (1,) * len(kernel))) for name in ("strides", "dilations"))
    average, pads = node.op_type == "AveragePool", any(map(any, padding(node)))
    counts_zeros = average and bool(options.get("count_include_pad", 0))
    if len(kernel) != 2 or options.get("ceil_mode") or any(size != 1 for size in dilations):
        raise ModelError(f"{node.name}: {node.op_type} over two axes, without ceil_mode and dilations, would do")
    source = values.turned(reads[0], last=True)
    source, same = padded(values, node, source, kernel, strides, dilations, explicit=counts_zeros)
    if pads and not same and not counts_zeros:
        raise ModelError(f"{node.name}: {node.op_type} with such padding has no form in .tflite here; none would do")
    out = values.new(node.outputs[0], True, step)
    fields = {"filterHeight": kernel[0], "filterWidth": kernel[1], "padding": 0 if same else 1}
    fields |= {"strideH": strides[0], "strideW": strides[1]}
    kind = "AVERAGE_POOL_2D" if average else "MAX_POOL_2D"
    values.file.operator(kind, [source.index], [out.index], "Pool2DOptions", **fields)
    return out


def _reshape(values: Values, node: ir.Node, reads: Sequence[Value], step: Step | None) -> Value:
    """Reshape, Flatten, Squeeze, Unsqueeze: the numbers stay in ONNX's order."""
    source, shape = reads[0], value_sizes(node.outputs[0])
    one_place = len(source.shape) == 4 and source.shape[2:] == (1, 1)
    source = source if one_place else values.turned(source, last=False)
    out = values.new(node.outputs[0], False, step, source.dtype)
    values.move("RESHAPE", source.index, out.index, shape)
    return out


def _transpose(values: Values, node: ir.Node, reads: Sequence[Value], step: Step | None) -> Value:
    source = values.turned(reads[0], last=False)
    order = attributes(node).get("perm") or list(reversed(range(len(source.shape))))
    out = values.new(node.outputs[0], False, step, source.dtype)
    values.move("TRANSPOSE", source.index, out.index, list(order), "TransposeOptions")
    return out


def _pad(values: Values, node: ir.Node, reads: Sequence[Value], step: Step | None) -> Value:
    """Zeros; integers are filled with their zero point by the kernel itself."""
    mode, pads, source = attributes(node).get("mode", "constant"), numbers(node, 1, "pads") or [], reads[0]
    fill = constant(input_at(node, 2))
    zero = source.step is not None or fill is None or not np.any(fill.numpy())
    if mode != "constant" or not zero or min(pads, default=0) < 0 or len(pads) != 2 * len(source.shape):
        raise ModelError(f"{node.name}: Pad with mode {mode}; zeros added to any of all axes would do")
    ends = np.array(pads).reshape(2, -1).T
    out = values.new(node.outputs[0], source.last, step)
    values.move("PAD", source.index, out.index, ends[list(LAST)] if source.last else ends, "PadOptions")
    return out


def _slice(values: Values, node: ir.Node, reads: Sequence[Value], step: Step | None) -> Value:
    source, places = reads[0], sliced_places(node, reads[0].shape)
    places = [places[axis] for axis in LAST] if source.last else places
    out = values.new(node.outputs[0], source.last, step, source.dtype)
    lists = {part: [getattr(each, part) for each in places] for part in ("start", "stop", "step")}
    parts = [values.file.constant(f"{node.name}.{name}", np.array(each, np.int32)) for name, each in lists.items()]
    values.file.operator("STRIDED_SLICE", [source.index, *parts], [out.index], "StridedSliceOptions")
    return out


def _concat(values: Values, node: ir.Node, reads: Sequence[Value], step: Step | None) -> Value:
    if len(reads) != len(node.inputs):
        raise ModelError(f"{node.name}: Concat with a constant has no form in .tflite here; computed values would do")
    last = any(read.last for read in reads)
    parts = [values.turned(read, last) for read in reads]
    parts = [values.on_step(part, step) if step else part for part in parts]
    axis = int(attributes(node)["axis"]) % len(reads[0].shape)
    out = values.new(node.outputs[0], last, step)
    inputs, place = [part.index for part in parts], PLACE[axis] if last else axis
    values.file.operator("CONCATENATION", inputs, [out.index], "ConcatenationOptions", axis=place)
    return out


def activation_of(node: ir.Node) -> str | None:
    """What kernels call an activation that other operators can apply themselves; None: it is none of these."""
    if node.op_type == "Relu":
        return "RELU"
    if node.op_type != "Clip":
        return None
    low, high = (*node.inputs[1:3], None, None)[:2]
    ends = [constant(value) for value in (low, high) if value is not None]
    if low is None or any(end is None for end in ends):  # the last: computed
        return None
    return {(0.0,): "RELU", (0.0, 6.0): "RELU6"}.get(tuple(float(end.numpy()) for end in ends if end is not None))


ACTIVATES = frozenset(("Conv", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div"))
"""Operators whose kernels apply an activation to what they give."""
KEEPS_GRID = frozenset(
    ("MaxPool", "AveragePool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Pad", "Slice")
)
"""Operators whose integer kernels give integers of the grid that they take."""
OPERATORS: Mapping[str, Add] = {
    **{name: partial(_elementwise, name.upper(), f"{name}Options") for name in ("Add", "Sub", "Mul", "Div")},
    "Relu": partial(_unary, "RELU"),
    "Sigmoid": partial(_unary, "LOGISTIC"),
    "Tanh": partial(_unary, "TANH"),
    "HardSwish": partial(_unary, "HARD_SWISH"),
    "Clip": _clip,
    "Softmax": _softmax,
    **dict.fromkeys(("GlobalAveragePool", "ReduceMean"), _mean),
    **dict.fromkeys(("AveragePool", "MaxPool"), _pool),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    "Transpose": _transpose,
    "Pad": _pad,
    "Slice": _slice,
    "Concat": _concat,
}
