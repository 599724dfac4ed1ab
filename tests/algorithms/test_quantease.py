"""Sweeps: no step makes a grid worse, and what they say they gained is what the loss fell by."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.algorithms.gptq import factorize, solve
from squeeze.algorithms.quantease import quantease
from squeeze.algorithms.rtn import fit_scale, round_to_nearest


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def hessian(channels: int, samples: int = 300) -> torch.Tensor:
    X = normal(samples, channels, seed=1) @ (normal(channels, channels, seed=2) * 0.3 + torch.eye(channels))
    return X.T @ X / samples


def loss(grid: QuantizedTensor, W: torch.Tensor, H: torch.Tensor) -> torch.Tensor:
    E = (grid.dequantize() - W).double()
    return ((E @ H.double()) * E).sum(1)


@given(
    bits=st.sampled_from([2, 3, 4, 8]),
    group_size=st.sampled_from([None, 8, 48]),
    symmetric=st.booleans(),
    order=st.sampled_from(["given", "act_order", "group_aware"]),
)
@pytest.mark.slow
@settings(max_examples=25, deadline=None)
def test_the_gain_is_what_the_loss_fell_by(bits: int, group_size: int | None, symmetric: bool, order: str) -> None:
    W, H = normal(20, 96), hessian(96)
    factor = factorize(H, order=order, group_size=group_size)  # type: ignore[arg-type]
    before = solve(W, factor, bits, group_size, symmetric, negative_scales=symmetric).grid()
    refined = quantease(W, before, H, 3, factor.added)
    fell = loss(before, W, H) - loss(refined.grid, W, H)
    torch.testing.assert_close(refined.gain.double(), fell, atol=1e-4 * float(loss(before, W, H).max()), rtol=1e-3)
    damped = H + factor.added * torch.eye(96)
    assert (loss(refined.grid, W, damped) <= loss(before, W, damped) * (1 + 1e-5)).all()  # row by row


@pytest.mark.parametrize("bits", [2, 3])
def test_coordinate_descent_after_gptq_lowers_its_loss_by_a_tenth(bits: int) -> None:
    W, H = normal(64, 128), hessian(128)
    factor = factorize(H, order="group_aware", group_size=32)
    before = solve(W, factor, bits, 32, clip="mse").grid()
    assert loss(quantease(W, before, H, 2).grid, W, H).sum() < 0.9 * loss(before, W, H).sum()


def test_scales_stay_exact_in_float16_and_integers_in_range() -> None:
    W, H = normal(16, 64), hessian(64)
    refined = quantease(W, round_to_nearest(W, 2, 16), H, 4).grid
    assert torch.equal(refined.scale.half().float(), refined.scale)
    assert int(refined.q.min()) >= -2
    assert int(refined.q.max()) <= 1


def test_nothing_is_asked_where_nothing_is_to_be_won() -> None:
    """Weights on the grid already: the first round changes nothing and is the last."""
    grid = round_to_nearest(normal(8, 32), 4, 8)
    refined = quantease(grid.dequantize(), grid, hessian(32), 5)
    assert torch.equal(refined.grid.q, grid.q)
    assert torch.equal(refined.grid.scale, grid.scale)
    assert not refined.gain.any()


def test_a_dead_column_stays_as_it_is() -> None:
    W, H = normal(8, 32), hessian(32)
    H[5], H[:, 5] = 0, 0
    before = round_to_nearest(W, 3, 8)
    after = quantease(W, before, H, 2).grid
    assert torch.equal(after.q[:, 5], before.q[:, 5])
    assert torch.isfinite(after.scale).all()


def test_no_round_gives_back_the_grid() -> None:
    grid = round_to_nearest(normal(4, 16), 4, 8)
    assert quantease(normal(4, 16), grid, hessian(16), 0).grid is grid


@pytest.mark.parametrize("clip", ["absmax", "mse"])
def test_a_grid_turns_round_for_a_largest_weight_that_is_positive(clip: str) -> None:
    values = torch.tensor([[2.0, 0.1, -0.3, 0.4], [-2.0, 0.1, -0.3, 0.4], [0.0, 0.0, 0.0, 0.0]])
    scale, _ = fit_scale(values, 2, True, clip, negative_scales=True)  # type: ignore[arg-type]
    assert scale.sign().tolist() == [-1, 1, 1]
    assert torch.equal(scale[0].abs(), fit_scale(-values, 2, True, clip)[0][0])  # type: ignore[arg-type]


def test_turning_grids_round_pays_at_two_bits() -> None:
    W, H = normal(64, 128), hessian(128)
    factor = factorize(H)
    positive, either = (
        solve(W, factor, 2, 32, clip="mse", negative_scales=allowed).loss.sum() for allowed in (False, True)
    )
    assert either < 0.95 * positive
