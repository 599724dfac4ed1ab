"""Separable convolutions as algebra: what the SVD finds, what fitting to outputs adds, and what it never does."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from squeeze.algorithms.moments import Moments
from squeeze.algorithms.separable import fit_pair, joined, separate

IN, OUT, PLACES = 6, 10, 9


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def correlated(tokens: int = 2000) -> Tensor:
    """Inputs whose columns have much in common and a mean, as neighbouring pixels behind a ReLU do."""
    few, many = normal(tokens, 8, seed=1), normal(8, IN * PLACES, seed=2)
    return (few @ many / 3 + 0.3 * normal(tokens, IN * PLACES, seed=3)).relu()


def moments(X: Tensor, Y: Tensor) -> Moments:
    sums = Moments(X.shape[1], Y.shape[1])
    for x, y in zip(torch.split(X, 700), torch.split(Y, 700), strict=True):
        sums.add(x, y)
    return sums


@pytest.mark.parametrize("multiplier", [1, 2])
def test_a_weight_of_that_rank_in_every_channel_is_found_exactly(multiplier: int) -> None:
    W = joined(normal(IN, multiplier, PLACES), normal(OUT, IN, multiplier, seed=1))
    torch.testing.assert_close(joined(*separate(W, multiplier)), W, atol=1e-5, rtol=1e-5)


def test_two_convolutions_compute_what_the_joined_weight_does() -> None:
    D, P = normal(IN, 2, PLACES), normal(OUT, IN, 2, seed=1)
    x = normal(3, IN, 7, 7)
    hidden = functional.conv2d(x, D.reshape(IN * 2, 1, 3, 3), padding=1, groups=IN)
    two = functional.conv2d(hidden, P.reshape(OUT, IN * 2, 1, 1))
    one = functional.conv2d(x, joined(D, P).reshape(OUT, IN, 3, 3), padding=1)
    torch.testing.assert_close(two, one, atol=1e-4, rtol=1e-4)


def test_fitting_beats_the_nearest_weight_where_it_counts_the_output() -> None:
    W, X = normal(OUT, IN, PLACES), correlated()
    Y = X @ W.flatten(1).t()
    pair = fit_pair(W, moments(X, Y))
    nearest, fitted = joined(*separate(W, 1)), joined(pair.depthwise, pair.pointwise)
    assert (nearest - W).norm() < (fitted - W).norm()  # it pays in the weights
    made = X @ fitted.flatten(1).t() + pair.bias
    missed = (made - Y).square().sum() / (Y - Y.mean(0)).square().sum()
    assert pair.errors[-1] == pytest.approx(float(missed), rel=1e-3)
    assert pair.errors[-1] < 0.6 * pair.errors[0]
    torch.testing.assert_close(made.mean(0), Y.mean(0), atol=1e-2, rtol=1e-3)


def test_no_round_makes_the_error_larger() -> None:
    W, X = normal(OUT, IN, PLACES), correlated()
    errors = fit_pair(W, moments(X, X @ W.flatten(1).t()), rounds=6).errors
    assert all(after <= before + 1e-6 for before, after in pairwise(errors))


def test_outputs_are_those_aimed_at_though_the_inputs_are_no_longer_the_originals() -> None:
    """A separable layer before it has changed the inputs; aiming at the original's outputs makes up for a part."""
    W, original = joined(normal(IN, 1, PLACES), normal(OUT, IN, 1, seed=1)), correlated()
    changed = 0.7 * original + 0.2 * normal(*original.shape, seed=9)
    Y = original @ W.flatten(1).t()
    pair = fit_pair(W, moments(changed, Y))
    assert pair.errors[-1] < 0.9 * pair.errors[0]  # the SVD has the very weight


def test_a_channel_that_is_always_zero_keeps_finite_weights() -> None:
    W, X = normal(OUT, IN, PLACES), correlated()
    X[:, :PLACES] = 0
    pair = fit_pair(W, moments(X, X @ W.flatten(1).t()))
    assert torch.isfinite(joined(pair.depthwise, pair.pointwise)).all()
    assert torch.equal(pair.depthwise[0], separate(W, 1)[0][0])
