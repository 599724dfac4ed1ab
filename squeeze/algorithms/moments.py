"""What least squares needs to know of inputs and of the outputs to aim at, added up over batches."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from squeeze.errors import SqueezeError


class Moments:
    """Sums over batches; memory does not grow with the tokens.

    Args:
        columns: Of an input row.
        out: Of an output row.
    """

    def __init__(self, columns: int, out: int) -> None:
        self.tokens = 0
        self._xx, self._xy = torch.zeros(columns, columns), torch.zeros(columns, out)
        self._x, self._y, self._yy = torch.zeros(columns).double(), torch.zeros(out).double(), torch.zeros(out).double()

    def add(self, X: Tensor, Y: Tensor) -> None:
        """Count a batch: inputs ``[tokens, columns]``, outputs to aim at ``[tokens, out]``."""
        self.tokens += len(X)
        self._xx.addmm_(X.t(), X)
        self._xy.addmm_(X.t(), Y)
        self._x += X.sum(0)
        self._y += Y.sum(0)
        self._yy += Y.square().sum(0)

    def means(self) -> tuple[Tensor, Tensor]:
        """Of inputs ``[columns]`` and outputs ``[out]``."""
        return (self._x / self.tokens).float(), (self._y / self.tokens).float()

    def covariances(self) -> tuple[Tensor, Tensor, float]:
        """``C [columns, columns]``, ``B [columns, out]`` and the variance of all outputs together.

        Raises:
            SqueezeError: something that was counted is not finite.
        """
        x, y = self.means()
        variance = float((self._yy / self.tokens - (self._y / self.tokens).square()).sum())
        C, B = self._xx / self.tokens - torch.outer(x, x), self._xy / self.tokens - torch.outer(x, y)
        if not (torch.isfinite(C).all() and torch.isfinite(B).all() and math.isfinite(variance)):
            raise SqueezeError("inputs or outputs are not finite; nothing can be fitted to them")
        return C, B, variance


def missed_share(W: Tensor, C: Tensor, B: Tensor, variance: float) -> float:
    """Share of the outputs' variance that a weight ``[out, columns]`` misses, each output's mean apart."""
    missed = variance + float(((W @ C - 2 * B.t()) * W).sum(dtype=torch.float64))
    return max(missed, 0.0) / max(variance, 1e-30)


def damped(A: Tensor, share: float) -> Tensor:
    """With that share of its mean diagonal added to it, so that it can be inverted."""
    return A + torch.eye(len(A), dtype=A.dtype) * (share * float(A.diagonal().mean()) or 1.0)
