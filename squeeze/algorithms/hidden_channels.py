"""Which channels of the residual stream leave, and what the weights that read it become without them.

All blocks read the same stream, so a channel leaves all of them at once. Those leave whose root mean square, over all
that reads the stream, is least (Minitron: Muralidharan et al., 2024, https://arxiv.org/abs/2407.14679).

Shapes: ``W`` is ``[out, in]``, its inputs ``X_o`` before and ``X`` after channels left are ``[tokens, in]`` and
``[tokens, kept]``; ``H = X^T X``, ``C = X_o^T X`` ``[in, kept]``, means over tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from squeeze.algorithms.drift import moved
from squeeze.algorithms.factor import Factor
from squeeze.algorithms.hessian import Hessian


@dataclass(frozen=True)
class Means:
    """Of what some readers are given: ``C = Xo^T X`` and ``H = X^T X``, over tokens.

    Args:
        before: ``[in]``, mean of ``Xo``.
        now: ``[kept]``, mean of ``X``.
    """

    C: Tensor
    H: Tensor
    before: Tensor
    now: Tensor
    tokens: int

    def centred(self) -> Means:
        """Without the means, for a weight whose bias makes up for them."""
        return replace(self, C=self.C - self.before.outer(self.now), H=self.H - self.now.outer(self.now))


class MeansOf:
    """Sums of them over batches.

    Args:
        size, kept: Channels of ``Xo`` and of ``X``.
    """

    def __init__(self, size: int, kept: int) -> None:
        self._hessian, self._cross = Hessian(kept), torch.zeros(size, kept)
        self._before, self._now = torch.zeros(size), torch.zeros(kept)

    def add(self, X: Tensor, Xo: Tensor) -> None:
        """Count a batch ``[tokens, kept]`` and the same tokens as they were, ``[tokens, in]``."""
        self._hessian.add(X)
        X, Xo = X.float(), Xo.float()
        self._cross.addmm_(Xo.t(), X)
        self._before += Xo.sum(0)
        self._now += X.sum(0)

    def result(self) -> Means:
        """Nothing may be added after."""
        count, tokens = max(self._hessian.tokens, 1), self._hessian.tokens
        return Means(self._cross / count, self._hessian.matrix(), self._before / count, self._now / count, tokens)


def kept_channels(importance: Tensor, count: int) -> Tensor:
    """The ``count`` most important channels, int64 ascending."""
    return importance.argsort(stable=True)[len(importance) - count :].sort().values


def refit_reader(W: Tensor, kept: Tensor, C: Tensor, H: Tensor, factor: Factor) -> Tensor:
    """float32 ``[out, kept]``: gives on ``X`` what ``W`` gave on ``X_o``, by least squares.

    The damping draws it towards what :func:`cut_reader` gives.
    """
    cut = cut_reader(W, kept, C, H)
    return moved(cut, W.float() @ C - cut @ H, factor)


def cut_reader(W: Tensor, kept: Tensor, C: Tensor, H: Tensor) -> Tensor:
    """float32 ``[out, kept]``: the columns that stay, by one factor for how much larger their inputs are now."""
    return W[:, kept].float() * (C[kept].diagonal().sum() / H.diagonal().sum().clamp_min(1e-30))


def reader_loss(V: Tensor, W: Tensor, C: Tensor, H: Tensor, energy: float) -> float:
    """Squared error per token of ``V X`` as ``W X_o``, whose square per token is ``energy``."""
    V, target = V.double(), W.double() @ C.double()
    return max(0.0, energy + float((V @ H.double() * V).sum() - 2 * (V * target).sum()))


def norm_scales(embedded: Tensor, cross: Tensor, C: Tensor, H: Tensor, damping: float) -> Tensor:
    """``[kept]``: what each input of a head that cannot change is multiplied by, so that its outputs stay best.

    ``s`` where ``|E_K diag(s) X - E X_o|^2`` is least: ``(H * E_K^T E_K) s = diag(C^T E^T E_K)``.

    Args:
        embedded: ``E_K^T E_K``, ``[kept, kept]``.
        cross: ``E^T E_K``, ``[in, kept]``.
    """
    A, b = (H * embedded).double(), (C * cross).sum(0).double()
    start = b.sum() / A.sum().clamp_min(1e-30)  # one factor for all; the damping draws towards it
    A.diagonal().add_(damping * A.diagonal().mean())
    even = torch.full_like(b, float(start))
    solution: Tensor = even + torch.linalg.solve(A, b - (H * embedded).double() @ even)
    return solution.float()
