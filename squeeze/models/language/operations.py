"""The operations of a language model for one more token, by its structure alone, as floats.

Matrices that share an input are one product, as runtimes merge them; attention reads every token that is cached. The
small operators between them (norms, activations, splits, sums) count as three light ones and two norms a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from squeeze.formats.operation import Operation, product
from squeeze.models.language.skeleton import Skeleton

FLOAT = 4  # bytes of a weight: what is stored scales it


def operations(skeleton: Skeleton, cached: int) -> list[Operation] | None:
    """In the order of the blocks; None where the model has experts, of which a router chooses.

    Args:
        cached: Tokens that were read before.
    """
    found: list[Operation] = []
    config: Any = skeleton.config.get_text_config()
    heads = int(config.num_attention_heads)
    channels = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    macs = 2 * heads * channels * max(cached, 1)
    for block in skeleton.layers:
        matrices = [value for value in block.parameters() if value.dim() > 1]
        if any(value.dim() > 2 for value in matrices):
            return None
        found += _products(block)
        found.append(Operation("attention", "float", macs, channels, max(cached, 1)))
        found.append(Operation("glue", "float", values=skeleton.hidden_size))
    head = skeleton.module.get_output_embeddings().weight  # type: ignore[operator]
    rows, width = map(int, head.shape)
    return [
        *found,
        product(1, width, rows, "float", FLOAT * rows * width),
        Operation("light", "float", values=2 * rows),
    ]


def _products(block: nn.Module) -> Iterator[Operation]:
    beside: dict[tuple[str, int], int] = {}
    for name, value in block.named_parameters():
        if value.dim() == 2:
            key = name.rpartition(".")[0].rpartition(".")[0], int(value.shape[1])
            beside[key] = beside.get(key, 0) + int(value.shape[0])
    for (_, width), columns in beside.items():
        yield product(1, width, columns, "float", FLOAT * width * columns)
