"""Round a layer's weights so that its output stays, not so that its weights do.

Letters as in the papers: ``W`` ``[out, in]`` weights, ``X`` the inputs that the quantized layer sees, ``Y`` the outputs
that the float layer gives. Pure functions on tensors; collecting X and Y is the business of ``squeeze.passes``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor, integer_range, symmetric_scale

DAMPING = 1e-3  # share of the mean curvature that holds a weight to its float value where the data say nothing
SHRINKS = (1.0, 0.95, 0.9, 0.85)  # clipping the largest weight buys finer steps for all others


@dataclass(frozen=True)
class Moments:
    """What least squares needs to know of a layer's inputs and outputs.

    Args:
        mean_x: ``[groups, in]``.
        mean_y: ``[out]``.
        H: Covariance of the inputs, ``[groups, in, in]``; groups = 1, or one per group of output channels.
        C: Covariance of outputs with inputs, ``[out, in]``.
    """

    mean_x: Tensor
    mean_y: Tensor
    H: Tensor
    C: Tensor

    @classmethod
    def of(cls, X: Tensor, Y: Tensor) -> Moments:
        """From samples: ``X`` ``[groups, samples, in]``, ``Y`` ``[out, samples]``."""
        X, Y = X.double(), Y.double()
        mean_x, mean_y = X.mean(dim=1), Y.mean(dim=1)
        centered_x = X - mean_x[:, None]
        centered_y = (Y - mean_y[:, None]).reshape(X.shape[0], -1, Y.shape[1])
        H = centered_x.mT @ centered_x / X.shape[1]
        C = (centered_y @ centered_x / X.shape[1]).reshape(Y.shape[0], -1)
        return cls(mean_x, mean_y, H, C)


def corrected_bias(bias: Tensor, float_output: Tensor, quantized_output: Tensor) -> Tensor:
    """Move the bias so that each output channel keeps its mean.

    Rounding shifts a channel by (error of the weights) x (mean of the inputs): with ReLU inputs, whose mean is not
    zero, that is most of the damage done to depthwise layers. Nagel et al., 2019, https://arxiv.org/abs/1906.04721.

    Args:
        bias: ``[out]``.
        float_output, quantized_output: ``[out, samples]``.
    """
    shift = float_output.double().mean(dim=1) - quantized_output.double().mean(dim=1)
    return (bias.double() + shift).to(bias.dtype)


def round_least_squares(W: Tensor, moments: Moments, bits: int = 8) -> tuple[QuantizedTensor, Tensor]:
    """Choose integers and bias that keep the float layer's outputs on the inputs the quantized layer sees.

    Minimizes ``|| Y - (scale * q) X - b ||^2`` by coordinate descent over the integers, one output channel apart from
    the other, for a few scales each; ``b`` has a closed form. After COMQ, Zhang et al., 2024,
    https://arxiv.org/abs/2403.07134.

    Returns:
        The weights ``[out, in]``, per-channel, and the bias ``[out]``.
    """
    W = W.double()
    out, width = W.shape
    damping = DAMPING * moments.H.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(1e-12)
    H = moments.H + damping[:, None, None] * torch.eye(width, dtype=W.dtype)
    per_row = out // H.shape[0]
    rhs = moments.C + damping.repeat_interleave(per_row)[:, None] * W
    target = torch.linalg.solve(H, rhs.reshape(H.shape[0], per_row, width).mT).mT.reshape(out, width)
    scale, q = _best_of_scales(symmetric_scale(W, bits), target, H, bits)
    mean_x = moments.mean_x.repeat_interleave(per_row, dim=0)
    bias = moments.mean_y - ((q * scale) * mean_x).sum(dim=1)
    zeros = torch.zeros_like(scale, dtype=torch.int32)
    return QuantizedTensor(q.to(torch.int8), scale.float(), zeros, bits, None, True), bias.float()


def _best_of_scales(full: Tensor, target: Tensor, H: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Per output channel the scale and the integers with the least loss."""
    scale, q = full, torch.zeros_like(target)
    least = torch.full_like(full, torch.inf)
    for shrink in SHRINKS:
        candidate = (full * shrink).float().double()
        q_new, loss = _descend(target, H, candidate, bits)
        better = loss[:, None] < least
        scale, q = torch.where(better, candidate, scale), torch.where(better, q_new, q)
        least = torch.where(better, loss[:, None], least)
    return scale, q


def _descend(target: Tensor, H: Tensor, scale: Tensor, bits: int, sweeps: int = 20) -> tuple[Tensor, Tensor]:
    """Change one integer at a time to the best one given all others, until none changes."""
    limit = integer_range(bits)[1]
    groups, width = H.shape[0], H.shape[1]
    q = torch.round(target / scale).clamp(-limit, limit)
    curvature = H.diagonal(dim1=1, dim2=2).repeat_interleave(len(target) // groups, dim=0).clamp_min(1e-20)
    gradient = _gradient(q * scale - target, H)
    for _ in range(sweeps):
        before = q.clone()
        for j in range(width):
            new = torch.round(q[:, j] - gradient[:, j] / (curvature[:, j] * scale[:, 0])).clamp(-limit, limit)
            step = (new - q[:, j]) * scale[:, 0]
            q[:, j] = new
            gradient += (step.reshape(groups, -1, 1) * H[:, j, None, :]).reshape(gradient.shape)
        if torch.equal(before, q):
            break
    error = q * scale - target
    return q, (_gradient(error, H) * error).sum(dim=1)


def _gradient(error: Tensor, H: Tensor) -> Tensor:
    return (error.reshape(H.shape[0], -1, H.shape[1]) @ H).reshape(error.shape)
