"""Attention of one new token with those that are cached, rotated, as ONNX Runtime runs it in a decoder.

Keys and values stay in one place, as the decoders' sessions bind them; each layer has its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from squeeze.formats.onnx_file import onnx_bytes
from squeeze.formats.onnx_simplify import initializer
from squeeze.measure.chains import CONTRIB, OPSET
from squeeze.measure.clock import Call
from squeeze.models.ort_session import open_session

HEADS, CACHED_HEADS = 8, 4


class Cache:
    """Keys and values that were read before, in a graph whose attention nodes share nothing else.

    Args:
        graph: The nodes, and the tables that all of them read, are added to it.
        cached: Tokens that were read before, and the new one.
    """

    def __init__(self, graph: ir.Graph, heads: int, kv_heads: int, channels: int, cached: int) -> None:
        self.graph, self.kv_heads, self.channels, self.cached = graph, kv_heads, channels, cached
        self.width = (heads + 2 * kv_heads) * channels
        self.options = {"num_heads": heads, "kv_num_heads": kv_heads, "do_rotary": 1}
        turns = np.zeros((cached, channels // 2), np.float32)
        tables: dict[str, np.ndarray[Any, Any]] = {
            "before": np.array([cached - 1], np.int32),
            "all": np.array(cached, np.int32),
        }
        tables |= {"cos": turns + 1, "sin": turns, "place": np.array([[cached - 1]], np.int64)}
        self.tables = [initializer(graph, name, array) for name, array in tables.items()]
        self.arrays: list[np.ndarray[Any, Any]] = []

    def attend(self, layer: int, row: ir.Value) -> None:
        """One new token's queries, keys and values ``[1, 1, width]`` go through a layer's attention."""
        floats = ir.TensorType(ir.DataType.FLOAT)
        shape = ir.Shape([1, self.kv_heads, f"cached{layer}", self.channels])
        past = [ir.Value(name=f"past.{layer}.{kind}", shape=shape, type=floats) for kind in ("key", "value")]
        self.graph.inputs.extend(past)
        inputs = [row, None, None, *past, *self.tables]
        node = ir.node("GroupQueryAttention", inputs, self.options, domain=CONTRIB, num_outputs=3, name=f"layer{layer}")
        for value, name in zip(node.outputs, (f"y.{layer}", *[one.name for one in past]), strict=True):
            value.name, value.type = str(name).replace("past", "present"), floats
        self.graph.append(node)
        self.graph.outputs.extend(node.outputs)

    def bind(self, session: Any, binding: Any) -> None:
        """Keep keys and values of every layer in one place."""
        for value in session.get_inputs():
            if value.name.startswith("past"):
                self.arrays.append(np.full((1, self.kv_heads, self.cached, self.channels), 0.01, np.float32))
                _bind(binding.bind_input, value.name, self.arrays[-1])
                _bind(binding.bind_output, value.name.replace("past", "present"), self.arrays[-1])


def attention_call(channels: int, cached: int, layers: int, threads: int) -> Call:
    """One token through so many layers of ``HEADS`` heads.

    Args:
        channels: Of a head.
        cached: Tokens that were read before, and this one.
    """
    graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET, CONTRIB: 1}, name="attention")
    cache = Cache(graph, HEADS, CACHED_HEADS, channels, cached)
    x = ir.Value(name="x", shape=ir.Shape([1, 1, cache.width]), type=ir.TensorType(ir.DataType.FLOAT))
    graph.inputs.append(x)
    for layer in range(layers):
        cache.attend(layer, x)
    session: Any = open_session(onnx_bytes(ir.Model(graph, ir_version=10)), threads, "attention", int8_operators=False)
    binding = session.io_binding()
    row = np.full((1, 1, cache.width), 0.01, np.float32)
    _bind(binding.bind_input, "x", row)
    cache.bind(session, binding)
    for value in session.get_outputs():
        if not value.name.startswith("present"):
            binding.bind_output(value.name)

    def call() -> object:
        session.run_with_iobinding(binding)
        return cache, row  # both are bound

    return call


def _bind(bind: Any, name: str, array: np.ndarray[Any, Any]) -> None:
    bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
