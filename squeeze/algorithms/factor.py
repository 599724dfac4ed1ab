"""The Hessian, damped, ordered and factorized: once for all weights that share an input.

``H = L L^T`` with rows and columns in the reverse of the order in which GPTQ rounds them; see
:mod:`squeeze.algorithms.gptq` for why. Order matters since later columns make up for earlier ones: those with large
inputs go first, where most others are left to help.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from squeeze.algorithms.cholesky import cholesky_
from squeeze.algorithms.rtn import require_finite, require_group_size
from squeeze.algorithms.space import MEMORY, Space
from squeeze.errors import SqueezeError

Order = Literal["given", "act_order", "group_aware"]

RETRIES = 8  # each with ten times the damping
TILE = 256  # rows that are reordered at once


@dataclass(frozen=True)
class Factor:
    """A damped Hessian as ``L L^T``, its columns in the reverse of the order in which they are rounded.

    Args:
        lower: float32 ``[in, in]``; above the diagonal it is undefined.
        columns: ``[in]``, the input channel that each row stands for.
        order: How that order was chosen.
        group_size: What ``group_aware`` kept together.
        damping: Share of the mean diagonal that was added for the factorization to succeed.
        added: That share as a number, in units of ``H``.
        dead: Input channels that were zero in every sample.
        space: Where ``lower`` lies.
    """

    lower: Tensor
    columns: Tensor
    order: Order
    group_size: int | None
    damping: float
    added: float
    dead: int
    space: Space = MEMORY

    def diagonal(self) -> Tensor:
        """``[in]``."""
        return _diagonal(self.lower, self.space)


def factorize(
    H: Tensor,
    damping: float = 0.01,
    order: Order = "given",
    group_size: int | None = None,
    space: Space = MEMORY,
) -> Factor:
    """Factorize a Hessian once for all weights that share it.

    Args:
        H: ``[in, in]``, symmetric; not changed.
        damping: Share of the mean diagonal added to the diagonal; raised until the factorization succeeds.
        order: ``given`` rounds channels as they lie. ``act_order`` rounds those with the largest inputs first, and
            groups are formed in that order. ``group_aware`` does so for whole groups, and within each group, so that
            groups stay consecutive channels.
        group_size: Needed by ``group_aware``.
        space: Where ``H`` lies, and its factor will.

    Raises:
        SqueezeError: H is not finite, or no damping makes it positive definite.
    """
    diagonal = _diagonal(H, space).float()
    require_finite(diagonal, "Hessian")
    columns = _rounding_order(diagonal, order, group_size).flip(0)
    mean = float(diagonal.mean()) or 1.0
    for share in _rising(damping):
        lower = _lower_triangle(H, columns, space)
        for part in _each(space, len(H)):
            lower[part, part].diagonal().add_(share * mean if diagonal.any() else 1.0)
        if cholesky_(lower, space=space):
            return Factor(lower, columns, order, group_size, share, share * mean, int((diagonal == 0).sum()), space)
    raise SqueezeError(f"Hessian has no Cholesky factor, even with damping {share:g}: is it X^T X of finite inputs?")


def _each(space: Space, size: int) -> Iterator[slice]:
    """Rows whose diagonal is looked at."""
    for part in space.parts(0, size):
        yield part
        space.release()


def _diagonal(matrix: Tensor, space: Space) -> Tensor:
    """A copy of it."""
    return torch.cat([matrix[part, part].diagonal().clone() for part in _each(space, len(matrix))])


def _lower_triangle(H: Tensor, columns: Tensor, space: Space) -> Tensor:
    """float32, ``H`` with rows and columns as listed; above the diagonal memory is never touched."""
    lower = space.zeros(*H.shape)
    for start in range(0, len(columns), TILE):
        rows = H.index_select(0, columns[start : start + TILE])
        stop = start + len(rows)
        lower[start:stop, :stop] = rows.index_select(1, columns[:stop])
        space.release()
    return lower


def _rounding_order(diagonal: Tensor, order: Order, group_size: int | None) -> Tensor:
    """``[in]``, channels in the order in which they are rounded."""
    if order == "given":
        return torch.arange(len(diagonal), device=diagonal.device)
    if order == "act_order":
        return diagonal.argsort(descending=True, stable=True)
    size = require_group_size(len(diagonal), group_size)
    by_group = diagonal.reshape(-1, size)
    inner = by_group.argsort(dim=1, descending=True, stable=True)
    groups = by_group.mean(dim=1).argsort(descending=True, stable=True)
    return (inner + torch.arange(len(by_group), device=diagonal.device)[:, None] * size)[groups].flatten()


def _rising(damping: float) -> list[float]:
    return [damping, *(max(damping, 1e-3) * 10.0**power for power in range(1, RETRIES))]
