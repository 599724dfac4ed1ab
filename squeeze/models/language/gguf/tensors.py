"""A model's weights under llama.cpp's names, in the order of its heads: rows are moved, numbers stay."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.models.language.gguf.architecture import Architecture, head_size
from squeeze.models.language.gguf_names import Source, row_order
from squeeze.models.language.language_model import LanguageModel


def grid_of(model: LanguageModel, source: Source, architecture: Architecture) -> QuantizedTensor:
    """The grid of a quantized weight with its rows as llama.cpp has them; experts one under the other."""
    grid = model.quantized(source.origin)
    order = rows_of(model, source, architecture)
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
    order = rows_of(model, source, architecture) if source.parts == 1 else None
    value = value if order is None else value[order]
    if architecture.added_to_norms and source.origin.endswith("norm.weight"):
        return value.float() + architecture.added_to_norms
    return value


def kind_of_dense(source: Source, value: Tensor) -> str:
    """``F32`` for vectors, routers and norms, ``BF16`` for what is so, else ``F16``."""
    if value.dim() == 1 or source.name.endswith(("ffn_gate_inp.weight", "_norm.weight")):
        return "F32"
    return "BF16" if value.dtype == torch.bfloat16 else "F16"


def rows_of(model: LanguageModel, source: Source, architecture: Architecture) -> Tensor | None:
    """Which row of the model's tensor each row of the file's is; None where the order stays."""
    state: dict[str, Any] = model.skeleton.module.state_dict()
    heads = head_size(model.skeleton.config) if architecture.interleaved else None
    return row_order(source, tuple(state[source.origin].shape), heads)
