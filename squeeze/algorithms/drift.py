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

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from squeeze.algorithms.factor import Factor
from squeeze.algorithms.space import MEMORY, Space

ROWS = 1024  # output channels moved at once
EVERY = slice(None)


class Drift:
    """Sums ``W (Xo - X) X^T`` over batches, or ``R X^T``; keeps ``D`` instead where that is smaller.

    Args:
        weights: ``[out, in]``; several lie one under the other.
        stream: Batches will come by :meth:`add_stream`, not by :meth:`add`.
        space: Where the sums lie.
    """

    def __init__(self, weights: Tensor | Sequence[Tensor], stream: bool = False, space: Space = MEMORY) -> None:
        self.weights = [weights] if isinstance(weights, Tensor) else list(weights)
        out, channels = sum(map(len, self.weights)), self.weights[0].shape[1]
        self.tokens, self.space = 0, space
        self._through = stream or out < channels
        self._sum = space.zeros(out if self._through else channels, channels)

    def add(self, original: Tensor, quantized: Tensor) -> None:
        """Count a batch ``[tokens, in]`` of both."""
        self.tokens += len(quantized)
        X = quantized.float()
        away = original.float() - X
        if self._through:
            away = away @ self._rows(EVERY).float().t()
        self._add(away, X)

    def add_stream(self, missing: Tensor, inputs: Tensor) -> None:
        """Count a batch: what the stream misses, ``[tokens, out]``, and the inputs ``[tokens, in]``."""
        self.tokens += len(inputs)
        self._add(missing.float(), inputs.float())

    def _rows(self, rows: slice) -> Tensor:
        """Of all weights, one under the other."""
        ends = list(accumulate(map(len, self.weights)))
        start, stop, _ = rows.indices(ends[-1])
        starts = [end - len(W) for W, end in zip(self.weights, ends, strict=True)]
        parts = [W[max(start - at, 0) : max(stop - at, 0)] for W, at in zip(self.weights, starts, strict=True)]
        parts = [part for part in parts if len(part)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _add(self, left: Tensor, right: Tensor) -> None:
        for rows in self.space.parts(0, len(self._sum)):
            self._sum[rows].addmm_(left[:, rows].t(), right)
            self.space.release()

    def pull(self, rows: slice = EVERY) -> Tensor:
        """float32 ``[rows, in]`` of ``W D`` or ``R X^T``, mean over tokens."""
        mean = max(self.tokens, 1)
        if self._through:
            return self._sum[rows] / mean
        W = self._rows(rows).float()
        pulled = torch.empty(len(W), self._sum.shape[1])
        for columns in self.space.parts(0, pulled.shape[1]):
            torch.matmul(W, self._sum[:, columns], out=pulled[:, columns])
            self.space.release()
        return pulled.div_(mean)


def moved(weight: Tensor, pull: Tensor, factor: Factor) -> Tensor:
    """The weight to quantize, ``W + W D H^-1``, float32 ``[out, in]``, where ``H`` is as damped as its factor.

    Args:
        pull: From :meth:`Drift.pull`.
    """
    parts = []
    for rows, towards in zip(torch.split(weight, ROWS), torch.split(pull, ROWS), strict=True):
        step = _divided(towards[:, factor.columns].t(), factor)
        solution = torch.empty_like(towards)
        solution[:, factor.columns] = step.t()
        parts.append(solution.add_(rows.float()))
    return torch.cat(parts)


def _divided(step: Tensor, factor: Factor) -> Tensor:
    """``H^-1 step``, ``[in, rows]`` in the factor's order, written over ``step``; cholesky_solve copies the factor."""
    L, space, n = factor.lower, factor.space, len(step)
    for part in space.parts(0, n):
        if part.start:
            step[part].sub_(L[part, : part.start] @ step[: part.start])
        step[part] = torch.linalg.solve_triangular(L[part, part], step[part], upper=False)
        space.release()
    for part in space.parts_back(0, n):
        if part.stop < n:
            step[part].sub_(space.tall(L, slice(part.stop, n), part).t() @ step[part.stop :])
        step[part] = torch.linalg.solve_triangular(L[part, part].t(), step[part], upper=True)
        space.release()
    return step
