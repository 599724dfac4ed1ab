"""SparseGPT: weights leave column by column, and those still to come make up for each.

Frantar & Alistarh, 2023, https://arxiv.org/abs/2301.00774. With ``H^-1 = U^T U`` (``U`` upper triangular), taking out
``w_i`` costs ``w_i^2 / U_ii^2`` of the outputs' squared error when all later columns answer with ``-w_i U_i: / U_ii``.
The columns of a block are judged together, when it is reached: what earlier ones left has changed them by then.

Shapes: ``W`` is ``[out, in]``, ``H`` ``[in, in]``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from squeeze.algorithms.factor import Factor, factorize
from squeeze.algorithms.sparsity import Sparsity, smallest

BLOCK = 128  # columns that are judged together; later blocks are changed once for all of them


def sparsegpt(W: Tensor, H: Tensor, sparsity: Sparsity, damping: float = 0.01) -> Tensor:
    """float32 ``[out, in]``, as sparse as asked for; what stays is changed."""
    W, U = W.float().clone(), _upper(factorize(H, damping))
    for start in range(0, W.shape[1], BLOCK):
        stop = min(start + BLOCK, W.shape[1])
        errors = _sparsify_block(W[:, start:stop], U[start:stop, start:stop], sparsity, _leaving(W, start, sparsity))
        W[:, stop:].addmm_(errors, U[start:stop, stop:], alpha=-1)
    return W


def _sparsify_block(W: Tensor, U: Tensor, sparsity: Sparsity, count: int) -> Tensor:
    """Change a block in place; the errors ``[out, block]`` that later columns answer."""
    errors = torch.zeros_like(W)
    leaving = _fewest_losses(W, U, count) if sparsity.pattern is None else torch.zeros_like(W, dtype=torch.bool)
    for column in range(W.shape[1]):
        if sparsity.pattern is not None and column % sparsity.pattern[1] == 0:
            group = slice(column, column + sparsity.pattern[1])
            leaving[:, group] = smallest(_losses(W, U)[:, group], sparsity)
        gone = torch.where(leaving[:, column], W[:, column], 0.0) / U[column, column]
        W[:, column:].addr_(gone, U[column, column:], alpha=-1)
        W[leaving[:, column], column] = 0
        errors[:, column] = gone
    return errors


def _leaving(W: Tensor, start: int, sparsity: Sparsity) -> int:
    """How many weights of the block leave, so that all blocks together lose the share, rounded once."""
    if sparsity.pattern is not None:
        return 0
    stop = min(start + BLOCK, W.shape[1])
    return round(sparsity.share * len(W) * stop) - round(sparsity.share * len(W) * start)


def _fewest_losses(W: Tensor, U: Tensor, count: int) -> Tensor:
    """Mask of the ``count`` weights of the whole block that cost least."""
    order = _losses(W, U).flatten().argsort(stable=True)[:count]
    return torch.zeros(W.numel(), dtype=torch.bool).index_fill_(0, order, True).reshape(W.shape)


def _losses(W: Tensor, U: Tensor) -> Tensor:
    return (W / U.diagonal()).square()


def _upper(factor: Factor) -> Tensor:
    """``U``, from the factor whose channels lie in reverse: their triangle, inverted and turned round."""
    identity = torch.eye(len(factor.lower))
    upper: Tensor = torch.linalg.solve_triangular(factor.lower, identity, upper=False).flip(0, 1)
    return upper
