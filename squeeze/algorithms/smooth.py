"""SmoothQuant: move the difficulty of outlier channels from the activations into the weights.

Xiao et al., 2022, https://arxiv.org/abs/2211.10438. ``X W^T = (X / s) (s W)^T``: the division is folded into whatever
writes ``X`` (a norm's weight), the product into the weights that read it. Pure functions on tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SMALLEST = 1e-5


def smooth_scale(input_max: Tensor, weights: Sequence[Tensor], alpha: float = 0.5) -> Tensor:
    """``s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)``, equation 4; 1 for a channel that is dead on either side.

    Args:
        input_max: ``[in]``, largest absolute input per channel.
        weights: Each ``[out, in]``: all linears that read this input.
        alpha: 0 leaves the activations as they are, 1 makes all their channels equally large.

    Returns:
        ``[in]``, positive: divide what writes the input by it, multiply the weights' columns with it.
    """
    weight_max = torch.stack([weight.float().abs().amax(dim=0) for weight in weights]).amax(dim=0)
    is_live = (input_max > 0) & (weight_max > 0)
    scale = input_max.float().clamp_min(SMALLEST) ** alpha / weight_max.clamp_min(SMALLEST) ** (1 - alpha)
    return torch.where(is_live, scale, 1.0).clamp_min(SMALLEST)


def scale_columns(weight: Tensor, scale: Tensor) -> Tensor:
    """A weight ``[out, in]`` whose input arrives divided by ``scale [in]``; the dtype stays."""
    return (weight.float() * scale).to(weight.dtype)


def scale_rows(weight: Tensor, scale: Tensor) -> Tensor:
    """A linear's weight ``[out, in]``, a bias or a norm's weight ``[out]``, its output divided by ``scale [out]``."""
    shape = (-1, *(1 for _ in weight.shape[1:]))
    return (weight.float() / scale.reshape(shape)).to(weight.dtype)
