"""AWQ: scale input channels up before rounding, the more so the larger their inputs; then clip what hurts least.

Lin et al., 2023, https://arxiv.org/abs/2306.00978. Errors are measured where they count, in the outputs: through the
Hessian ``H = X^T X / tokens`` of the inputs, ``tr (W - Q) H (W - Q)^T``, so that no sample of ``X`` is kept.
Shapes: ``out`` = output channels, ``in`` = input channels, ``size`` = channels that share a scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor, grouped
from squeeze.algorithms.hessian import hessian_loss
from squeeze.algorithms.rtn import fit_scale, round_to_nearest, to_integers

STEPS = 20  # powers of the input's magnitude that are tried: 0, 1/20, ... 19/20
CLIPS = tuple(1 - 0.05 * step for step in range(11))  # of each group's largest weight: 1.00 down to 0.50


@dataclass(frozen=True)
class Searched:
    """The result of the search for channel scales.

    Args:
        scale: ``[in]``, positive: multiply the weights' columns with it, divide what writes the input by it.
        alpha: The power that won.
        before, after: Loss of rounding to nearest without and with it, summed over the linears.
    """

    scale: Tensor
    alpha: float
    before: float
    after: float


def search_scale(
    weights: Sequence[Tensor],
    magnitude: Tensor,
    H: Tensor,
    bits: int,
    group_size: int | None = None,
    symmetric: bool = True,
) -> Searched:
    """Find the power of the inputs' magnitude that costs least when weights are rounded.

    Args:
        weights: Each ``[out, in]``: all linears that read this input.
        magnitude: ``[in]``, mean absolute input per channel.
        H: ``[in, in]``, the inputs' Hessian.
    """
    stacked = torch.cat([weight.float() for weight in weights])
    losses = []
    for step in range(STEPS):
        scale = channel_scale(magnitude, step / STEPS)
        losses.append(float(_loss_when_scaled(stacked, scale, H, bits, group_size, symmetric)))
    best = min(range(STEPS), key=lambda step: losses[step])
    return Searched(channel_scale(magnitude, best / STEPS), best / STEPS, losses[0], losses[best])


def channel_scale(magnitude: Tensor, alpha: float) -> Tensor:
    """``magnitude ** alpha``, shifted so that the largest and the smallest multiply to 1; exactly ones at alpha 0."""
    scale = magnitude.float().clamp_min(1e-4) ** alpha
    return scale / (scale.max() * scale.min()).sqrt()


def _loss_when_scaled(
    weight: Tensor, scale: Tensor, H: Tensor, bits: int, group_size: int | None, symmetric: bool
) -> Tensor:
    rounded = round_to_nearest(weight * scale, bits, group_size, symmetric).dequantize() / scale
    return hessian_loss(rounded - weight, H).sum()


def round_clipped(
    weight: Tensor, H: Tensor, bits: int, group_size: int | None = None, symmetric: bool = True
) -> QuantizedTensor:
    """Round to nearest, each group's range cut to where its own share of the outputs suffers least.

    Args:
        weight: ``[out, in]``, already scaled.
        H: ``[in, in]``, of the inputs as divided by that scale; a group looks at its own diagonal block.
    """
    values = grouped(weight, group_size).float()
    size = values.shape[2]
    blocks = torch.stack([H[start : start + size, start : start + size] for start in range(0, len(H), size)]).float()
    best, scale, zero_point = _no_fit_yet(values)
    for ratio in CLIPS:
        limit = values.abs().amax(dim=-1, keepdim=True) * ratio
        s, z = fit_scale(values.clamp(-limit, limit), bits, symmetric)
        error = s[..., None] * (to_integers(values, s[..., None], z[..., None], bits) - z[..., None]) - values
        loss = (torch.einsum("ogi,gij->ogj", error, blocks) * error).sum(dim=-1)
        better = loss < best
        best, scale = torch.where(better, loss, best), torch.where(better, s, scale)
        zero_point = torch.where(better, z, zero_point)
    q = to_integers(values, scale[..., None], zero_point[..., None], bits)
    return QuantizedTensor(q.reshape(weight.shape).to(torch.int8), scale, zero_point.int(), bits, group_size, symmetric)


def _no_fit_yet(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    shape = values.shape[:2]
    return torch.full(shape, torch.inf), torch.ones(shape), torch.zeros(shape)
