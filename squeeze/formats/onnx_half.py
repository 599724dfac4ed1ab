"""float16 in an ONNX graph: as storage only, or for the arithmetic too."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from squeeze.formats.onnx_graph import WEIGHTED_OPS
from squeeze.formats.onnx_simplify import drop_unused, initializer

LEAST_VALUES = 32  # below, a Cast node takes more bytes than it saves


def halve_weights(graph: ir.Graph, names: set[str]) -> int:
    """Store the weights of the named nodes as float16 behind a Cast to float32; returns how many tensors."""
    cast: dict[str, ir.Value] = {}
    for node in list(graph):
        if node.op_type not in WEIGHTED_OPS or str(node.name) not in names:
            continue
        for index, value in enumerate(node.inputs):
            if value is not None and _is_float_weight(value) and value.const_value.size >= LEAST_VALUES:  # type: ignore[union-attr]
                key = str(value.name)
                if key not in cast:
                    cast[key] = _cast_back(graph, node, value)
                node.replace_input_with(index, cast[key])
    drop_unused(graph)
    return len(cast)


def compute_half(graph: ir.Graph) -> int:
    """Turn all floats of the graph into float16; inputs and outputs stay float32. Returns how many tensors."""
    first, last = graph[0], graph[-1]
    count = 0
    for value in list(graph.initializers.values()):
        if _is_float_weight(value):
            assert value.const_value is not None
            value.const_value = ir.Tensor(_half(value.const_value.numpy()), name=value.name)
            value.type = ir.TensorType(ir.DataType.FLOAT16)
            count += 1
    _retype(graph)
    for value in graph.inputs:
        if value.dtype == ir.DataType.FLOAT:
            cast = _cast(value, ir.DataType.FLOAT16, f"{value.name}.half")
            graph.insert_before(first, cast)
            ir.convenience.replace_all_uses_with(value, cast.outputs[0])
            cast.replace_input_with(0, value)
    for index, value in enumerate(list(graph.outputs)):
        if value.dtype == ir.DataType.FLOAT16:
            name = str(value.name)
            value.name = f"{name}.half"
            cast = _cast(value, ir.DataType.FLOAT, name)
            graph.insert_after(last, cast)
            graph.outputs[index] = cast.outputs[0]
    return count


def _retype(graph: ir.Graph) -> None:
    for node in graph:
        for value in node.outputs:
            if value.dtype == ir.DataType.FLOAT:
                value.type = ir.TensorType(ir.DataType.FLOAT16)
        if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT16)


def _is_float_weight(value: ir.Value) -> bool:
    return value.is_initializer() and value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT


def _cast_back(graph: ir.Graph, node: ir.Node, value: ir.Value) -> ir.Value:
    assert value.const_value is not None
    half = initializer(graph, f"{value.name}.half", _half(value.const_value.numpy()))
    cast = _cast(half, ir.DataType.FLOAT, f"{value.name}.float")
    graph.insert_before(node, cast)
    return cast.outputs[0]


def _cast(value: ir.Value, to: ir.DataType, name: str) -> ir.Node:
    cast = ir.node("Cast", [value], {"to": int(to)}, name=f"{name}.cast")
    cast.outputs[0].name, cast.outputs[0].shape, cast.outputs[0].type = name, value.shape, ir.TensorType(to)
    return cast


def _half(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Infinite bounds (a Clip's) stay infinite; finite ones that do not fit become the largest that does."""
    limit = np.finfo(np.float16).max
    return np.where(np.isfinite(array), np.clip(array, -limit, limit), array).astype(np.float16)
