"""A grid as compressed-tensors' pack-quantized tensors, the form that vLLM loads.

Beside a linear's name: ``weight_packed`` int32 ``[out, words]``, each row a stream of unsigned integers;
``weight_scale`` float16 ``[out, groups]``; ``weight_zero_point`` int32 ``[words, groups]``, where the grid is
asymmetric; ``weight_shape`` int64 ``[2]``; in older checkpoints ``weight_g_idx`` int32 ``[in]``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError
from squeeze.formats.gptq_checkpoint import exact_scale, group_index
from squeeze.formats.grid_kind import GridKind
from squeeze.formats.words import dtype_fault, from_words, to_words, words

PARTS = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")


def holds(kind: GridKind) -> str | None:
    """Why pack-quantized tensors cannot hold such a grid; None where they can."""
    if kind.ordered:
        return "compressed-tensors no longer reads groups in act_order; act_order: false or a GPTQ checkpoint would do"
    return None


def to_tensors(grid: QuantizedTensor) -> dict[str, Tensor]:
    offset = 2 ** (grid.bits - 1)
    tensors = {
        "weight_packed": to_words(grid.q.to(torch.int16) + offset, grid.bits),
        "weight_scale": grid.scale.to(torch.float16).contiguous(),
        "weight_shape": torch.tensor(grid.q.shape, dtype=torch.int64),
    }
    if not grid.symmetric:
        tensors["weight_zero_point"] = to_words((grid.zero_point + offset).T, grid.bits).T.contiguous()
    return tensors


def from_tensors(parts: Mapping[str, Tensor], bits: int, group_size: int | None) -> QuantizedTensor:
    """The grid of one linear, without requantizing.

    Args:
        parts: The tensors by their names in :data:`PARTS`, as far as there are any.
        group_size: None = per-channel.

    Raises:
        ModelError: what is stored is no grid of ours.
    """
    if fault := dtype_fault(parts):
        raise ModelError(fault)
    rows, columns = (int(size) for size in parts["weight_shape"].tolist())
    shapes = {name: tuple(value.shape) for name, value in parts.items()}
    if fault := shape_fault(shapes, (rows, columns), bits, group_size):
        raise ModelError(fault)
    offset = 2 ** (bits - 1)
    q = (from_words(parts["weight_packed"], bits, columns).to(torch.int16) - offset).to(torch.int8)
    scale = exact_scale(parts["weight_scale"], "weight_scale")
    zero_point = torch.zeros_like(scale, dtype=torch.int32)
    if "weight_zero_point" in parts:
        zero_point = (from_words(parts["weight_zero_point"].T, bits, rows).T.int() - offset).contiguous()
    g_idx = group_index(parts.get("weight_g_idx"), columns, group_size)
    return QuantizedTensor(q, scale, zero_point, bits, group_size, "weight_zero_point" not in parts, g_idx)


def shape_fault(
    shapes: Mapping[str, tuple[int, ...]], shape: tuple[int, int], bits: int, group_size: int | None
) -> str | None:
    """What is wrong with the shapes of one linear's tensors; None where nothing is."""
    rows, columns = shape
    if rows < 1 or columns < 1:
        return f"weight_shape is {list(shape)}, which holds no weights"
    size = group_size or columns
    if columns % size:
        return f"group_size {size} does not divide {columns} input channels"
    groups = columns // size
    expected = {
        "weight_packed": (rows, words(columns, bits)),
        "weight_scale": (rows, groups),
        "weight_zero_point": (words(rows, bits), groups),
        "weight_g_idx": (columns,),
    }
    for name, right in expected.items():
        if name not in shapes and name in PARTS[:2]:
            return f"no {name} is stored"
        if name in shapes and shapes[name] != right:
            return f"{name} is {list(shapes[name])}, and {list(right)} belongs to a weight {list(shape)} of {bits} bits"
    return None
