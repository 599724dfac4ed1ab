"""ONNX operators without weights in MIL; both lay pictures out with channels first.

Each function adds the operations of one node and gives what they compute. What is not in the table is refused by name:
an operator that is guessed would be a wrong answer on a phone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from squeeze.errors import ModelError
from squeeze.formats.onnx_attributes import attributes, numbers, padding
from squeeze.formats.onnx_graph import constant, input_at
from squeeze.formats.onnx_options import clip_ends, mean_axes, require_softmax_of_one_axis, sliced_places
from squeeze.writers.mil.builder import Builder


@dataclass(frozen=True)
class Place:
    """Where the operations of a node are added.

    Args:
        name: Of what the node gives.
        shape: Of what the node gives.
    """

    mb: Builder
    node: ir.Node
    name: str
    shape: tuple[int, ...]


Add = Callable[[Place, Sequence[Any]], Any]  # operands are values of the builder or arrays


def _elementwise(kind: str) -> Add:
    return lambda place, reads: getattr(place.mb, kind)(x=reads[0], y=reads[1], name=place.name)


def _unary(kind: str) -> Add:
    return lambda place, reads: getattr(place.mb, kind)(x=reads[0], name=place.name)


def _beside(x: Any, **options: float) -> dict[str, Any]:
    """Numbers in the type of a value: MIL computes in one."""
    return {name: np.asarray(value, float_type(x))[()] for name, value in options.items()}


def float_type(x: Any) -> type[np.floating[Any]]:
    """Of a value of the builder."""
    from coremltools.converters.mil.mil import types

    return np.float16 if x.dtype == types.fp16 else np.float32


def _cast(place: Place, reads: Sequence[Any]) -> Any:
    kinds = {ir.DataType.FLOAT: "fp32", ir.DataType.FLOAT16: "fp16"}
    kind = kinds.get(ir.DataType(int(attributes(place.node)["to"])))
    if kind is None:
        raise ModelError(f"{place.node.name}: Cast to another type than FLOAT or FLOAT16 has no form in MIL here")
    return place.mb.cast(x=reads[0], dtype=kind, name=place.name)


def _hard_swish(place: Place, reads: Sequence[Any]) -> Any:
    ends = _beside(reads[0], alpha=1 / 6, beta=0.5)
    gate = place.mb.sigmoid_hard(x=reads[0], name=f"{place.name}__gate", **ends)
    return place.mb.mul(x=reads[0], y=gate, name=place.name)


def _hard_sigmoid(place: Place, reads: Sequence[Any]) -> Any:
    options = attributes(place.node)
    ends = _beside(reads[0], alpha=float(options.get("alpha", 0.2)), beta=float(options.get("beta", 0.5)))
    return place.mb.sigmoid_hard(x=reads[0], name=place.name, **ends)


def _clip(place: Place, reads: Sequence[Any]) -> Any:
    mb, x, (low, high) = place.mb, reads[0], clip_ends(place.node)
    if low == 0 and high == 6:
        return mb.relu6(x=x, name=place.name)
    if low == 0 and high is None:
        return mb.relu(x=x, name=place.name)
    if low is not None and high is not None:
        return mb.clip(x=x, name=place.name, **_beside(x, alpha=low, beta=high))
    if high is not None:
        return mb.minimum(x=x, name=place.name, **_beside(x, y=high))
    return mb.identity(x=x, name=place.name) if low is None else mb.maximum(x=x, name=place.name, **_beside(x, y=low))


def _softmax(place: Place, reads: Sequence[Any]) -> Any:
    require_softmax_of_one_axis(place.node)
    return place.mb.softmax(x=reads[0], axis=int(attributes(place.node).get("axis", -1)), name=place.name)


def _mean(place: Place, reads: Sequence[Any]) -> Any:
    axes, keeps = mean_axes(place.node, len(reads[0].shape))
    return place.mb.reduce_mean(x=reads[0], axes=axes, keep_dims=keeps, name=place.name)


def _pool(place: Place, reads: Sequence[Any]) -> Any:
    node, options = place.node, attributes(place.node)
    kernel = list(options["kernel_shape"])
    strides, dilations = (list(options.get(name, (1,) * len(kernel))) for name in ("strides", "dilations"))
    if options.get("ceil_mode") or any(size != 1 for size in dilations):
        raise ModelError(f"{node.name}: {node.op_type} without ceil_mode and dilations would do")
    average = node.op_type == "AveragePool"
    only = {"exclude_padding_from_average": not options.get("count_include_pad", 0)} if average else {}
    pool = place.mb.avg_pool if average else place.mb.max_pool
    pads = flat(padding(node) or [(0, 0)] * len(kernel))
    window = {"kernel_sizes": kernel, "strides": strides, "pad_type": "custom", "pad": pads, "ceil_mode": False}
    return pool(x=reads[0], name=place.name, **window, **only)


def flat(pads: Sequence[tuple[int, int]]) -> list[int]:
    """Before and behind each axis, one after the other."""
    return [size for pair in pads for size in pair]


def _reshape(place: Place, reads: Sequence[Any]) -> Any:
    """Reshape, Flatten, Squeeze, Unsqueeze: the numbers stay in order."""
    return place.mb.reshape(x=reads[0], shape=list(place.shape), name=place.name)


def _transpose(place: Place, reads: Sequence[Any]) -> Any:
    order = attributes(place.node).get("perm") or list(reversed(range(len(reads[0].shape))))
    return place.mb.transpose(x=reads[0], perm=list(order), name=place.name)


def _pad(place: Place, reads: Sequence[Any]) -> Any:
    """With a constant; a Pad of integers fills with their zero point, which stands for 0."""
    node = place.node
    mode, pads = attributes(node).get("mode", "constant"), numbers(node, 1, "pads") or []
    fill = constant(input_at(node, 2))
    if mode != "constant" or min(pads, default=0) < 0 or len(pads) != 2 * len(reads[0].shape):
        raise ModelError(f"{node.name}: Pad with mode {mode}; constants added to any of all axes would do")
    integers = fill is not None and fill.dtype in (ir.DataType.INT8, ir.DataType.UINT8)
    value = _beside(reads[0], constant_val=0.0 if fill is None or integers else float(fill.numpy().reshape(())))
    ends = flat([*zip(pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True)])
    return place.mb.pad(x=reads[0], pad=ends, mode="constant", name=place.name, **value)


def _slice(place: Place, reads: Sequence[Any]) -> Any:
    places = sliced_places(place.node, reads[0].shape)
    if not all(places):
        raise ModelError(f"{place.node.name}: Slice that leaves nothing; at least one place of each axis would do")
    bounds = {"begin": "start", "end": "stop", "stride": "step"}
    parts = {name: [getattr(each, part) for each in places] for name, part in bounds.items()}
    return place.mb.slice_by_index(x=reads[0], name=place.name, **parts)


def _concat(place: Place, reads: Sequence[Any]) -> Any:
    return place.mb.concat(values=list(reads), axis=int(attributes(place.node)["axis"]), name=place.name)


KEEPS_GRID = frozenset(
    ("MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Pad", "Slice", "Concat", "Identity")
)
"""Operators that a graph may have on integers: what they give lies on the grid that they take."""
ALL_OPERANDS = frozenset(("Add", "Sub", "Mul", "Div", "Concat", "MatMul"))
"""Operators whose inputs are all operands; of others the first is, and the rest are options."""
OPERATORS: Mapping[str, Add] = {
    "Add": _elementwise("add"),
    "Sub": _elementwise("sub"),
    "Mul": _elementwise("mul"),
    "Div": _elementwise("real_div"),
    "MatMul": _elementwise("matmul"),
    **{name: _unary(name.lower()) for name in ("Relu", "Sigmoid", "Tanh", "Identity")},
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Cast": _cast,
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
