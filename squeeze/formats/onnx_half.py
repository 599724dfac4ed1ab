"""float16 in an ONNX graph: as storage only, or for the arithmetic too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir

from squeeze.formats.onnx_graph import WEIGHTED_OPS
from squeeze.formats.onnx_simplify import drop_unused, initializer

TRANSFORMERS = "onnxruntime.transformers"
LEAST_VALUES = 32  # with fewer values a Cast node takes more bytes than it saves


def halve_weights(model: ir.Model, names: set[str]) -> int:
    """Store the weights of the named nodes as float16 behind a Cast to float32; returns how many tensors."""
    graph, cast = model.graph, dict[str, ir.Value]()
    for node in list(graph):
        if node.op_type not in WEIGHTED_OPS or str(node.name) not in names:
            continue
        for index, value in enumerate(node.inputs):
            if value is not None and _is_float_weight(value) and value.const_value.size >= LEAST_VALUES:  # type: ignore[union-attr]
                key = str(value.name)
                if key not in cast:
                    cast[key] = _cast_back(graph, node, value)
                node.replace_input_with(index, cast[key])
    drop_unused(model)
    return len(cast)


def compute_half(model: ir.Model) -> tuple[ir.Model, int]:
    """All floats of the graph as float16; inputs and outputs stay float32. Gives also how many tensors were turned."""
    count = sum(_is_float_weight(value) for value in model.graph.initializers.values())
    if not count:
        return model, 0
    with _same_module_path():
        from onnxruntime.transformers.float16 import convert_float_to_float16
    halved = ir.from_proto(convert_float_to_float16(ir.to_proto(model), keep_io_types=True, op_block_list=[]))
    halved.graph.sort()
    return halved, count


@contextmanager
def _same_module_path() -> Iterator[None]:
    """``onnxruntime.transformers`` appends its folder, whose modules have everyday names, to ``sys.path``.

    ``onnxruntime.quantization`` finds modules there, so whoever imports that later has the package imported anew.
    """
    before, ours = list(sys.path), TRANSFORMERS not in sys.modules
    try:
        yield
    finally:
        sys.path[:] = before
        if ours:
            sys.modules.pop(TRANSFORMERS, None)


def _is_float_weight(value: ir.Value) -> bool:
    return value.is_initializer() and value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT


def _cast_back(graph: ir.Graph, node: ir.Node, value: ir.Value) -> ir.Value:
    assert value.const_value is not None
    half = initializer(graph, f"{value.name}.half", _half(value.const_value.numpy()))
    cast = ir.node("Cast", [half], {"to": int(ir.DataType.FLOAT)}, name=f"{value.name}.float.cast")
    real = cast.outputs[0]
    real.name, real.shape, real.type = f"{value.name}.float", half.shape, ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(node, cast)
    return real


def _half(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Infinite bounds (a Clip's) stay infinite; finite ones that do not fit become the largest that does."""
    limit = np.finfo(np.float16).max
    return np.where(np.isfinite(array), np.clip(array, -limit, limit), array).astype(np.float16)
