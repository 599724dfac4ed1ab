"""Which weights become zero: the smallest of a row by some score, or of every few input channels side by side.

Shapes: a weight ``W`` and its scores are ``[out, in]``; a mask is bool ``[out, in]``, True where the weight leaves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sparsity:
    """How many weights leave.

    Args:
        ratio: Share of the weights; None where a pattern says it.
        pattern: ``(zeros, of)``: so many of that many input channels side by side.
    """

    ratio: float | None = None
    pattern: tuple[int, int] | None = None

    @property
    def share(self) -> float:
        """Of all weights, 0 to 1."""
        if self.pattern is not None:
            return self.pattern[0] / self.pattern[1]
        assert self.ratio is not None
        return self.ratio


def smallest(scores: Tensor, sparsity: Sparsity) -> Tensor:
    """The weights of least score: of each row, or of each few channels of a row."""
    count, of = sparsity.pattern or (round(sparsity.share * scores.shape[1]), scores.shape[1])
    parts = scores.reshape(len(scores), -1, of)
    leaving = parts.argsort(dim=2, stable=True)[:, :, :count]
    return torch.zeros(parts.shape, dtype=torch.bool).scatter_(2, leaving, True).reshape(scores.shape)


def sparsity_fault(W: Tensor, before: Tensor, sparsity: Sparsity) -> str | None:
    """What of a weight is not as sparse as asked for; None: it is. Weights that were zero before may be more."""
    if sparsity.pattern is not None:
        count, of = sparsity.pattern
        few = int(((W == 0).reshape(len(W), -1, of).sum(2) < count).sum())
        return f"left {few:,} groups of {of} with fewer than {count} zeros" if few else None
    zeros, asked = int((W == 0).sum()), sparsity.share * W.numel()
    most = max(asked, int((before == 0).sum())) + len(W)  # rounded in each row
    return None if asked - len(W) <= zeros <= most else f"left {zeros:,} zeros of {W.numel():,} weights"
