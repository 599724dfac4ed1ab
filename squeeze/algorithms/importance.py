"""Importance: which channels of a layer, or of layers that must be cut together, matter least.

Shapes: a *slice* is what would leave with a channel, ``[channels, elements]``: rows of the layers that write the
channel, columns of the layers that read it, scales and biases of the norms between. Pure functions on tensors;
finding the slices is the business of ``squeeze.passes.prune``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def l1(slices: Sequence[Tensor]) -> Tensor:
    """Sum of absolute weights per channel, ``[channels]``: Li et al., 2016, https://arxiv.org/abs/1608.08710."""
    return torch.stack([part.abs().sum(1) for part in slices]).sum(0)


def l2(slices: Sequence[Tensor]) -> Tensor:
    """Euclidean norm over all coupled slices, ``[channels]``: Fang et al., 2023, https://arxiv.org/abs/2301.12900."""
    return torch.stack([part.square().sum(1) for part in slices]).sum(0).sqrt()


def bn_scale(scales: Sequence[Tensor]) -> Tensor:
    """Mean absolute batch-norm scale per channel, ``[channels]``: Liu et al., 2017, https://arxiv.org/abs/1708.06519.

    Args:
        scales: One ``[channels]`` tensor per batch norm of the coupled layers.
    """
    return torch.stack([scale.abs() for scale in scales]).mean(0)


def taylor(slices: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Squared first-order estimate of the loss change when a channel leaves, ``[channels]``.

    Molchanov et al., 2019, https://arxiv.org/abs/1906.10771, equation 8, summed over the coupled slices.
    Add up what it gives for several batches: a channel that matters for some examples only is kept.
    """
    return torch.stack([(w * g).sum(1).square() for w, g in zip(slices, gradients, strict=True)]).sum(0)


def random(channels: int, generator: torch.Generator) -> Tensor:
    """A score without meaning, ``[channels]`` in [0, 1): what every other importance has to beat."""
    return torch.rand(channels, generator=generator)


def normalized(scores: Tensor) -> Tensor:
    """Divide by the mean, so that layers with large weights do not win a global comparison by size alone."""
    mean = scores.mean()
    return scores / mean if mean > 0 else torch.ones_like(scores)


def least_important(scores: Tensor, count: int) -> list[int]:
    """Numbers of the ``count`` lowest scores, ascending by number; of equal scores the later channel goes first."""
    order = torch.argsort(scores.flip(0).double(), stable=True)[:count]
    return sorted(len(scores) - 1 - int(position) for position in order)
