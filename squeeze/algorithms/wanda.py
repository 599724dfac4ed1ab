"""Wanda: weights of the smallest product with their inputs' norm leave, and nothing makes up for them.

Sun et al., 2023, https://arxiv.org/abs/2306.11695. Rows are compared by themselves, so each output loses as many.
"""

from __future__ import annotations

from torch import Tensor

from squeeze.algorithms.sparsity import Sparsity, smallest


def wanda(W: Tensor, H: Tensor, sparsity: Sparsity) -> Tensor:
    """``W [out, in]`` with zeros; the norms of its inputs are the roots of the diagonal of ``H [in, in]``."""
    return W.masked_fill(smallest(W.abs() * H.diagonal().sqrt(), sparsity), 0)


def magnitude(W: Tensor, sparsity: Sparsity) -> Tensor:
    """The baseline without data: the smallest weights of each row leave."""
    return W.masked_fill(smallest(W.abs(), sparsity), 0)
