"""A torch model's quantized weights in its ONNX graph: the integers themselves, and the proof that they are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import EffectError
from squeeze.formats.onnx_file import onnx_bytes, parse_onnx
from squeeze.formats.onnx_grid import store_grid, stored_grid
from squeeze.formats.onnx_layer import LAYER_OPS, output_axis, weight_matrix
from squeeze.formats.onnx_simplify import drop_unused
from squeeze.models.onnx_model import OnnxModel
from squeeze.models.ort_session import open_session

Grids = Mapping[str, QuantizedTensor]


def store_weights(graph: ir.Graph, grids: Grids) -> None:
    """Put integers in place of the floats that an exporter wrote.

    Raises:
        EffectError: A weight is not in the graph, or is there with other values: the exporter changed it.
    """
    nodes = {f"{node.name}.weight": node for node in graph if node.op_type in LAYER_OPS}
    for name, grid in grids.items():
        node = nodes.get(name)
        if node is None:
            raise EffectError(f"export_onnx: the graph has no layer with the quantized weight '{name}'")
        if not torch.equal(weight_matrix(node), grid.dequantize()):
            raise EffectError(f"export_onnx: '{name}' was changed by the exporter; its integers cannot be kept")
        store_grid(node, grid)


def prove_grid(grids: Grids, exported: OnnxModel) -> list[dict[str, Any]]:
    """Read the file back, by our own reader and by ONNX Runtime, and hold each weight against its grid.

    Raises:
        EffectError: A reader sees another weight, or our own other integers or scales.
    """
    nodes = {f"{node.name}.weight": node for node in parse_onnx(exported.data, exported.source).graph}
    weights = sum(grid.q.numel() for grid in grids.values())
    for name, grid in grids.items():
        stored = stored_grid(nodes[name])
        same = stored is not None and all(
            torch.equal(getattr(stored, part), getattr(grid, part)) for part in ("q", "scale", "zero_point")
        )
        if not same:
            raise EffectError(f"export_onnx: '{name}' is read back with other integers or scales")
    for name, weight in _dequantized(exported, {name: nodes[name] for name in grids}).items():
        if differing := int((weight != grids[name].dequantize()).sum()):
            raise EffectError(f"export_onnx: ONNX Runtime sees {differing:,} other weights in '{name}'")
    facts = {"format": "DequantizeLinear", "dtype": "float32", "tensors": len(grids), "weights": weights}
    return [facts | {"reader": reader, "differing": 0} for reader in ("squeeze", "onnxruntime")]


def _dequantized(exported: OnnxModel, nodes: Mapping[str, ir.Node]) -> dict[str, Tensor]:
    """What ONNX Runtime makes of each weight, float32 ``[out, in]``: a graph of nothing else is run."""
    names = [str(node.inputs[1].name) for node in nodes.values() if node.inputs[1] is not None]
    alone = exported.copy_ir()
    values = {value.name: value for node in alone.graph for value in node.outputs if value.name in names}
    alone.graph.outputs.clear()
    alone.graph.outputs.extend(values[name] for name in names)
    drop_unused(alone)
    alone.graph.inputs.clear()
    arrays = open_session(onnx_bytes(alone), 1, exported.source).run(names, {})
    return {name: _matrix(array, output_axis(node)) for (name, node), array in zip(nodes.items(), arrays, strict=True)}


def _matrix(array: np.ndarray[Any, Any], axis: int) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.T if axis else array.reshape(len(array), -1)))
