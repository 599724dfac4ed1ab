"""Attention of one new token with those that are cached, rotated, as ONNX Runtime runs it in a decoder.

Keys and values stay in one place, as the decoders' sessions bind them; each layer has its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from squeeze.formats.onnx_file import onnx_bytes
from squeeze.formats.onnx_simplify import initializer
from squeeze.models.ort_session import open_session
from squeeze.targets.measure.chains import CONTRIB, OPSET
from squeeze.targets.measure.clock import Call

HEADS, CACHED_HEADS = 8, 4


def attention_call(channels: int, cached: int, layers: int, threads: int) -> Call:
    """One token through so many layers of ``HEADS`` heads.

    Args:
        channels: Of a head.
        cached: Tokens that were read before, and this one.
    """
    graph = _graph(channels, cached, layers)
    session: Any = open_session(onnx_bytes(graph), threads, "attention", int8_operators=False)
    binding = session.io_binding()
    arrays: list[np.ndarray[Any, Any]] = []
    for value in session.get_inputs():
        shape = (1, CACHED_HEADS, cached, channels) if value.name.startswith("past") else value.shape
        arrays.append(np.full(shape, 0.01, np.float32))
        _bind(binding.bind_input, value.name, arrays[-1])
        if value.name.startswith("past"):
            _bind(binding.bind_output, value.name.replace("past", "present"), arrays[-1])
    for value in session.get_outputs():
        if not value.name.startswith("present"):
            binding.bind_output(value.name)

    def call() -> object:
        session.run_with_iobinding(binding)
        return arrays

    return call


def _bind(bind: Any, name: str, array: np.ndarray[Any, Any]) -> None:
    bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)


def _graph(channels: int, cached: int, layers: int) -> ir.Model:
    floats = ir.TensorType(ir.DataType.FLOAT)
    width = (HEADS + 2 * CACHED_HEADS) * channels
    x = ir.Value(name="x", shape=ir.Shape([1, 1, width]), type=floats)
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": OPSET, CONTRIB: 1}, name="attention")
    lengths = [
        initializer(graph, "before", np.array([cached - 1], np.int32)),
        initializer(graph, "all", np.array(cached, np.int32)),
    ]
    turns = np.zeros((cached, channels // 2), np.float32)
    place = np.array([[cached - 1]], np.int64)
    tables = [initializer(graph, name, array) for name, array in (("cos", turns + 1), ("sin", turns), ("place", place))]
    attributes = {"num_heads": HEADS, "kv_num_heads": CACHED_HEADS, "do_rotary": 1}
    for layer in range(layers):
        shape = ir.Shape([1, CACHED_HEADS, f"cached{layer}", channels])
        past = [ir.Value(name=f"past.{layer}.{kind}", shape=shape, type=floats) for kind in ("key", "value")]
        graph.inputs.extend(past)
        inputs = [x, None, None, *past, *lengths, *tables]
        node = ir.node("GroupQueryAttention", inputs, attributes, domain=CONTRIB, num_outputs=3, name=f"layer{layer}")
        for value, name in zip(node.outputs, (f"y.{layer}", *[one.name for one in past]), strict=True):
            value.name, value.type = str(name).replace("past", "present"), floats
        graph.append(node)
        graph.outputs.extend(node.outputs)
    return ir.Model(graph, ir_version=10)
