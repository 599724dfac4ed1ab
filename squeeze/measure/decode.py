"""How long a decoder takes to write one token, by the sizes of its blocks: measured in ONNX Runtime on this host.

Here are the sizes, what they cost and the table of what was measured; ``decode_blocks`` measures, and is loaded when
the first time is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

from torch import nn

BITS, HEAD_BITS = 4, 8
GROUP = 32  # weights that share a scale
BEYOND_CACHE_BYTES = 48 << 20  # weights of the longer graph
LEAST_BLOCKS = 2  # in it
SCALE_BYTES = 4  # of such a group
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
        return sum(product_bytes(product, BITS) for product in self.products)

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
        return product_bytes(size, HEAD_BITS)


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
            from squeeze.measure.decode_blocks import measure_block  # loads a runtime

            self.seconds[key] = _rounded(measure_block(size, most))
        return self.seconds[key]

    def head(self, size: Product) -> float:
        key = f"head_{size[0]}x{size[1]}"
        if key not in self.seconds:
            from squeeze.measure.decode_blocks import measure_head

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


def measuring_bytes(model: Sizes) -> int:
    """Of memory, at most: two graphs, as bytes, as the runtime reads them and as its kernels pack them."""
    largest = max(block_sizes(model), key=lambda size: size.nbytes)
    head = head_size(model)
    blocks = sum(lengths(largest, len(model.layers))) * largest.nbytes
    return COPIES * max(blocks, (1 + LEAST_BLOCKS) * product_bytes((rows_timed(head), head[1]), HEAD_BITS))


def lengths(size: BlockSize, most: int) -> tuple[int, int]:
    """Blocks of the two graphs that are timed, in a decoder of at most so many: the longer one fills no cache."""
    long = max(LEAST_BLOCKS, min(most, -(-BEYOND_CACHE_BYTES // max(size.nbytes, 1))))
    return max(1, long // 3), long


def rows_timed(head: Product) -> int:
    """Outputs of a head that are timed."""
    return max(GROUP, min(head[0], BEYOND_CACHE_BYTES // product_bytes((1, head[1]), HEAD_BITS)))


def _products(block: nn.Module, chosen: int) -> list[Product]:
    found: list[Product] = []
    for value in block.parameters():
        if value.dim() == 2:
            found.append((value.shape[0], value.shape[1]))
        elif value.dim() > 2:  # experts, one under the other
            found += [(value.shape[-2], value.shape[-1])] * min(chosen, prod(value.shape[:-2]))
    return found


def product_bytes(product: Product, bits: int) -> int:
    out, inputs = product
    return out * inputs * bits // 8 + out * -(-inputs // GROUP) * SCALE_BYTES


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.3g}")
