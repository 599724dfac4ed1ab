"""Wanda: remove the weights whose magnitude times input norm is smallest; the others are not changed.

Sun et al., 2023, https://arxiv.org/abs/2306.11695. Weights compete within their row only,
so every output channel loses as many.
"""

from __future__ import annotations

from torch import Tensor

from squeeze.algorithms.sparsity import Sparsity, smallest


def wanda(W: Tensor, H: Tensor, sparsity: Sparsity) -> Tensor:
    """``W [out, in]`` with zeros; an input's norm is the root of its entry on the diagonal of ``H [in, in]``."""
    return W.masked_fill(smallest(W.abs() * H.diagonal().sqrt(), sparsity), 0)


def magnitude(W: Tensor, sparsity: Sparsity) -> Tensor:
    """The baseline without data: the smallest weights of each row become zero."""
    return W.masked_fill(smallest(W.abs(), sparsity), 0)
