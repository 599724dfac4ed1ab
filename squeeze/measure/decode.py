"""How long a decoder takes to write one token, by the sizes of its blocks: measured in ONNX Runtime on this host.

What is timed is a graph of blocks as packages have them: products with weights in 4 bits, the attention of one new
token with ``CACHED`` tokens before it, norms and an activation; a block's time is what more of them add. The weights of
all blocks together are larger than a cache, as in a model. The head's weights are in 8 bits. Embedding, sampling and
the runtime's own loop are left out. One thread, its processor time: a busy host does not change much.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from torch import nn

from squeeze.formats.onnx_file import onnx_bytes
from squeeze.formats.onnx_simplify import initializer
from squeeze.measure.attention import Cache
from squeeze.measure.chains import BLOCK, CONTRIB, OPSET
from squeeze.measure.clock import Call, processor_seconds_a_layer
from squeeze.models.ort_session import open_session

BITS, HEAD_BITS = 4, 8
CACHED = 256  # tokens before the new one
BEYOND_CACHE_BYTES = 48 << 20  # weights of the longer graph
LEAST_BLOCKS = 2  # in it
SECONDS = 0.6  # that two graphs are timed in turns
SCALE_BYTES = 4  # of a group of BLOCK weights
COPIES = 4  # of weights while a graph is made and opened

Product = tuple[int, int]  # outputs, inputs


class Sizes(Protocol):
    """A decoder, with weights or without."""

    layers: nn.ModuleList
    module: nn.Module
    config: Any


@dataclass(frozen=True)
class BlockSize:
    """What a block's time depends on.

    Args:
        products: Outputs and inputs of each of its matrices.
        heads: Attention heads, KV heads and channels of a head; None: the config does not say.
    """

    products: tuple[Product, ...]
    heads: tuple[int, int, int] | None

    @property
    def nbytes(self) -> int:
        """Of its weights."""
        return sum(_bytes(product, BITS) for product in self.products)

    def key(self) -> str:
        """What the table calls it."""
        heads = f"_heads_{'x'.join(map(str, self.heads))}" if self.heads else ""
        return f"block_{'_'.join(f'{out}x{inputs}' for out, inputs in self.products)}{heads}"


def block_sizes(model: Sizes) -> Counter[BlockSize]:
    """How many blocks of each size a decoder has; experts count as often as a token is sent to some."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    counts: tuple[int, int, int] | None = None
    if isinstance(heads, int):
        dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        counts = heads, getattr(config, "num_key_value_heads", None) or heads, int(dim)
    chosen = int(getattr(config, "num_experts_per_tok", None) or 1)
    return Counter(BlockSize(tuple(_products(block, chosen)), counts) for block in model.layers)


def head_size(model: Sizes) -> Product:
    """Outputs and inputs of the matrix that gives the logits."""
    out, inputs = model.module.get_output_embeddings().weight.shape  # type: ignore[operator]
    return int(out), int(inputs)


class Costs(Protocol):
    """Of the parts of a decoder, for one token."""

    def block(self, size: BlockSize, most: int) -> float:
        """Of one block, in a decoder of at most so many."""
        ...

    def head(self, size: Product) -> float: ...


class BytesRead:
    """Bytes of weights that are read: what time goes by where nothing is measured."""

    def block(self, size: BlockSize, most: int) -> float:
        return size.nbytes

    def head(self, size: Product) -> float:
        return _bytes(size, HEAD_BITS)


class DecodeTable:
    """Seconds, measured when first asked for.

    Args:
        known: What was measured before, or is given: taken as it is.
    """

    def __init__(self, known: Mapping[str, float] | None = None) -> None:
        self.seconds = dict(known or {})

    def block(self, size: BlockSize, most: int) -> float:
        key = size.key()
        if key not in self.seconds:
            self.seconds[key] = _rounded(measure_block(size, most))
        return self.seconds[key]

    def head(self, size: Product) -> float:
        key = f"head_{size[0]}x{size[1]}"
        if key not in self.seconds:
            self.seconds[key] = _rounded(measure_head(size))
        return self.seconds[key]


def token_cost(model: Sizes, costs: Costs) -> float:
    """Of the whole model."""
    blocks = len(model.layers)
    return costs.head(head_size(model)) + sum(
        costs.block(size, blocks) * count for size, count in block_sizes(model).items()
    )


def cheapest_block(model: Sizes, costs: Costs) -> float:
    """The least that leaves with a block."""
    return min(costs.block(size, len(model.layers)) for size in block_sizes(model))


def measure_block(size: BlockSize, most: int) -> float:
    """Seconds that one more block takes."""
    short, long = _lengths(size, most)
    calls = [_Blocks(size).of(count) for count in (short, long)]
    return processor_seconds_a_layer(calls[0], calls[1], long - short, SECONDS)


def measure_head(size: Product) -> float:
    """Seconds of the product that gives the logits; of a large one, of a part of its outputs."""
    rows = _rows(size)
    part = BlockSize(((rows, size[1]),), None)
    calls = [_Blocks(part, HEAD_BITS, between=False).of(count) for count in (1, LEAST_BLOCKS)]
    return processor_seconds_a_layer(calls[0], calls[1], LEAST_BLOCKS - 1, SECONDS) * size[0] / rows


def measuring_bytes(model: Sizes) -> int:
    """Of memory, at most: two graphs, as bytes, as the runtime reads them and as its kernels pack them."""
    largest = max(block_sizes(model), key=lambda size: size.nbytes)
    head = head_size(model)
    blocks = sum(_lengths(largest, len(model.layers))) * largest.nbytes
    return COPIES * max(blocks, (1 + LEAST_BLOCKS) * _bytes((_rows(head), head[1]), HEAD_BITS))


def _lengths(size: BlockSize, most: int) -> tuple[int, int]:
    """Blocks of the two graphs."""
    long = max(LEAST_BLOCKS, min(most, -(-BEYOND_CACHE_BYTES // max(size.nbytes, 1))))
    return max(1, long // 3), long


def _rows(head: Product) -> int:
    """Outputs of a head that are timed."""
    return max(BLOCK, min(head[0], BEYOND_CACHE_BYTES // _bytes((1, head[1]), HEAD_BITS)))


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


def _products(block: nn.Module, chosen: int) -> list[Product]:
    found: list[Product] = []
    for value in block.parameters():
        if value.dim() == 2:
            found.append((value.shape[0], value.shape[1]))
        elif value.dim() > 2:  # experts, one under the other
            found += [(value.shape[-2], value.shape[-1])] * min(chosen, prod(value.shape[:-2]))
    return found


def _bytes(product: Product, bits: int) -> int:
    out, inputs = product
    return out * inputs * bits // 8 + out * -(-inputs // BLOCK) * SCALE_BYTES


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.3g}")
