"""Removed blocks as one linear map of what the block before them adds to the stream.

ReplaceMe (Shopkhoev et al., 2025, https://arxiv.org/abs/2505.02819): with ``m`` what the last linear before the gap
adds and ``y`` the stream beside it, ``T`` takes ``y + T m`` as near as it can to the stream behind the gap. Here
``T = 1 + D``, and ridge regression draws ``D`` to 0, which is the gap merely skipped.

Shapes: ``tokens`` rows, ``width`` channels of the stream.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Gap:
    """Sums over tokens, from which the map is solved: 16 bytes for each of ``width`` x ``width``."""

    def __init__(self, width: int) -> None:
        self.gram = torch.zeros(width, width, dtype=torch.float64)
        self.products = torch.zeros(width, width, dtype=torch.float64)

    def add(self, added: Tensor, before: Tensor, behind: Tensor) -> None:
        """See some tokens, each weighed by what the norms that read the stream divide it by.

        Args:
            added: ``[tokens, width]``, what the linear gives.
            before: ``[tokens, width]``, the stream in front of the gap, ``added`` in it.
            behind: ``[tokens, width]``, the stream that is aimed at.
        """
        size = behind.square().mean(1, keepdim=True).sqrt().clamp(min=torch.finfo(torch.float32).tiny)
        inputs = added / size
        self.gram += (inputs.T @ inputs).double()
        self.products += (inputs.T @ ((behind - before) / size)).double()

    def map(self, damping: float) -> Tensor:
        """``T`` ``[width, width]``, float32.

        Args:
            damping: Share of the mean diagonal that is added to it.
        """
        diagonal = self.gram.diagonal()
        ridge = damping * diagonal.mean().clamp(min=torch.finfo(torch.float64).tiny)
        factor = torch.linalg.cholesky(self.gram + torch.diag(ridge.expand(len(diagonal))))
        return (torch.eye(len(diagonal)) + torch.cholesky_solve(self.products, factor).T).float()
