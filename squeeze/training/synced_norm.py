"""Batch norm over the batch of all processes: the statistics, and their gradients, are of every process's rows.

torch's own ``SyncBatchNorm`` does the same on GPUs only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from squeeze.training.peers import Peers


@contextmanager
def synced_norms(module: nn.Module, peers: Peers) -> Iterator[None]:
    """Let the batch norms of a module see the rows of all processes for as long as the ``with`` lasts."""
    norms = [child for child in module.modules() if isinstance(child, _BatchNorm)]
    for norm in norms:
        norm.forward = partial(_forward, norm, peers)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _forward(norm: _BatchNorm, peers: Peers, inputs: Tensor) -> Tensor:
    if not norm.training and norm.running_mean is not None:
        return type(norm).forward(norm, inputs)
    norm._check_input_dim(inputs)  # type: ignore[no-untyped-call]
    outputs, mean, variance, count = _SyncedNorm.apply(inputs, norm.weight, norm.bias, norm.eps, peers)  # type: ignore[no-untyped-call]
    if norm.training and norm.running_mean is not None:
        _note(norm, mean, variance * count / (count - 1).clamp_min(1))
    result: Tensor = outputs
    return result


def _note(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Update the running statistics as the norm itself does; ``variance`` is unbiased."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    momentum = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), momentum)


class _SyncedNorm(torch.autograd.Function):
    """``(x - mean) / sqrt(variance + eps) * weight + bias``, channels in dimension 1."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, peers: Peers
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = _statistics(x, peers)
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(variance + eps), count)
        ctx.peers, ctx.counted = peers, peers.share.weight
        outputs = functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)
        ctx.mark_non_differentiable(mean, variance, count)
        return outputs, mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradients[0]
        x, weight, mean, inverse, count = ctx.saved_tensors
        normal = (x - _spread(mean, x)) * _spread(inverse, x)
        own = torch.stack([gradient.sum(_but_channels(x)), (gradient * normal).sum(_but_channels(x))])
        sums = own.double()
        ctx.peers.group.add_up(sums)
        every, along = (ctx.counted * sums / count).to(x.dtype)  # rows of weight 0 are not in the statistics
        factor = inverse if weight is None else inverse * weight
        to_inputs = (gradient - _spread(every, x) - normal * _spread(along, x)) * _spread(factor, x)
        return to_inputs, None if weight is None else own[1], None if weight is None else own[0], None, None


def _statistics(x: Tensor, peers: Peers) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance ``[channels]`` and the count of values behind them, over the rows of all processes.

    Chan et al., 1979: sums of squares about each process's own mean, which do not cancel.
    """
    variance, mean = torch.var_mean(x.detach(), _but_channels(x), correction=0)
    own = torch.full_like(mean, peers.share.weight * (x.numel() // x.shape[1]), dtype=torch.float64)
    counts, means, variances = peers.group.gather(torch.stack([own, mean.double(), variance.double()])).unbind(1)
    count = counts.sum(0)
    centre = (counts * means).sum(0) / count
    spread = (counts * (variances + (means - centre).square())).sum(0) / count
    return centre.to(x.dtype), spread.to(x.dtype), count


def _but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def _spread(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.dim() - 2))
