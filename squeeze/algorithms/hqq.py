"""HQQ: fit the grid without data, to an error in which a few outliers count little.

Badri & Shaji, 2023, "Half-Quadratic Quantization of Large Machine Learning Models". The error's l_p norm, p < 1, is
minimised by turns: shrink the error, so that a few large ones are left as they are; then move the grid to what remains.
The paper moves a zero point that is a real number. On the house's grid, whose zero points are integers, the scale moves
too, to the least squares against the shrunken target; the best grid on the way is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor, grouped, integer_range
from squeeze.algorithms.rtn import fit_scale, require_finite, storable, to_integers

ROUNDS = 20
P = 0.7  # exponent of the l_p norm
BETA, GROWTH = 10.0, 1.01  # weight of the quadratic penalty, errors in units of the scale; it grows each round


def half_quadratic(
    weight: Tensor,
    bits: int,
    group_size: int | None = None,
    symmetric: bool = False,
    scale_dtype: torch.dtype = torch.float16,
) -> QuantizedTensor:
    """Quantize a weight ``[out, in]`` without looking at data, for the least l_p error of the weights.

    Raises:
        ShapeError: ``group_size`` does not divide ``in``.
        SqueezeError: A weight is not finite.
    """
    values = grouped(weight, group_size).float()
    require_finite(values, "weight")
    best = fit_scale(values, bits, symmetric, "absmax", scale_dtype)
    grid = fit_scale(values, bits, symmetric, "mse", scale_dtype)
    for turn in range(ROUNDS):
        best = _better(values, best, grid, bits)
        scale, zero_point = _moved(values, *grid, bits, symmetric, BETA * GROWTH**turn)
        grid = storable(scale, scale_dtype), zero_point
    scale, zero_point = _better(values, best, grid, bits)
    q = to_integers(values, scale[..., None], zero_point[..., None], bits)
    return QuantizedTensor(q.reshape(weight.shape).to(torch.int8), scale, zero_point.int(), bits, group_size, symmetric)


def lp_loss(values: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """``sum |w - s (q - z)|^p`` over each group: values ``[..., size]``, grid ``[...]``."""
    s, z = scale[..., None], zero_point[..., None]
    return (values - s * (to_integers(values, s, z, bits) - z)).abs().pow(P).sum(dim=-1)


def _better(values: Tensor, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], bits: int) -> tuple[Tensor, Tensor]:
    """Group by group, the grid of the smaller loss."""
    wins = lp_loss(values, *new, bits) < lp_loss(values, *old, bits)
    return torch.where(wins, new[0], old[0]), torch.where(wins, new[1], old[1])


def _moved(
    values: Tensor, scale: Tensor, zero_point: Tensor, bits: int, symmetric: bool, beta: float
) -> tuple[Tensor, Tensor]:
    """One turn: shrink the errors, then fit zero point and scale to what is left of the weights."""
    s, z = scale[..., None], zero_point[..., None]
    q = to_integers(values, s, z, bits)
    shrunk_target = values - s * _shrunk(values / s - (q - z), beta)
    if not symmetric:
        zero_point = (q - shrunk_target / s).mean(dim=-1).round_().clamp_(*integer_range(bits))
    centred = q - zero_point[..., None]
    energy = centred.square().sum(dim=-1)
    fitted = (centred * shrunk_target).sum(dim=-1) / energy.clamp_min(1)
    return torch.where((energy > 0) & (fitted > 0), fitted, scale), zero_point


def _shrunk(error: Tensor, beta: float) -> Tensor:
    """The generalized soft threshold of the l_p norm: small errors go to zero, large ones stay almost whole."""
    size = error.abs()
    return error.sign() * (size - size.clamp_min(1e-8).pow(P - 1) / beta).clamp_min(0)
