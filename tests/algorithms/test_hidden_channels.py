"""What readers of the stream become with fewer channels, held against least squares."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from squeeze.algorithms.factor import factorize
from squeeze.algorithms.hidden_channels import (
    Means,
    MeansOf,
    cut_reader,
    kept_channels,
    norm_scales,
    reader_loss,
    refit_reader,
)

TOKENS, WIDE, KEPT, OUT = 400, 12, torch.tensor([0, 2, 3, 5, 7, 8, 10]), 9
TINY = 1e-7  # damping that does not count


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs() -> tuple[Tensor, Tensor]:
    """Before, and after a norm over fewer channels, which also makes them larger by 1.5; ``[tokens, channels]``."""
    Xo = normal(TOKENS, WIDE) @ normal(WIDE, WIDE, seed=1) + 0.3
    return Xo, 1.5 * Xo[:, KEPT] + 0.1 * normal(TOKENS, len(KEPT), seed=2)


def means(X: Tensor, Xo: Tensor) -> Means:
    both = MeansOf(Xo.shape[1], X.shape[1])
    for rows in torch.arange(len(X)).split(150):
        both.add(X[rows], Xo[rows])
    return both.result()


def test_the_least_important_channels_leave() -> None:
    assert kept_channels(torch.tensor([3.0, 1.0, 2.0, 5.0]), 2).tolist() == [0, 3]


def test_a_reader_is_the_best_on_what_it_is_given_now() -> None:
    Xo, X = inputs()
    W, both = normal(OUT, WIDE, seed=3), means(X, Xo)
    V = refit_reader(W, KEPT, both.C, both.H, factorize(both.H, TINY))
    best = torch.linalg.lstsq(X, Xo @ W.t()).solution.t()
    torch.testing.assert_close(V, best, rtol=1e-3, atol=1e-3)
    energy = float((Xo @ W.t()).square().sum() / TOKENS)
    error = float((X @ V.t() - Xo @ W.t()).square().sum() / TOKENS)
    assert reader_loss(V, W, both.C, both.H, energy) == pytest.approx(error, rel=1e-3)
    assert reader_loss(cut_reader(W, KEPT, both.C, both.H), W, both.C, both.H, energy) > 1.2 * error


def test_columns_that_stay_are_scaled_as_their_inputs_were() -> None:
    Xo, X = inputs()
    both, W = means(X, Xo), normal(OUT, WIDE, seed=3)
    torch.testing.assert_close(cut_reader(W, KEPT, both.C, both.H), W[:, KEPT] / 1.5, rtol=2e-2, atol=2e-2)


def test_a_bias_makes_up_for_the_means() -> None:
    Xo, X = inputs()
    W, both = normal(OUT, WIDE, seed=3), means(X, Xo)
    own = both.centred()
    V = refit_reader(W, KEPT, own.C, own.H, factorize(own.H, TINY))
    bias = W @ both.before - V @ both.now
    ones = torch.ones(TOKENS, 1)
    best = torch.linalg.lstsq(torch.cat([X, ones], 1), Xo @ W.t()).solution.t()
    torch.testing.assert_close(torch.cat([V, bias[:, None]], 1), best, rtol=1e-3, atol=1e-3)


def test_scales_before_a_head_that_stays_are_the_best_ones() -> None:
    Xo, X = inputs()
    both, E = means(X, Xo), normal(OUT, WIDE, seed=3)
    scales = norm_scales(E[:, KEPT].t() @ E[:, KEPT], E.t() @ E[:, KEPT], both.C, both.H, TINY)
    each = torch.stack([X[:, [j]] @ E[:, [c]].t() for j, c in enumerate(KEPT.tolist())], -1).flatten(0, 1)
    best = torch.linalg.lstsq(each, (Xo @ E.t()).flatten()[:, None]).solution[:, 0]
    torch.testing.assert_close(scales, best, rtol=1e-3, atol=1e-3)
