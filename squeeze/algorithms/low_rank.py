"""A matrix as the product of two thinner ones, fitted to what it gave: activation-aware SVD.

Of all ``W' = U V`` of rank ``r``, the one with the least squared error of outputs is reduced-rank regression (Izenman,
1975, https://doi.org/10.1016/0047-259X(75)90042-1): solve the layer anew by least squares, ``S [out, in]``, and project
its outputs on the ``r`` directions in which they vary most, the eigenvectors ``U`` of ``S C S^T``; then ``V = U^T S``.
Where inputs are the original's, ``S`` is its weight, and this is the truncated SVD of ``W C^(1/2)`` (SVD-LLM: Wang et
al., 2024, https://arxiv.org/abs/2403.07378).

Shapes: ``X`` inputs ``[tokens, in]``, ``Y`` outputs to aim at ``[tokens, out]``; ``C [in, in]`` and ``B [in, out]`` are
their covariances.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from squeeze.algorithms.moments import Moments, damped, missed_share

DAMPING = 1e-4  # share of the mean diagonal: the solution is drawn towards the weight, so dead channels stay


@dataclass(frozen=True)
class Factors:
    """What a matrix becomes.

    Args:
        first: ``[rank, in]``.
        second: ``[out, rank]``.
        bias: ``[out]``, so that each output's mean is the one aimed at.
        errors: Share of the outputs' variance that is missed: by the nearest weight of that rank, and by these.
    """

    first: Tensor
    second: Tensor
    bias: Tensor
    errors: list[float]


@dataclass(frozen=True)
class Spectrum:
    """How a layer's outputs vary.

    Args:
        values: Share of their variance along each direction, descending, ``[min(in, out)]``.
        cost: Parameters of one rank.
        dense: Parameters of the whole matrix.
    """

    values: Tensor
    cost: int
    dense: int


def spectrum(W: Tensor, moments: Moments) -> Spectrum:
    """Of a layer's own outputs; ``W`` is ``[out, in]``."""
    C, B, variance = moments.covariances()
    _, S = _solved(W, C, B)
    values = torch.linalg.eigvalsh(S).flip(0).clamp_min(0)[: min(W.shape)]
    return Spectrum((values / max(variance, 1e-30)).float(), sum(W.shape), W.numel())


def fit_factors(W: Tensor, moments: Moments, rank: int) -> Factors:
    """Fit two matrices of that rank, ``W`` being the layer's weight ``[out, in]``."""
    C, B, variance = moments.covariances()
    solved, outputs = _solved(W, C, B)
    U = torch.linalg.eigh(outputs)[1][:, -rank:].flip(1).float()
    first = U.t() @ solved
    left, values, right = torch.linalg.svd(W, full_matrices=False)
    nearest = (left[:, :rank] * values[:rank]) @ right[:rank]
    x, y = moments.means()
    errors = [missed_share(weight, C, B, variance) for weight in (nearest, U @ first)]
    return Factors(first, U, y - U @ (first @ x), errors)


def ranks_within(spectra: Mapping[str, Spectrum], most: int, align: int) -> dict[str, int]:
    """The rank of each layer, for the least sum of the shares of variance that layers miss; left out: it stays whole.

    Ranks are taken where a parameter explains most, until all are paid for; a layer whose ranks would cost as much as
    its matrix stays whole.

    Args:
        most: Parameters of all layers together.
        align: Ranks are multiples of this, down, and at least this.
    """
    gains = torch.cat([one.values / one.cost for one in spectra.values()]).sort(descending=True).values
    low, high = 0, len(gains)  # thresholds by their place: the higher, the more is kept
    while low < high:
        middle = (low + high + 1) // 2
        fits = _cost(spectra, _ranks(spectra, float(gains[middle - 1]), align)) <= most
        low, high = (middle, high) if fits else (low, middle - 1)
    ranks = _ranks(spectra, float(gains[low - 1]) if low else float("inf"), align)
    return {name: rank for name, rank in ranks.items() if rank * spectra[name].cost < spectra[name].dense}


def _ranks(spectra: Mapping[str, Spectrum], threshold: float, align: int) -> dict[str, int]:
    ranks = {}
    for name, one in spectra.items():
        exact = int((one.values / one.cost >= threshold).sum())
        ranks[name] = min(max(exact // align * align, align), len(one.values))
    return ranks


def _cost(spectra: Mapping[str, Spectrum], ranks: Mapping[str, int]) -> int:
    return sum(min(ranks[name] * one.cost, one.dense) for name, one in spectra.items())


def _solved(W: Tensor, C: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """``S``, and the covariance of its outputs ``S C S^T`` as float64."""
    exact, weight = C.double(), W.double()
    pull = B.double() - exact @ weight.t()
    S = weight + torch.linalg.solve(damped(exact, DAMPING), pull).t()
    return S.float(), S @ exact @ S.t()
