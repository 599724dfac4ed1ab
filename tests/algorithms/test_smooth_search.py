"""How much of an outlying channel moves into the weights is searched; what is rarely large decides no range."""

from __future__ import annotations

import torch
from torch import Tensor

from squeeze.algorithms.smooth_search import search_smooth


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_an_outlying_channel_is_divided_down_and_most_of_the_error_goes() -> None:
    X, W = normal(128, 32), normal(16, 32, seed=1)
    X[:, 3] *= 60
    best = search_smooth([X], W, X.abs().amax(0))
    assert best.remaining_share < 0.2
    assert best.scale[3] > 5 * best.scale[0]
    assert torch.allclose((X / best.scale) @ (W * best.scale).T, X @ W.T, atol=1e-3)


def test_even_inputs_are_hardly_scaled() -> None:
    X, W = normal(128, 32), normal(16, 32, seed=1)
    best = search_smooth([X], W, X.abs().amax(0))
    assert best.scale.max() / best.scale.min() < 2
    assert 0 < best.remaining_share <= 1


def test_channels_below_the_median_are_never_scaled_up() -> None:
    X, W = normal(128, 32), normal(16, 32, seed=1)
    X[:, 3] *= 60
    X[:, 5] *= 1e-4  # asleep here; one large value of it would have the whole range if it were scaled up
    best = search_smooth([X], W, X.abs().amax(0))
    assert best.exponent > 0
    assert best.scale[5] == best.scale.min()
    assert best.scale[5] > 0.9 * best.scale.median()


def test_inputs_of_zeros_are_left_as_they_are() -> None:
    X = torch.zeros(4, 8)
    best = search_smooth([X], normal(2, 8), X.abs().amax(0))
    assert (best.exponent, best.scale.tolist()) == (0.0, [1.0] * 8)
