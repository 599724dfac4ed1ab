"""Which channels leave and what the others become: held against trying everything."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from squeeze.algorithms.drift import moved
from squeeze.algorithms.factor import factorize
from squeeze.algorithms.hessian import hessian_loss
from squeeze.algorithms.osscar import channels, kept_units, refit, removal_costs


def problem(inputs: int = 8, out: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """A weight, the Hessian of inputs that hang together, and what the outputs miss beside."""
    generator = torch.Generator().manual_seed(3)
    X = torch.randn(200, inputs, generator=generator) @ torch.randn(inputs, inputs, generator=generator)
    W = torch.randn(out, inputs, generator=generator)
    return W, X.t() @ X / len(X), 0.1 * torch.randn(out, inputs, generator=generator)


def loss(V: Tensor, W: Tensor, H: Tensor, pull: Tensor) -> float:
    """Up to what does not depend on ``V``."""
    return float(hessian_loss(V - moved(W, pull, factorize(H, 1e-9)), H).sum())


def spread(V: Tensor, remaining: Tensor, inputs: int) -> Tensor:
    whole = torch.zeros(len(V), inputs)
    whole[:, remaining] = V
    return whole


def test_what_is_refitted_has_the_least_error_that_the_kept_channels_allow() -> None:
    W, H, pull = problem()
    remaining = torch.tensor([0, 2, 3, 6])
    V = refit(W, H, pull, remaining, 1e-9)
    best = loss(spread(V, remaining, 8), W, H, pull)
    for nudge in 0.05 * torch.randn(20, *V.shape, generator=torch.Generator().manual_seed(0)):
        assert loss(spread(V + nudge, remaining, 8), W, H, pull) > best
    assert best < loss(spread(W[:, remaining], remaining, 8), W, H, pull)


@pytest.mark.parametrize("size", [1, 2], ids=["channels", "heads of two"])
def test_the_cost_of_a_unit_is_by_how_much_the_error_grows(size: int) -> None:
    W, H, pull = problem()
    factor = factorize(H, 1e-9)
    costs = removal_costs(moved(W, pull, factor), torch.cholesky_inverse(factor.lower).flip(0, 1), size)
    for unit, cost in enumerate(costs):
        stay = channels(torch.tensor([other for other in range(8 // size) if other != unit]), size)
        assert float(cost) == pytest.approx(loss(spread(refit(W, H, pull, stay, 1e-9), stay, 8), W, H, pull), rel=1e-2)


@pytest.mark.parametrize(("size", "count"), [(1, 4), (2, 2)], ids=["channels", "heads of two"])
def test_each_unit_that_leaves_is_the_one_without_which_least_is_lost(size: int, count: int) -> None:
    W, H, pull = problem()
    factor = factorize(H, 1e-9)
    remaining = list(range(8 // size))
    while len(remaining) > count:
        losses = {}
        for unit in remaining:
            stay = channels(torch.tensor([other for other in remaining if other != unit]), size)
            losses[unit] = loss(spread(refit(W, H, pull, stay, 1e-9), stay, 8), W, H, pull)
        remaining.remove(min(losses, key=lambda unit: losses[unit]))
    assert kept_units(moved(W, pull, factor), factor, size, count, rounds=8).tolist() == remaining


def test_a_channel_that_is_always_zero_leaves_first() -> None:
    W, H, _ = problem()
    H[3], H[:, 3] = 0, 0
    assert 3 not in kept_units(W, factorize(H, 0.01), 1, 7).tolist()
