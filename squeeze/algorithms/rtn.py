"""Round to nearest: every weight goes to the closest point of its group's grid, on its own.

Shapes: ``out`` = output channels, ``in`` = input channels, ``groups`` = in / group_size, ``size`` = weights that share
a scale. The integers use their whole range, ``-2**(bits - 1)`` included: at 2 bits that is a quarter of all there are.
Scales are rounded to what targets store *before* the integers are chosen, so nothing is rounded twice.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor, grouped, integer_range
from squeeze.errors import ShapeError, SqueezeError

Clip = Literal["absmax", "mse"]

RATIOS = tuple(1 - 0.05 * step for step in range(15))  # of the full extent: 1.00 down to 0.30, tried by the search
LARGEST = {torch.bfloat16: 65280.0}  # largest bfloat16 within the range of float16, the type grids are stored in
CHUNK_VALUES = 1 << 20  # weights rounded at once: 4 MB of float32; an embedding is never copied whole


def round_to_nearest(
    weight: Tensor,
    bits: int,
    group_size: int | None = None,
    symmetric: bool = True,
    clip: Clip = "absmax",
    scale_dtype: torch.dtype = torch.float16,
) -> QuantizedTensor:
    """Quantize a weight without looking at data.

    Args:
        weight: ``[out, in]``, floating point.
        bits: Width of the integers.
        group_size: Consecutive input channels that share a scale; must divide ``in``. None: all of them.
        symmetric: Zero lies at integer 0; otherwise each group has a zero point.
        clip: ``absmax`` reaches the largest weight; ``mse`` searches the scale of least squared error.
        scale_dtype: The narrowest float that any target stores scales in; those of bfloat16 are exact in float16 too.

    Raises:
        ShapeError: ``group_size`` does not divide ``in``.
        SqueezeError: A weight is not finite.
    """
    rows = max(1, CHUNK_VALUES // weight.shape[1])
    pieces = [_round_rows(part, bits, group_size, symmetric, clip, scale_dtype) for part in torch.split(weight, rows)]
    q, scale, zero_point = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return QuantizedTensor(q, scale, zero_point, bits, group_size, symmetric)


def _round_rows(
    weight: Tensor, bits: int, group_size: int | None, symmetric: bool, clip: Clip, scale_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    values = grouped(weight, group_size).float()
    require_finite(values, "weight")
    scale, zero_point = fit_scale(values, bits, symmetric, clip, scale_dtype)
    q = to_integers(values, scale[..., None], zero_point[..., None], bits)
    return q.reshape(weight.shape).to(torch.int8), scale, zero_point.int()


def fit_scale(
    values: Tensor,
    bits: int,
    symmetric: bool = True,
    clip: Clip = "absmax",
    scale_dtype: torch.dtype = torch.float16,
    importance: Tensor | None = None,
    negative_scales: bool = False,
) -> tuple[Tensor, Tensor]:
    """Choose a scale and a zero point for each row of ``size`` values.

    Args:
        values: float32 ``[..., size]``.
        importance: ``[size]``, what a squared error of each value costs; None: all the same. Only ``mse`` asks.
        negative_scales: Give a symmetric group whose largest value is positive a negative scale. Two's complement has
            one more negative integer than positive ones; the longer tail then gets it. At 2 bits it is one in four.

    Returns:
        scale and zero_point, both float32 ``[...]``; the scale is exact in ``scale_dtype``, and positive unless
        ``negative_scales`` (zeros get 1).
    """
    if negative_scales and symmetric:
        towards = torch.where(values.amax(dim=-1) > -values.amin(dim=-1), -1.0, 1.0)
        scale, zero_point = fit_scale(values * towards[..., None], bits, True, clip, scale_dtype, importance)
        return scale * towards, zero_point
    low, high = _extent(values, symmetric)
    if clip == "absmax":
        scale, zero_point = _grid(low, high, bits, symmetric)
    else:
        scale, zero_point = _least_squares(values, low, high, bits, symmetric, importance)
    return storable(torch.where(high > low, scale, 1.0), scale_dtype), zero_point


def storable(scale: Tensor, scale_dtype: torch.dtype) -> Tensor:
    """float32 scales, rounded to what ``scale_dtype`` holds; never zero, never infinite, of the same sign."""
    limits = torch.finfo(torch.float16 if scale_dtype in LARGEST else scale_dtype)
    most = LARGEST.get(scale_dtype, limits.max)
    return torch.copysign(scale.abs().clamp(limits.smallest_normal, most), scale).to(scale_dtype).float()


def to_integers(values: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """The nearest integers, as floats; shapes broadcast."""
    return torch.addcdiv(zero_point, values, scale).round_().clamp_(*integer_range(bits))


def require_group_size(columns: int, group_size: int | None) -> int:
    """How many input channels share a scale, once it is sure that they divide what there is."""
    size = columns if group_size is None else group_size
    if size < 1 or columns % size:
        best = max(n for n in range(1, columns + 1) if columns % n == 0 and n <= max(size, 1))
        raise ShapeError(f"group_size {size} does not divide {columns} input channels; {best} would")
    return size


def require_finite(values: Tensor, name: str) -> None:
    """Not a number in, not a number out: refused here, named by the caller."""
    if not bool(torch.isfinite(values.sum())) and not bool(torch.isfinite(values).all()):
        raise SqueezeError(f"{name} holds values that are not finite; a grid can hold only finite ones")


def _extent(values: Tensor, symmetric: bool) -> tuple[Tensor, Tensor]:
    """``(low, high)``; zero lies within, so that it stays exact."""
    low, high = values.amin(dim=-1).clamp_max(0), values.amax(dim=-1).clamp_min(0)
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    return low, high


def _grid(low: Tensor, high: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Spread all integers evenly over ``[low, high]``."""
    scale = (high - low) / (2**bits - 1)
    if symmetric:
        return scale, torch.zeros_like(scale)
    qmin, qmax = integer_range(bits)
    safe = torch.where(scale > 0, scale, 1.0)
    return scale, (qmin - low / safe).round_().clamp_(qmin, qmax)


def _least_squares(
    values: Tensor, low: Tensor, high: Tensor, bits: int, symmetric: bool, importance: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Try narrower grids; for the integers that each gives, the best scale is a division of two sums."""
    best_gain, best_scale, best_zero = torch.zeros_like(low), torch.ones_like(low), torch.zeros_like(low)
    cost = torch.ones(values.shape[-1], device=values.device) if importance is None else importance
    weighted = values * cost
    for ratio in RATIOS:
        scale, zero_point = _grid(low * ratio, high * ratio, bits, symmetric)
        scale = torch.where(scale > 0, scale, 1.0)
        centred = to_integers(values, scale[..., None], zero_point[..., None], bits)
        if not symmetric:
            centred -= zero_point[..., None]
        along, energy = (centred * weighted).sum(-1), (centred.square_() @ cost).clamp_min(1e-30)
        gain = along.square() / energy  # squared error relative to that of all zeros
        better = gain > best_gain
        best_gain = torch.where(better, gain, best_gain)
        best_scale = torch.where(better, along / energy, best_scale)
        best_zero = torch.where(better, zero_point, best_zero)
    return best_scale, best_zero
