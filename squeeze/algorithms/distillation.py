"""Distillation losses: how far a student is from its teacher.

Shapes: ``n`` examples, ``classes`` logits. Pure functions on tensors; who the teacher is, is the pass's business.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

Divergence = Literal["forward", "reverse", "skewed"]
TILE_VALUES = 1 << 18  # logits whose divergence is worked out at once: 1 MB
SKEW = 0.1  # share of the teacher in the mixture of skewed_loss


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence from the teacher's softened predictions, times T squared so that gradients keep their size.

    Hinton et al., 2015, https://arxiv.org/abs/1503.02531.

    Args:
        student, teacher: Logits ``[n, classes]``.
        temperature: T > 0; above 1 the wrong classes' order counts more.

    Returns:
        A scalar, mean over examples.
    """
    loss: Tensor = _SoftTargets.apply(student, teacher, temperature)  # type: ignore[no-untyped-call]
    return loss


class _SoftTargets(torch.autograd.Function):
    """The divergence and its gradient, ``T (p - q) / n``, of a few rows at a time that stay in the cache.

    Step by step over whole logits, each intermediate result would be as large as they are and written to memory anew.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        total, scale = student.new_zeros(()), temperature / len(student)
        gradient = torch.empty_like(student) if ctx.needs_input_grad[0] else None
        rows = max(1, TILE_VALUES // student.shape[1])
        for start in range(0, len(student), rows):
            part = slice(start, start + rows)
            log_p, log_q = (functional.log_softmax(logits[part] / temperature, dim=1) for logits in (student, teacher))
            q = log_q.exp()
            total += (log_q.sub_(log_p) * q).sum()
            if gradient is not None:
                gradient[part] = log_p.exp_().sub_(q).mul_(scale)
        ctx.gradient = gradient
        return total * temperature * scale

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        gradient, ctx.gradient = ctx.gradient, None  # taken, not copied: there is one way back through a loss
        return gradient.mul_(slope), None, None


def reverse_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence of the student's predictions from the teacher's: it keeps to what the teacher finds likely.

    Gu et al., 2023 (MiniLLM), https://arxiv.org/abs/2306.08543. Shapes and temperature as in :func:`soft_target_loss`.
    """
    log_p = functional.log_softmax(student / temperature, dim=1)
    log_q = functional.log_softmax(teacher / temperature, dim=1)
    return functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean") * temperature**2


def skewed_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence from the teacher's predictions to a mixture of a tenth of them with the student's.

    Gradients are smaller where the student finds nearly impossible what the teacher says.

    Ko et al., 2024 (DistiLLM), https://arxiv.org/abs/2402.03898. Shapes and temperature as in :func:`soft_target_loss`.
    """
    log_p = functional.log_softmax(student / temperature, dim=1)
    log_q = functional.log_softmax(teacher / temperature, dim=1)
    mixed = torch.logaddexp(log_q + math.log(SKEW), log_p + math.log1p(-SKEW))
    return functional.kl_div(mixed, log_q, log_target=True, reduction="batchmean") * temperature**2


def feature_loss(student: Tensor, teacher: Tensor, teacher_energy: Tensor | None = None) -> Tensor:
    """Squared error between hidden features as a share of the teacher's energy: 0 is equal, 1 is no better than zeros.

    Romero et al., 2014 (hints), https://arxiv.org/abs/1412.6550. Both tensors have one shape, ``[n, ...]``.

    Args:
        teacher_energy: That of more examples than these; None: of these.
    """
    share_of = energy(teacher) if teacher_energy is None else teacher_energy
    return functional.mse_loss(student, teacher) / share_of.clamp_min(torch.finfo(teacher.dtype).tiny)


def energy(features: Tensor) -> Tensor:
    """Mean square."""
    return features.square().mean()


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor | None,
    temperature: float,
    alpha: float,
    divergence: Divergence = "forward",
) -> Tensor:
    """``alpha`` times a divergence from the teacher plus ``1 - alpha`` times cross-entropy with the labels.

    Args:
        labels: ``[n]`` integers; may be None only when ``alpha`` is 1.
    """
    loss = alpha * DIVERGENCES[divergence](student, teacher, temperature)
    if alpha < 1:
        assert labels is not None, "the pass checks that there are labels"
        loss = loss + (1 - alpha) * functional.cross_entropy(student, labels)
    return loss


DIVERGENCES = {"forward": soft_target_loss, "reverse": reverse_loss, "skewed": skewed_loss}


def embedding_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine between two embeddings ``[n, width]``, mean over examples: 0 where they point one way."""
    return (1 - functional.cosine_similarity(student, teacher, dim=1)).mean()


def total_feature_loss(pairs: Sequence[tuple[Tensor, Tensor]], energies: Iterable[Tensor | None] = ()) -> Tensor:
    """Sum of :func:`feature_loss` over ``(student, teacher)`` pairs of layers.

    Args:
        energies: Of each layer of the teacher, over more examples than these; none: of these.
    """
    losses = [feature_loss(student, teacher, own) for (student, teacher), own in zip_longest(pairs, energies)]
    return torch.stack(losses).sum()
