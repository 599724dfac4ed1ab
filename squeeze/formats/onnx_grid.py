"""The grid of a Conv, Gemm or MatMul in an ONNX graph: integer initializers behind DequantizeLinear, and back.

Per-channel scales lie along the output channels of the weight as the operator has it. With groups, the weight lies as
the matrix ``[out, in]`` (``[in, out]`` for an operator that wants it so) and is dequantized block by block; a
convolution's gets its shape by Reshape behind that. Up to 4 bits are int4, two in a byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.formats.grid_kind import GridKind
from squeeze.formats.onnx_graph import constant, input_at, producer
from squeeze.formats.onnx_layer import LAYER_OPS, output_axis, stored_form, weight_array
from squeeze.formats.onnx_simplify import initializer

OPSET = 21  # from which on there are int4 and blocks
INT8_OPSET = 13  # from which on there is one scale per channel
WIDTHS = {ir.DataType.INT8: 8, ir.DataType.INT4: 4}
Array = np.ndarray[Any, Any]


def holds(kind: GridKind) -> str | None:
    """Why an ONNX file cannot hold such a grid; None where it can."""
    if kind.ordered:
        return "DequantizeLinear has no group per input channel (order: act_order); order: group_aware would do"
    return None


def least_opset(kind: GridKind) -> int:
    """The first operator set that has what such a grid needs."""
    return INT8_OPSET if kind.bits == 8 and kind.group_size is None else OPSET


def store_grid(node: ir.Node, grid: QuantizedTensor) -> None:
    """Put integers and DequantizeLinear in place of a node's float weight.

    Args:
        node: One of ``LAYER_OPS`` with a stored weight.
        grid: Of that weight as its matrix ``[out, in]``.
    """
    graph, name, old = node.graph, str(node.name), weight_array(node)
    assert isinstance(graph, ir.Graph)
    dtype = np.dtype(np.int8 if grid.bits == 8 else ml_dtypes.int4)
    axis = output_axis(node)
    if grid.group_size is None:
        integers, scales = stored_form(node, grid.q), [grid.scale[:, 0], grid.zero_point[:, 0]]
        attributes = {"axis": axis}
    else:
        integers, scales = _laid(grid.q, axis), [grid.scale, grid.zero_point]
        attributes = {"axis": 1 - axis, "block_size": grid.group_size}
    arrays = {
        "integers": integers.astype(dtype),
        "scale": _laid(scales[0], axis).astype(np.float32),
        "zero_point": _laid(scales[1], axis).astype(dtype),  # ORT 1.32's exact products break without zeros
    }
    parts = [initializer(graph, f"{name}.weight.{part}", array) for part, array in arrays.items()]
    real = _placed(ir.node("DequantizeLinear", parts, attributes, name=f"{name}.weight.dequantize"), integers, node)
    if integers.shape != old.shape:
        shape = initializer(graph, f"{name}.weight.shape", np.array(old.shape, dtype=np.int64))
        real = _placed(ir.node("Reshape", [real, shape], name=f"{name}.weight.reshape"), old, node)
    replaced = node.inputs[1]
    node.replace_input_with(1, real)
    if replaced is not None and not replaced.uses():
        graph.initializers.pop(str(replaced.name), None)


def stored_grid(node: ir.Node) -> QuantizedTensor | None:
    """The grid behind a node's weight, as its matrix ``[out, in]``; None where there is none that is known here."""
    dequantize = _dequantize(node)
    if dequantize is None:
        return None
    tensors = [constant(value) for value in dequantize.inputs]
    if len(tensors) < 2 or any(tensor is None for tensor in tensors[:2]) or tensors[0].dtype not in WIDTHS:  # type: ignore[union-attr]
        return None
    integers, scale, *points = (tensor.numpy() for tensor in tensors if tensor is not None)
    axis, block = output_axis(node), dequantize.attributes.get_int("block_size", 0)
    if block and (integers.ndim != 2 or dequantize.attributes.get_int("axis", 1) % 2 == axis):
        return None
    if not block and scale.ndim and dequantize.attributes.get_int("axis", 1) % integers.ndim != axis:
        return None
    q = torch.from_numpy(_matrix(integers.astype(np.int8), axis))
    scales = _per_group(scale.astype(np.float32), axis, len(q))
    zeros = _per_group(points[0].astype(np.int32), axis, len(q)) if points else torch.zeros_like(scales).int()
    symmetric = not bool(zeros.any())
    return QuantizedTensor(q, scales, zeros, WIDTHS[tensors[0].dtype], block or None, symmetric)  # type: ignore[union-attr]


def take_grids(graph: ir.Graph) -> dict[str, QuantizedTensor]:
    """Give nodes the floats that their integers stand for, and the grids apart, by node name."""
    grids: dict[str, QuantizedTensor] = {}
    for node in list(graph):
        grid = stored_grid(node) if node.op_type in LAYER_OPS else None
        if grid is None:
            continue
        grids[str(node.name)] = grid
        real = node.inputs[1]
        array = _laid(grid.dequantize(), output_axis(node))
        array = np.ascontiguousarray(array.reshape([int(size) for size in _sizes(node)]))
        node.replace_input_with(1, initializer(graph, f"{node.name}.weight", array))
        _drop(graph, producer(real))
    return grids


def store_grids(graph: ir.Graph, grids: Mapping[str, QuantizedTensor]) -> None:
    """Put the integers of some nodes back in place of their floats."""
    for node in list(graph):
        if str(node.name) in grids:
            store_grid(node, grids[str(node.name)])


def _dequantize(node: ir.Node) -> ir.Node | None:
    """The DequantizeLinear that gives the node's weight, seen through a Reshape."""
    maker = producer(input_at(node, 1))
    if maker is not None and maker.op_type == "Reshape":
        maker = producer(maker.inputs[0])
    return maker if maker is not None and maker.op_type == "DequantizeLinear" else None


def _sizes(node: ir.Node) -> list[int]:
    """The shape of the weight as the operator has it."""
    maker = producer(node.inputs[1])
    assert maker is not None
    reshaped = maker.op_type == "Reshape"
    source = constant(maker.inputs[1] if reshaped else maker.inputs[0])
    assert source is not None
    return source.numpy().tolist() if reshaped else [int(size) for size in source.shape.numpy()]


def _drop(graph: ir.Graph, node: ir.Node | None) -> None:
    """Remove what only stored a weight, from the operator back to its initializers."""
    while node is not None and not node.outputs[0].uses():
        source = node.inputs[0]
        graph.remove(node, safe=True)
        node = producer(source)


def _placed(node: ir.Node, like: Array, before: ir.Node) -> ir.Value:
    """A node's only output, a float of that shape, computed before another node."""
    out = node.outputs[0]
    out.name, out.shape, out.type = f"{node.name}d", ir.Shape(like.shape), ir.TensorType(ir.DataType.FLOAT)
    assert isinstance(before.graph, ir.Graph)
    before.graph.insert_before(before, node)
    return out


def _laid(matrix: Tensor, axis: int) -> Array:
    """``[out, ...]`` as it is, or turned where output channels come second."""
    array = matrix.numpy()
    return np.ascontiguousarray(array.T if axis else array)


def _matrix(array: Array, axis: int) -> Array:
    """``[out, in]`` of a stored weight."""
    return np.ascontiguousarray(array.T if axis else array.reshape(len(array), -1))


def _per_group(values: Array, axis: int, rows: int) -> Tensor:
    """``[out, groups]`` of scales or zero points, one per tensor spread over all channels."""
    if values.ndim < 2:
        return torch.from_numpy(np.array(np.broadcast_to(values.reshape(-1, 1), (rows, 1))))
    return torch.from_numpy(np.ascontiguousarray(values.T if axis else values))
