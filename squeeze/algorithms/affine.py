"""Affine quantization, the one grid of the house: ``real = scale * (q - zero_point)``, round half to even.

Shapes: ``out`` = output channels, ``in`` = everything one output channel sums over, ``groups`` = in / group_size.
Pure functions on tensors; finding layers is the business of ``squeeze.passes``, storing them of ``squeeze.formats``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from squeeze.errors import ShapeError


@dataclass(frozen=True)
class QuantizedTensor:
    """A weight as integers and scales; every format is a writer of this.

    Args:
        q: int8 ``[out, in]``.
        scale: float32 ``[out, groups]``, or ``[1, 1]`` for one scale per tensor.
        zero_point: int32, shaped as ``scale``; zeros where ``symmetric``.
        bits: Width of the integers.
        group_size: Consecutive input channels that share a scale; None = per-channel.
        symmetric: True when zero lies at integer 0.
        g_idx: int32 ``[in]``, the group of each input channel, where groups are not consecutive channels; else None.
    """

    q: Tensor
    scale: Tensor
    zero_point: Tensor
    bits: int
    group_size: int | None
    symmetric: bool
    g_idx: Tensor | None = None

    def dequantize(self) -> Tensor:
        """float32 ``[out, in]``."""
        if self.g_idx is not None:
            group = self.g_idx.long()
            return self.scale[:, group] * (self.q.float() - self.zero_point[:, group])
        real = grouped(self.q, self.group_size).to(torch.float32, copy=True)  # the one copy of it
        return real.sub_(self.zero_point[..., None]).mul_(self.scale[..., None]).reshape(self.q.shape)

    def rows(self, which: slice | Tensor) -> QuantizedTensor:
        """Some output channels, or all of them in another order."""
        return replace(self, q=self.q[which], scale=self.scale[which], zero_point=self.zero_point[which])

    @classmethod
    def stack(cls, parts: Sequence[QuantizedTensor]) -> QuantizedTensor:
        """The output channels of several tensors, one below the other.

        Raises:
            ShapeError: they differ in width, groups, or the order of their groups: one tensor has one of each.
        """
        first = parts[0]
        if len(parts) == 1:
            return first
        for part in parts[1:]:
            if difference := first._difference(part):
                raise ShapeError(f"quantized tensors cannot be stacked: {difference}; keep them apart")
        q, scale, zeros = (torch.cat([getattr(part, name) for part in parts]) for name in ("q", "scale", "zero_point"))
        symmetric = all(part.symmetric for part in parts)
        return replace(first, q=q, scale=scale, zero_point=zeros, symmetric=symmetric)

    def _difference(self, other: QuantizedTensor) -> str | None:
        """What two tensors must share to be one, and do not."""
        facts = {
            "bits": (self.bits, other.bits),
            "input channels": (self.q.shape[1], other.q.shape[1]),
            "group_size": (self.group_size, other.group_size),
            "scales per output channel": (self.scale.shape[1], other.scale.shape[1]),
        }
        for name, (own, theirs) in facts.items():
            if own != theirs:
                return f"{name} {own} and {theirs}"
        indices = [tensor.g_idx for tensor in (self, other)]
        if any(index is not None for index in indices) and not _same_index(*indices):
            return "their groups are of different input channels (g_idx, act_order)"
        return None


@dataclass(frozen=True)
class Grid:
    """The integers of one activation: 8 bits, one scale and one zero point for the whole tensor."""

    scale: float
    zero_point: int
    signed: bool

    @property
    def qmin(self) -> int:
        return -128 if self.signed else 0

    @property
    def qmax(self) -> int:
        return 127 if self.signed else 255

    @property
    def low(self) -> float:
        """The smallest real value that the grid holds."""
        return self.scale * (self.qmin - self.zero_point)

    @property
    def high(self) -> float:
        """The largest real value that the grid holds."""
        return self.scale * (self.qmax - self.zero_point)


def clipped_share(weight: Tensor, grid: QuantizedTensor, rows: int = 1024) -> float:
    """Share of weights ``[out, in]`` that lie beyond the ends of their grid by more than rounding does."""
    qmin, qmax = integer_range(grid.bits)
    lowest = qmin if not grid.symmetric or bool((grid.q == qmin).any()) else -qmax
    columns = weight.shape[1]
    size = columns if grid.group_size is None else grid.group_size
    group = torch.arange(columns) // size if grid.g_idx is None else grid.g_idx.long()
    beyond = 0
    for start in range(0, len(weight), rows):  # in chunks: the weight alone may fill memory
        part = slice(start, start + rows)
        scale, zero_point = grid.scale[part].float(), grid.zero_point[part].float()
        q = weight[part].float().div_(scale[:, group]).add_(zero_point[:, group])
        beyond += int(((q < lowest - 0.501) | (q > qmax + 0.501)).sum())
    return beyond / max(weight.numel(), 1)


def integer_range(bits: int) -> tuple[int, int]:
    """``(qmin, qmax)`` of signed integers; symmetric grids leave ``qmin`` unused."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def symmetric_scale(weight: Tensor, bits: int, group_size: int | None = None) -> Tensor:
    """Choose one scale per group so that the largest weight of the group maps to ``qmax``.

    Args:
        weight: ``[out, in]``, floating point.
        bits: Width of the integers; ``qmax = 2**(bits - 1) - 1``.
        group_size: Consecutive input channels that share a scale; must divide ``in``. None: all of them.

    Returns:
        ``[out, groups]``, strictly positive (a group of zeros gets 1).

    Raises:
        ShapeError: ``group_size`` does not divide ``in``.
    """
    largest = grouped(weight, group_size).abs().amax(dim=-1)
    scale = largest / integer_range(bits)[1]
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def quantize_symmetric(
    weight: Tensor, bits: int, group_size: int | None = None, scale: Tensor | None = None
) -> QuantizedTensor:
    """Round a weight ``[out, in]`` to the nearest point of a symmetric grid (``scale`` as chosen, if not given)."""
    scale = symmetric_scale(weight, bits, group_size) if scale is None else scale
    limit = integer_range(bits)[1]
    q = torch.round(grouped(weight, group_size) / scale[..., None]).clamp(-limit, limit)
    zeros = torch.zeros_like(scale, dtype=torch.int32)
    return QuantizedTensor(q.reshape(weight.shape).to(torch.int8), scale, zeros, bits, group_size, True)


def activation_grid(low: float, high: float, signed: bool = False) -> Grid:
    """Spread 256 integers over ``[low, high]``; zero is kept exact, since padding is zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(torch.tensor((high - low) / 255 or 1 / 255, dtype=torch.float32))
    qmin = -128 if signed else 0
    zero_point = int(torch.round(torch.tensor(qmin - low / scale, dtype=torch.float64)))
    return Grid(scale, min(max(zero_point, qmin), qmin + 255), signed)


def fake_quantize(x: Tensor, grid: Grid) -> Tensor:
    """The real values that remain of ``x`` after it was stored on ``grid``."""
    q = torch.round(x / grid.scale).add_(grid.zero_point)  # in place: activations are large
    return q.clamp_(grid.qmin, grid.qmax).sub_(grid.zero_point).mul_(grid.scale)


def by_token(x: Tensor) -> Tensor:
    """float32 ``[tokens, channels]`` rounded to 8 bits with a scale and a zero point for each token, zero kept exact.

    As XNNPACK rounds what goes into products with 4-bit weights (``qd8``).
    """
    low, high = (end.float()[:, None] for end in x.aminmax(dim=1))
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / 255).clamp_min(torch.finfo(torch.float32).tiny)
    zero_point = torch.round(-128 - low / scale).clamp_(-128, 127)
    q = torch.round(x / scale).add_(zero_point).clamp_(-128, 127)
    return q.sub_(zero_point).mul_(scale)


def _same_index(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)


def grouped(weight: Tensor, group_size: int | None) -> Tensor:
    """``[out, groups, group_size]``."""
    rows, columns = weight.shape
    size = columns if group_size is None else group_size
    if columns % size:
        best = [n for n in range(1, columns + 1) if columns % n == 0 and n <= size][-1]
        raise ShapeError(f"group_size {size} does not divide {columns} input channels; {best} would")
    return weight.reshape(rows, columns // size, size)
