"""Weights as the program holds them: integers of the grid for XNNPACK's kernels and for tables of tokens, else floats.

A matrix of 4 bits is multiplied by activations that are rounded to int8 with one range per token (8da4w).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers quantized_decomposed
from torch import Tensor, nn
from torch.nn import functional

from squeeze.algorithms.affine import QuantizedTensor, integer_range
from squeeze.errors import ModelError
from squeeze.formats.grid_kind import GridKind

QDQ: Any = torch.ops.quantized_decomposed
BLOCK = 32  # weights that XNNPACK's int4 kernels take at once


def holds(kind: GridKind) -> str | None:
    """Why XNNPACK's kernels cannot multiply with such a grid; None where they can."""
    if not kind.symmetric:
        return f"XNNPACK multiplies no weights of {kind.bits} bits with zero points; symmetric: true would do"
    if kind.ordered:
        return "XNNPACK knows no groups in act_order; order: group_aware would do"
    if kind.negative:
        return "XNNPACK takes no negative scales; negative_scales: false would do"
    if kind.bits == 8:
        grouped = f"XNNPACK multiplies no weights of 8 bits in groups of {kind.group_size}; group_size: null would do"
        return None if kind.group_size is None else grouped
    if kind.bits != 4:
        return f"XNNPACK multiplies no weights of {kind.bits} bits; bits: 4 or 8 would do"
    if (kind.group_size or kind.columns) % BLOCK:
        size = "null" if kind.group_size is None else kind.group_size
        return f"group_size {size} of {kind.columns} inputs fills no blocks of XNNPACK's {BLOCK}; {BLOCK} would"
    if kind.scales != "bfloat16":
        return "XNNPACK keeps the scales of 4 bits in bfloat16; scales: bfloat16 would do, in rtn or gptq"
    return None


class Rounding:
    """Activations rounded to int8 (``per_token``), once where several matrices multiply the same ones."""

    def __init__(self) -> None:
        self._source: Tensor | None = None
        self._rounded: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self._rounded is None or self._source is not x:
            self._source, self._rounded = x, per_token(x)
        return self._rounded


class IntegerLinear(nn.Module):
    """A matrix product with integers ``[out, in]``; activations are rounded to int8, each token by its own range."""

    def __init__(self, grid: QuantizedTensor, bias: Tensor | None, rounding: Rounding) -> None:
        super().__init__()
        self.group, self.bits, self.rounding = grid.group_size or grid.q.shape[1], grid.bits, rounding
        scale = grid.scale[:, 0] if grid.bits == 8 else grid.scale
        self.register_buffer("q", grid.q.contiguous())
        self.register_buffer("scale", scale.contiguous())
        self.register_buffer("zero", torch.zeros_like(scale, dtype=torch.int32 if grid.bits == 4 else torch.int64))
        self.bias = None if bias is None else nn.Parameter(bias.float(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(self.rounding(x), self._weight(), self.bias)

    def _weight(self) -> Tensor:
        low, high = integer_range(self.bits)
        parts = (*(self.get_buffer(name) for name in ("q", "scale", "zero")),)
        if self.bits == 8:
            weight: Tensor = QDQ.dequantize_per_channel.default(*parts, 0, low, high, torch.int8)
        else:
            group = low, high, torch.int8, self.group, torch.float32
            weight = QDQ.dequantize_per_channel_group.default(*parts, *group)
        return weight


def per_token(x: Tensor) -> Tensor:
    """``[..., in]`` rounded to int8 by the range of each token."""
    scale, zero = QDQ.choose_qparams_per_token_asymmetric.default(x, torch.int8)
    q = QDQ.quantize_per_token.default(x, scale, zero, -128, 127, torch.int8)
    rounded: Tensor = QDQ.dequantize_per_token.default(q, scale, zero, -128, 127, torch.int8, torch.float32)
    return rounded


class IntegerTable(nn.Module):
    """Rows of a table of tokens on a grid; of 4 bits, two to a byte."""

    def __init__(self, grid: QuantizedTensor) -> None:
        super().__init__()
        self.packed, self.columns = grid.bits == 4, grid.q.shape[1]
        self.register_buffer("q", table_bytes(grid))
        self.register_buffer("scale", grid.scale.contiguous())

    def forward(self, tokens: Tensor) -> Tensor:
        rows = functional.embedding(tokens, self.q).float()  # type: ignore[arg-type]
        if self.packed:
            high = torch.floor(rows / 16)
            rows = torch.stack([rows - 16 * high, high], dim=-1) - 8
        scale = functional.embedding(tokens, self.scale)  # type: ignore[arg-type]
        grouped = rows.reshape(1, -1, scale.shape[-1], self.columns // scale.shape[-1])
        return (grouped * scale[..., None]).reshape(1, -1, self.columns)


def table_bytes(grid: QuantizedTensor) -> Tensor:
    """uint8 ``[rows, columns / 2]``; of 8 bits int8 ``[rows, columns]``."""
    return nibbles(grid.q) if grid.bits == 4 else grid.q.contiguous()


def nibbles(q: Tensor) -> Tensor:
    """Integers of 4 bits as uint8, 8 more than they are, two to a byte: even columns in its low half."""
    shifted = (q + 8).to(torch.uint8)
    return (shifted[:, ::2] | (shifted[:, 1::2] << 4)).contiguous()


class FloatTable(nn.Module):
    """Rows of a table that stays in its own float type."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table.contiguous())

    def forward(self, tokens: Tensor) -> Tensor:
        return functional.embedding(tokens, self.table).float()  # type: ignore[arg-type]


def integer_module(module: nn.Module, name: str, grid: QuantizedTensor, rounding: Rounding) -> nn.Module:
    """What computes with the integers in place of a module; ``rounding`` is shared by all of a model.

    Raises:
        ModelError: a kind of module that has no such form, or a grid that is not held.
    """
    if type(module) is nn.Embedding:
        return IntegerTable(grid)
    if type(module) is not nn.Linear:
        raise ModelError(f"{name}: {type(module).__name__} has no form with integers in a .pte file; exclude it")
    if reason := holds(GridKind.of(grid)):
        raise ModelError(f"{name}: {reason}")
    return IntegerLinear(grid, module.bias, rounding)


def wide(value: Tensor) -> Tensor:
    """A weight on no grid, as the program computes with it."""
    return value.float() if value.is_floating_point() else value.clone()
