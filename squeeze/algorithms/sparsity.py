"""Which weights become zero: those of smallest score in a row, or in every group of adjacent input channels.

Shapes: a weight ``W`` and its scores are ``[out, in]``; a mask is bool ``[out, in]``, True for a weight that becomes 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sparsity:
    """How many weights become zero.

    Args:
        ratio: Share of the weights; None with a pattern.
        pattern: ``(zeros, size)``: that many zeros in every group of ``size`` adjacent input channels.
    """

    ratio: float | None = None
    pattern: tuple[int, int] | None = None

    @property
    def share(self) -> float:
        """Zeros among all weights, 0 to 1."""
        if self.pattern is not None:
            return self.pattern[0] / self.pattern[1]
        assert self.ratio is not None
        return self.ratio


def smallest(scores: Tensor, sparsity: Sparsity) -> Tensor:
    """Mask of the smallest scores: of each row, or of each group of channels in a row."""
    count, size = sparsity.pattern or (round(sparsity.share * scores.shape[1]), scores.shape[1])
    parts = scores.reshape(len(scores), -1, size)
    order = parts.argsort(dim=2, stable=True)[:, :, :count]
    return torch.zeros(parts.shape, dtype=torch.bool).scatter_(2, order, True).reshape(scores.shape)


def sparsity_fault(W: Tensor, before: Tensor, sparsity: Sparsity) -> str | None:
    """What is wrong with the zeros of ``W``, None if nothing; ``before`` may have had more zeros than the goal."""
    if sparsity.pattern is not None:
        count, size = sparsity.pattern
        wrong = int(((W == 0).reshape(len(W), -1, size).sum(2) < count).sum())
        return f"{wrong:,} groups of {size} with fewer than {count} zeros" if wrong else None
    zeros, goal = int((W == 0).sum()), sparsity.share * W.numel()
    most = max(goal, int((before == 0).sum())) + len(W)  # the count is rounded in each row
    return None if goal - len(W) <= zeros <= most else f"{zeros:,} zeros of {W.numel():,} weights"
