"""SparseGPT: prune column by column, compensating each removed weight in the columns not yet visited.

Frantar & Alistarh, 2023, https://arxiv.org/abs/2301.00774. With ``H^-1 = U^T U`` (``U`` upper triangular), removing
``w_i`` and adding ``-w_i U_i: / U_ii`` to all later columns raises the outputs' squared error by ``w_i^2 / U_ii^2``.
The mask of a block of columns is chosen when the block is reached, from weights that hold all earlier corrections.

Shapes: ``W`` is ``[out, in]``, ``H`` ``[in, in]``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from squeeze.algorithms.factor import Factor, factorize
from squeeze.algorithms.sparsity import Sparsity, smallest

BLOCK = 128  # columns whose mask is chosen together; later blocks are corrected in one product


def sparsegpt(W: Tensor, H: Tensor, sparsity: Sparsity, damping: float = 0.01) -> Tensor:
    """float32 ``[out, in]`` with that sparsity; the remaining weights are corrected."""
    W, U = W.float().clone(), _upper(factorize(H, damping))
    for start in range(0, W.shape[1], BLOCK):
        stop = min(start + BLOCK, W.shape[1])
        errors = _sparsify_block(W[:, start:stop], U[start:stop, start:stop], sparsity, _count(W, start, sparsity))
        W[:, stop:].addmm_(errors, U[start:stop, stop:], alpha=-1)
    return W


def _sparsify_block(W: Tensor, U: Tensor, sparsity: Sparsity, count: int) -> Tensor:
    """Prune a block in place; returns the errors ``[out, block]`` that later columns compensate."""
    errors = torch.zeros_like(W)
    mask = _smallest_losses(W, U, count) if sparsity.pattern is None else torch.zeros_like(W, dtype=torch.bool)
    for column in range(W.shape[1]):
        if sparsity.pattern is not None and column % sparsity.pattern[1] == 0:
            group = slice(column, column + sparsity.pattern[1])
            mask[:, group] = smallest(_losses(W, U)[:, group], sparsity)
        removed = torch.where(mask[:, column], W[:, column], 0.0) / U[column, column]
        W[:, column:].addr_(removed, U[column, column:], alpha=-1)
        W[mask[:, column], column] = 0
        errors[:, column] = removed
    return errors


def _count(W: Tensor, start: int, sparsity: Sparsity) -> int:
    """Weights to remove from the block; over all blocks the share is rounded once. A pattern needs no count."""
    if sparsity.pattern is not None:
        return 0
    stop = min(start + BLOCK, W.shape[1])
    return round(sparsity.share * len(W) * stop) - round(sparsity.share * len(W) * start)


def _smallest_losses(W: Tensor, U: Tensor, count: int) -> Tensor:
    """Mask of the ``count`` weights of the whole block with the smallest losses."""
    order = _losses(W, U).flatten().argsort(stable=True)[:count]
    return torch.zeros(W.numel(), dtype=torch.bool).index_fill_(0, order, True).reshape(W.shape)


def _losses(W: Tensor, U: Tensor) -> Tensor:
    return (W / U.diagonal()).square()


def _upper(factor: Factor) -> Tensor:
    """``U``: the factor has its channels in reverse, so its triangle is inverted and flipped."""
    identity = torch.eye(len(factor.lower))
    upper: Tensor = torch.linalg.solve_triangular(factor.lower, identity, upper=False).flip(0, 1)
    return upper
