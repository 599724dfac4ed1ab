"""Shift a weight to compensate upstream error before rounding: its outputs should be the original model's.

By the time a weight is quantized, its inputs ``X`` are no longer the original's ``Xo``: earlier weights have changed
them. The rounding that leaves ``|W Xo - Q X|^2`` least is that of ``|(W' - Q) X|^2`` for

    W' = W + W D H^-1,    D = (Xo - X) X^T,    H = X X^T,

since the rest does not depend on ``Q``: the weight is moved first, then quantized as ever. Li et al., "GPTAQ", 2025,
https://arxiv.org/abs/2504.02692, call it asymmetric calibration and correct column by column; this is the same target
in closed form. Where the weight's output is added to the residual stream, the stream itself is the target: with what it
misses there, ``R``, in place of ``W (Xo - X)``, the weight makes up for all that earlier blocks left in it.

Shapes: ``Xo`` and ``X`` are given as ``[tokens, in]``, the same tokens in the same order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from squeeze.algorithms.factor import Factor

ROWS = 1024  # output channels moved at once
EVERY = slice(None)


class Drift:
    """Sums ``W (Xo - X) X^T`` over batches, or ``R X^T``; keeps ``D`` instead where that is smaller.

    Args:
        weight: ``[out, in]``.
        stream: Batches will come by :meth:`add_stream`, not by :meth:`add`.
    """

    def __init__(self, weight: Tensor, stream: bool = False) -> None:
        out, channels = weight.shape
        self.weight, self.tokens = weight, 0
        self._through = stream or out < channels
        self._sum = torch.zeros(out if self._through else channels, channels)

    def add(self, original: Tensor, quantized: Tensor) -> None:
        """Count a batch ``[tokens, in]`` of both."""
        self.tokens += len(quantized)
        X = quantized.float()
        away = original.float() - X
        if self._through:
            away = away @ self.weight.float().t()
        self._sum.addmm_(away.t(), X)

    def add_stream(self, missing: Tensor, inputs: Tensor) -> None:
        """Count a batch: what the stream misses, ``[tokens, out]``, and the inputs ``[tokens, in]``."""
        self.tokens += len(inputs)
        self._sum.addmm_(missing.float().t(), inputs.float())

    def pull(self, rows: slice = EVERY) -> Tensor:
        """float32 ``[rows, in]`` of ``W D`` or ``R X^T``, mean over tokens."""
        mean = max(self.tokens, 1)
        return self._sum[rows] / mean if self._through else (self.weight[rows].float() @ self._sum).div_(mean)


def moved(weight: Tensor, pull: Tensor, factor: Factor) -> Tensor:
    """The weight to quantize, ``W + W D H^-1``, float32 ``[out, in]``, where ``H`` is as damped as its factor.

    Args:
        pull: From :meth:`Drift.pull`.
    """
    parts = []
    for rows, towards in zip(torch.split(weight, ROWS), torch.split(pull, ROWS), strict=True):
        step = towards[:, factor.columns].t()
        for triangle, upper in ((factor.lower, False), (factor.lower.t(), True)):  # cholesky_solve would copy it
            step = torch.linalg.solve_triangular(triangle, step, upper=upper)
        solution = torch.empty_like(towards)
        solution[:, factor.columns] = step.t()
        parts.append(solution.add_(rows.float()))
    return torch.cat(parts)
