"""A k x k convolution as two: depthwise k x k, then pointwise 1 x 1, fitted to what the convolution gave.

MobileNet's pair (Howard et al., 2017, https://arxiv.org/abs/1704.04861) in place of trained weights. With ``m`` kernels
for each input channel ``c`` it computes a convolution whose weight is

    W'[o, c, k] = sum_r P[o, c, r] D[c, r, k],

of rank ``m`` per input channel. The best such weight is a truncated SVD for each channel; the best outputs are another
question: what goes in is correlated, so channels make up for one another. From the SVD on, ``P`` (all channels at once)
and ``D`` (channel after channel) are solved in turn by least squares, which never makes the squared error larger.

Shapes: ``X`` are unfolded inputs ``[tokens, in x k]``, ``Y`` the outputs to aim at ``[tokens, out]``; ``k`` counts the
places of the kernel, ``W`` is ``[out, in, k]``, ``D`` ``[in, m, k]`` and ``P`` ``[out, in, m]``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from squeeze.algorithms.moments import Moments, damped, missed_share

DAMPING = 1e-4  # share of the mean diagonal: each solution is drawn towards the one before it, so dead channels stay


@dataclass(frozen=True)
class Pair:
    """What a convolution becomes.

    Args:
        depthwise: ``[in, m, k]``.
        pointwise: ``[out, in, m]``.
        bias: ``[out]``, so that each output's mean is the one aimed at.
        errors: Share of the outputs' variance that is missed: by the SVD, then after each round.
    """

    depthwise: Tensor
    pointwise: Tensor
    bias: Tensor
    errors: list[float]


def separate(W: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """``D`` and ``P`` of the nearest weight, by an SVD for each input channel; ``multiplier`` is at most ``k``."""
    U, S, V = torch.linalg.svd(W.permute(1, 0, 2).double(), full_matrices=False)
    P = U[:, :, :multiplier] * S[:, None, :multiplier]
    return V[:, :multiplier].float(), P.permute(1, 0, 2).float()


def fit_pair(W: Tensor, moments: Moments, multiplier: int = 1, rounds: int = 10) -> Pair:
    """Fit the pair to the outputs, from the SVD of the weight on.

    Args:
        rounds: In which ``P`` and ``D`` are each solved once.

    Raises:
        SqueezeError: something that was counted is not finite.
    """
    C, B, variance = moments.covariances()
    D, P = separate(W, multiplier)
    errors = [_error(D, P, C, B, variance)]
    for _ in range(rounds):
        P = _solve_pointwise(D, P, C, B)
        D = _solve_depthwise(D, P, C, B)
        errors.append(_error(D, P, C, B, variance))
    x, y = moments.means()
    return Pair(D, P, y - joined(D, P).flatten(1) @ x, errors)


def joined(D: Tensor, P: Tensor) -> Tensor:
    """``W' [out, in, k]``, the weight of the one convolution that computes the same."""
    return torch.einsum("ocr,crk->ock", P, D)


def _error(D: Tensor, P: Tensor, C: Tensor, B: Tensor, variance: float) -> float:
    return missed_share(joined(D, P).flatten(1), C, B, variance)


def _solve_pointwise(D: Tensor, P: Tensor, C: Tensor, B: Tensor) -> Tensor:
    """All of ``P`` at once: a linear layer behind the depthwise outputs."""
    channels, m, k = D.shape
    through = torch.einsum("crk,ckn->crn", D, C.view(channels, k, -1)).reshape(channels * m, channels, k)
    Z = torch.einsum("ndk,dsk->nds", through, D).reshape(channels * m, channels * m).double()
    aim = torch.einsum("crk,cko->cro", D, B.view(channels, k, -1)).reshape(channels * m, -1).double()
    before = P.flatten(1).t().double()
    step = torch.linalg.solve(damped(Z, DAMPING), aim - Z @ before)
    solved: Tensor = (before + step).t().float().reshape(P.shape)
    return solved


def _solve_depthwise(D: Tensor, P: Tensor, C: Tensor, B: Tensor) -> Tensor:
    """``D`` channel after channel, the others as they are by then."""
    channels, m, k = D.shape
    D, residual = D.clone(), B.t() - joined(D, P).flatten(1) @ C  # [out, in x k]
    for c in range(channels):
        own = slice(c * k, (c + 1) * k)
        A = torch.kron(P[:, c].t() @ P[:, c], C[own, own]).double()
        pull = (P[:, c].t() @ residual[:, own]).double().flatten()
        step = torch.linalg.solve(damped(A, DAMPING), pull).float().view(m, k)
        D[c] += step
        residual -= (P[:, c] @ step) @ C[own]
    return D
