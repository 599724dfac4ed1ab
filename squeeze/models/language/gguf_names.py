"""A model's tensors under llama.cpp's names, and the order of their rows there; for reading and for writing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from squeeze.errors import ModelError
from squeeze.formats.gguf_types import gguf
from squeeze.models.gguf_pieces import paired_rows
from squeeze.models.language.skeleton import Skeleton

PAIRED = ("q_proj", "k_proj")  # weights whose rows lie in rotary pairs
EXPERTS = {"mlp.experts.gate_up_proj": ("ffn_gate_exps", "ffn_up_exps"), "mlp.experts.down_proj": ("ffn_down_exps",)}


@dataclass(frozen=True)
class Source:
    """One tensor of the file, and where in the model it is.

    Args:
        name: In the file.
        origin: The model's own name.
        part, parts: Which of so many equal shares of the rows (gate and up of stacked experts).
    """

    name: str
    origin: str
    part: int = 0
    parts: int = 1


def sources(skeleton: Skeleton, architecture: str) -> Iterator[Source]:
    """Every tensor that a file holds, outside the blocks first, then block by block.

    Args:
        architecture: llama.cpp's name of it.

    Raises:
        ModelError: a tensor that the architecture has no name for.
    """
    package, blocks = gguf(), len(skeleton.layers)
    arch = next(key for key, name in package.MODEL_ARCH_NAMES.items() if name == architecture)
    names = package.get_tensor_name_map(arch, blocks)
    inside = [skeleton.prefix(index) + name for index in range(blocks) for name in skeleton.block_names(index)]
    for origin in [*skeleton.outside, *inside]:
        number, _, own = origin.removeprefix(f"{skeleton.layers_name}.").partition(".")
        if number.isdigit() and own in EXPERTS:
            shares = EXPERTS[own]
            yield from (
                Source(f"blk.{number}.{share}.weight", origin, i, len(shares)) for i, share in enumerate(shares)
            )
            continue
        name = names.get_name(origin, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelError(f"{origin}: llama.cpp's architecture {architecture} has no tensor of that name")
        yield Source(name, origin)


def is_paired(origin: str) -> bool:
    """Whether a weight's rows, or a bias's values, lie in rotary pairs."""
    return origin.split(".")[-2:-1] in [[name] for name in PAIRED]


def row_order(source: Source, shape: tuple[int, ...], head_dim: int | None) -> Tensor | None:
    """Which row of the model's tensor each row of the file's is; None where the order stays.

    Args:
        shape: Of the model's tensor, ``[..., out, in]``.
        head_dim: Channels of a head, where the architecture lays rotary pairs side by side.
    """
    if source.parts > 1:
        experts, rows = shape[0], shape[1] // source.parts
        each = torch.arange(source.part * rows, (source.part + 1) * rows)
        order: Tensor = (each + torch.arange(experts)[:, None] * shape[1]).reshape(-1)
        return order
    if head_dim is not None and is_paired(source.origin):
        return paired_rows(shape[0], shape[0] // head_dim)
    return None
