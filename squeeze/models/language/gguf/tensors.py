"""A model's weights under llama.cpp's names, in the order of its heads: rows are moved, numbers stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError
from squeeze.formats.gguf_file import gguf
from squeeze.models.language.gguf.architecture import Architecture, head_size
from squeeze.models.language.language_model import LanguageModel

PAIRED = ("q_proj", "k_proj")  # whose rows lie in rotary pairs
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


def sources(model: LanguageModel, architecture: Architecture) -> Iterator[Source]:
    """Every tensor that the file will hold, outside the blocks first, then block by block.

    Raises:
        ModelError: a tensor that the architecture has no name for.
    """
    package, skeleton = gguf(), model.skeleton
    arch = next(key for key, name in package.MODEL_ARCH_NAMES.items() if name == architecture.name)
    names = package.get_tensor_name_map(arch, model.blocks)
    inside = [skeleton.prefix(index) + name for index in range(model.blocks) for name in skeleton.block_names(index)]
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
            raise ModelError(f"{origin}: llama.cpp's architecture {architecture.name} has no tensor of that name")
        yield Source(name, origin)


def grid_of(model: LanguageModel, source: Source, architecture: Architecture) -> QuantizedTensor:
    """The grid of a quantized weight with its rows as llama.cpp has them; experts one under the other."""
    grid = model.quantized(source.origin)
    order = _rows(model, source, architecture)
    return grid if order is None else grid.rows(order)


def shape_of(model: LanguageModel, source: Source) -> tuple[int, ...]:
    """As torch has it, ``[..., out, in]``."""
    state: dict[str, Any] = model.skeleton.module.state_dict()
    shape = tuple(state[source.origin].shape)
    return shape if source.parts == 1 else (*shape[:-2], shape[-2] // source.parts, shape[-1])


def dense_of(model: LanguageModel, source: Source, architecture: Architecture) -> Tensor:
    """A weight as llama.cpp has it, in its own dtype; norms in float32."""
    value = model.tensor(source.origin)
    if source.parts > 1:
        value = value.chunk(source.parts, dim=-2)[source.part]
    order = _rows(model, source, architecture) if source.parts == 1 else None
    value = value if order is None else value[order]
    if architecture.added_to_norms and source.origin.endswith("norm.weight"):
        return value.float() + architecture.added_to_norms
    return value


def kind_of_dense(source: Source, value: Tensor) -> str:
    """``F32`` for vectors, routers and norms, ``BF16`` for what is so, else ``F16``."""
    if value.dim() == 1 or source.name.endswith(("ffn_gate_inp.weight", "_norm.weight")):
        return "F32"
    return "BF16" if value.dtype == torch.bfloat16 else "F16"


def paired_rows(rows: int, heads: int) -> Tensor:
    """Which row of transformers' comes where: its rotary pairs lie half a head apart, llama.cpp's side by side."""
    return torch.arange(rows).reshape(heads, 2, rows // heads // 2).transpose(1, 2).reshape(-1)


def _rows(model: LanguageModel, source: Source, architecture: Architecture) -> Tensor | None:
    """The order of rows; None where it stays."""
    *_, module, _ = source.origin.split(".") if "." in source.origin else ("", "")
    state: dict[str, Any] = model.skeleton.module.state_dict()
    shape = tuple(state[source.origin].shape)
    if source.parts > 1:
        experts, rows = shape[0], shape[1] // source.parts
        each = torch.arange(source.part * rows, (source.part + 1) * rows)
        order: Tensor = (each + torch.arange(experts)[:, None] * shape[1]).reshape(-1)
        return order
    if architecture.interleaved and module in PAIRED:
        rows = shape[0]
        return paired_rows(rows, rows // head_size(model.skeleton.config))
    return None
