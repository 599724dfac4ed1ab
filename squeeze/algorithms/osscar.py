"""OSSCAR: remove input channels of a linear and refit the other weights so that outputs change least.

Meng et al., 2024, https://arxiv.org/abs/2403.12983. Over the channels ``K`` that are kept, the squared error of
``V X_K`` as ``W X + R`` (``R``: what the outputs miss beside, see :mod:`squeeze.algorithms.drift`) is least for

    V = W_K + (W_C H_CK + (R X^T)_K) H_KK^-1,    C = all others,

and when a unit ``u`` of channels leaves, it grows by ``tr V_u ([H_KK^-1]_uu)^-1 V_u^T``: the optimal brain surgeon's
(Hassibi & Stork, 1993) for whole channels. Units leave in rounds; after each, ``V`` and ``H_KK^-1`` are those of the
channels that are left, by one block update, and in the end ``V`` is solved anew.

Shapes: ``W`` is ``[out, in]``, ``H = X X^T`` ``[in, in]``, ``pull = R X^T`` ``[out, in]``; a unit is ``size`` channels
side by side, one of an MLP's or all those of the attention heads that share keys and values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from squeeze.algorithms.drift import moved
from squeeze.algorithms.factor import Factor, factorize


def kept_units(target: Tensor, factor: Factor, size: int, count: int, rounds: int = 16) -> Tensor:
    """The ``count`` units that stay, int64 ascending.

    Args:
        target: float32 ``[out, in]``, the best weights while all channels are there: ``W + R X^T H^-1``.
        factor: Of the damped ``H``, its channels in the given order.
        rounds: In which units leave; each one fewer ignores more of how they make up for one another.
    """
    V, inverse = target, torch.cholesky_inverse(factor.lower).flip(0, 1)  # the factor's channels lie in reverse
    remaining = torch.arange(V.shape[1] // size)
    leaving = len(remaining) - count
    for round_number in range(min(rounds, leaving), 0, -1):
        order = removal_costs(V, inverse, size).argsort(stable=True)
        leaving_units, stay = order[: leaving // round_number], order[leaving // round_number :].sort().values
        leaving -= len(leaving_units)
        V, inverse = _without(V, inverse, channels(leaving_units, size), channels(stay, size))
        remaining = remaining[stay]
    return remaining


def removal_costs(V: Tensor, inverse: Tensor, size: int) -> Tensor:
    """``[units]``: growth of the squared output error when a unit is removed and the others are refitted."""
    units = V.shape[1] // size
    blocks = inverse.reshape(units, size, units, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    columns = V.reshape(len(V), units, size).permute(1, 2, 0)
    costs: Tensor = (columns * torch.linalg.solve(blocks, columns)).sum(dim=(1, 2))
    return costs


def refit(W: Tensor, H: Tensor, pull: Tensor | None, units: Tensor, damping: float = 0.01) -> Tensor:
    """``V [out, kept]``, the weights of the channels that are kept, solved by least squares."""
    removed = torch.ones(len(H), dtype=torch.bool)
    removed[units] = False
    factor = factorize(H[units][:, units], damping)
    missing = W[:, removed].float() @ H[removed][:, units]
    return moved(W[:, units], missing if pull is None else missing + pull[:, units], factor)


def channels(units: Tensor, size: int) -> Tensor:
    """Numbers of all channels of some units."""
    return (units[:, None] * size + torch.arange(size)).flatten()


def _without(V: Tensor, inverse: Tensor, removed: Tensor, stay: Tensor) -> tuple[Tensor, Tensor]:
    """``V`` and ``H^-1`` of the channels that stay."""
    B = inverse[stay][:, removed]
    step = torch.linalg.solve(inverse[removed][:, removed], B.t())
    return V[:, stay].addmm_(V[:, removed], step, alpha=-1), inverse[stay][:, stay].addmm_(B, step, alpha=-1)
