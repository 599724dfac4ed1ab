"""Rewrite an embedding so that its table is stored as int8 with a scale per row; only the rows asked for become floats.

``Gather(table, tokens)`` becomes ``Cast(Gather(integers, tokens)) * Gather(scales, tokens)``.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.formats.onnx_graph import constant
from squeeze.formats.onnx_simplify import initializer

LEAST_VALUES = 2**14  # smallest table worth two more nodes; token types have two rows


def why_no_table(node: ir.Node) -> str | None:
    """Why a Gather's table stays float, or None where it need not."""
    table = constant(node.inputs[0])
    if table is None or table.dtype != ir.DataType.FLOAT or len(table.shape) != 2:
        return "no table of float32 rows"
    if node.attributes.get_int("axis", 0) != 0:
        return "it picks columns"
    return None if table.size >= LEAST_VALUES else f"a table of {table.size} values is too small to gain"


def table_matrix(node: ir.Node) -> Tensor:
    """float32 ``[rows, width]``."""
    table = constant(node.inputs[0])
    assert table is not None
    return torch.from_numpy(np.array(table.numpy(), dtype=np.float32))


def write_table(graph: ir.Graph, node: ir.Node, table: QuantizedTensor) -> None:
    """Replace a Gather by its integer form, in place; ``table`` has one scale per row."""
    name, tokens, old = str(node.name), node.inputs[1], node.outputs[0]
    integers = initializer(graph, f"{name}.weight.integers", table.q.numpy())
    scale = initializer(graph, f"{name}.weight.scale", table.scale.reshape(-1, 1).numpy().astype(np.float32))
    rows = ir.node("Gather", [integers, tokens], {"axis": 0}, name=name)
    scales = ir.node("Gather", [scale, tokens], {"axis": 0}, name=f"{name}.scales")
    floats = ir.node("Cast", [rows.outputs[0]], {"to": int(ir.DataType.FLOAT)}, name=f"{name}.cast")
    last = ir.node("Mul", [floats.outputs[0], scales.outputs[0]], name=f"{name}.scale")
    for inner, suffix, dtype in ((rows, "rows", ir.DataType.INT8), (floats, "floats", ir.DataType.FLOAT)):
        value = inner.outputs[0]
        value.name, value.shape, value.type = f"{name}.{suffix}", old.shape, ir.TensorType(dtype)
    scales.outputs[0].name, scales.outputs[0].type = f"{name}.row_scales", ir.TensorType(ir.DataType.FLOAT)
    last.outputs[0].shape, last.outputs[0].type = old.shape, old.type
    ir.convenience.replace_nodes_and_values(graph, node, [node], [rows, scales, floats, last], [old], [last.outputs[0]])
