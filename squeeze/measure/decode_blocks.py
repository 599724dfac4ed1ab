"""A decoder's blocks and its head as graphs of ONNX Runtime, timed on this host.

Blocks are as packages have them: products with weights in 4 bits, the attention of one new token with ``CACHED`` tokens
before it, norms and an activation; a block's time is what more of them add. The weights of all blocks together are
larger than a cache, as in a model. The head's weights are in 8 bits. Embedding, sampling and the runtime's own loop are
left out. One thread, its processor time: a busy host does not change much.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from squeeze.formats.onnx_file import onnx_bytes
from squeeze.formats.onnx_simplify import initializer
from squeeze.measure.attention import Cache
from squeeze.measure.chains import BLOCK, CONTRIB, OPSET
from squeeze.measure.clock import Call, processor_seconds_a_layer
from squeeze.measure.decode import BITS, HEAD_BITS, LEAST_BLOCKS, BlockSize, Product, lengths, rows_timed
from squeeze.models.ort_session import open_session

CACHED = 256  # tokens before the new one
SECONDS = 0.6  # that two graphs are timed in turns


def measure_block(size: BlockSize, most: int) -> float:
    """Seconds that one more block takes."""
    short, long = lengths(size, most)
    calls = [_Blocks(size).of(count) for count in (short, long)]
    return processor_seconds_a_layer(calls[0], calls[1], long - short, SECONDS)


def measure_head(size: Product) -> float:
    """Seconds of the product that gives the logits; of a large one, of a part of its outputs."""
    rows = rows_timed(size)
    part = BlockSize(((rows, size[1]),), None)
    calls = [_Blocks(part, HEAD_BITS, between=False).of(count) for count in (1, LEAST_BLOCKS)]
    return processor_seconds_a_layer(calls[0], calls[1], LEAST_BLOCKS - 1, SECONDS) * size[0] / rows


class _Blocks:
    """Blocks of noise. They do not depend on each other: a runtime takes one after the other all the same.

    Args:
        between: Whether norms, an activation and attention stand between the products.
    """

    def __init__(self, size: BlockSize, bits: int = BITS, between: bool = True) -> None:
        self.size, self.bits, self.between = size, bits, between
        self.random = np.random.default_rng(0)
        self.graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET, CONTRIB: 1}, name="blocks")
        self.inputs: dict[int, ir.Value] = {}

    def of(self, count: int) -> Call:
        """A call that runs so many, on one thread."""
        cache = Cache(self.graph, *self.size.heads, CACHED) if self.size.heads and self.between else None
        for block in range(count):
            self._products(block)
            if self.between:
                self._norms(block)
            if cache is not None:
                cache.attend(block, self._input(cache.width))
        feeds = {value.name: np.full((1, 1, width), 0.01, np.float32) for width, value in self.inputs.items()}
        session: Any = open_session(onnx_bytes(ir.Model(self.graph, ir_version=10)), 1, "decode", int8_operators=False)
        binding = session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        if cache is not None:
            cache.bind(session, binding)
        for value in session.get_outputs():
            if not value.name.startswith("present"):
                binding.bind_output(value.name)
        return partial(_run, session, binding, cache)

    def _products(self, block: int) -> None:
        widest = max(inputs for _, inputs in self.size.products)
        for number, (out, inputs) in enumerate(self.size.products):
            name = f"block{block}.product{number}"
            groups = -(-inputs // BLOCK)
            packed = self.random.integers(0, 256, (out, groups, BLOCK * self.bits // 8), dtype=np.uint8)
            scales = np.full((out, groups), 1e-3, np.float32)
            stored: dict[str, np.ndarray[Any, Any]] = {"packed": packed, "scales": scales}
            weights = [initializer(self.graph, f"{name}.{part}", array) for part, array in stored.items()]
            options = {"K": inputs, "N": out, "bits": self.bits, "block_size": BLOCK, "accuracy_level": 4}
            result = self._node("MatMulNBits", [self._input(inputs), *weights], options, name)
            if self.between and out >= widest:
                curve = self._node("Sigmoid", [result], {}, f"{name}.curve", "")
                result = self._node("Mul", [result, curve], {}, f"{name}.gated", "")
            self.graph.outputs.append(result)

    def _norms(self, block: int) -> None:
        width = self.size.products[0][1]
        for place in ("before", "behind"):
            name = f"block{block}.norm.{place}"
            scale = initializer(self.graph, f"{name}.weight", self.random.random(width, np.float32))
            row = self._input(width)
            node = self._node("SkipSimplifiedLayerNormalization", [row, row, scale], {"epsilon": 1e-5}, name)
            self.graph.outputs.append(node)

    def _input(self, width: int) -> ir.Value:
        if width not in self.inputs:
            floats = ir.TensorType(ir.DataType.FLOAT)
            self.inputs[width] = ir.Value(name=f"x{width}", shape=ir.Shape([1, 1, width]), type=floats)
            self.graph.inputs.append(self.inputs[width])
        return self.inputs[width]

    def _node(
        self, op: str, inputs: list[ir.Value], options: dict[str, Any], name: str, domain: str = CONTRIB
    ) -> ir.Value:
        node = ir.node(op, inputs, options, domain=domain, name=name)
        value = node.outputs[0]
        value.name, value.type = f"{name}.y", ir.TensorType(ir.DataType.FLOAT)
        self.graph.append(node)
        return value


def _run(session: Any, binding: Any, cache: Cache | None) -> object:
    session.run_with_iobinding(binding)
    return cache  # its arrays are bound
