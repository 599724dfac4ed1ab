"""GPTQ: the fast solver is the paper's loop, and beats rounding where the outputs count."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from squeeze.algorithms.gptq import factorize, solve
from squeeze.algorithms.hessian import hessian_loss
from squeeze.algorithms.rtn import fit_scale, round_to_nearest, to_integers
from squeeze.errors import ShapeError, SqueezeError

BITS = (2, 3, 4, 8)
ORDERS = ("given", "act_order", "group_aware")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def hessian(channels: int, samples: int = 400, seed: int = 1) -> torch.Tensor:
    """Of inputs that are correlated, and of very different sizes, as activations are."""
    mixed = normal(samples, channels, seed=seed) @ (
        normal(channels, channels, seed=seed + 1) * 0.2 + torch.eye(channels)
    )
    X = (
        mixed
        * torch.logspace(-1, 0.7, channels)[torch.randperm(channels, generator=torch.Generator().manual_seed(seed))]
    )
    return X.T @ X / samples


def total(error: torch.Tensor, H: torch.Tensor) -> float:
    return float(hessian_loss(error.double(), H.double()).sum())


@contextmanager
def float32_products() -> Iterator[None]:
    """As on a CPU without units for bf16: factors rounded to it let other integers win, at the same loss."""
    with patch("squeeze.algorithms.hessian.multiplies", lambda dtype: False):
        yield


def textbook(W, H, bits, group_size, symmetric, damping=0.01):
    """Algorithm 1 of the paper, column by column in float64, scales chosen when a group's turn comes."""
    W, H = W.double().clone(), H.double().clone()
    columns = W.shape[1]
    H += damping * H.diagonal().mean() * torch.eye(columns)
    U = torch.linalg.cholesky(torch.linalg.inv(H), upper=True)
    Q, size = torch.zeros_like(W), group_size or columns
    for i in range(columns):
        if i % size == 0:
            scale, zero = fit_scale(W[:, i : i + size].float(), bits, symmetric)
        q = to_integers(W[:, i].float(), scale, zero, bits)
        Q[:, i] = scale * (q - zero)
        W[:, i:] -= torch.outer((W[:, i] - Q[:, i]) / U[i, i], U[i, i:])
    return Q.float()


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("group_size", [None, 16, 43], ids=["per-channel", "16", "43"])
@pytest.mark.parametrize("bits", BITS)
def test_the_fast_solver_has_the_loss_of_the_papers_loop(bits, group_size, symmetric):
    W, H = normal(24, 172 if group_size == 43 else 160), hessian(172 if group_size == 43 else 160)
    with float32_products():
        solved = solve(W, factorize(H), bits, group_size, symmetric, lazy_batch=64)
    reference = textbook(W, H, bits, group_size, symmetric)
    same = (solved.dequantize() - reference).abs() < 1e-6
    assert float(same.float().mean()) > 0.98  # a tie in float32 may fall to the other side, and moves its row
    assert total(solved.dequantize() - W, H) == pytest.approx(total(reference - W, H), rel=5e-3)
    rows = same.all(dim=1)
    assert bool(rows.any())
    error = (solved.dequantize() - W)[rows], (reference - W)[rows]
    assert total(error[0], H) == pytest.approx(total(error[1], H), rel=1e-5)


@pytest.mark.parametrize("bits", BITS)
def test_factors_rounded_to_bf16_leave_the_loss_equal(bits):
    """Where the CPU has units for them; elsewhere both are the same."""
    W, H, losses = normal(96, 320), hessian(320), []
    for arithmetic in (nullcontext(), float32_products()):
        with arithmetic:
            losses.append(total(solve(W, factorize(H), bits, 32, lazy_batch=64).dequantize() - W, H))
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.parametrize("group_size", [None, 16], ids=["per-channel", "per-group"])
@pytest.mark.parametrize("bits", BITS)
def test_gptq_beats_rounding_where_it_counts_the_output(bits, group_size):
    W, H = normal(64, 96), hessian(96)
    rounded = round_to_nearest(W, bits, group_size, clip="mse").dequantize()
    solved = solve(W, factorize(H), bits, group_size, clip="mse").dequantize()
    assert total(solved - W, H) < 0.8 * total(rounded - W, H)
    assert float((solved - W).square().sum()) > float((rounded - W).square().sum())  # it pays in the weights


@pytest.mark.parametrize("static", [True, False], ids=["static", "as corrected"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_searching_the_clip_for_what_errors_cost_lowers_the_loss(bits, static):
    W, H = normal(64, 96), hessian(96)
    factor = factorize(H, order="group_aware", group_size=16)
    searched, plain = (solve(W, factor, bits, 16, clip=clip, static=static) for clip in ("mse", "absmax"))
    assert float(searched.loss.sum()) < 0.8 * float(plain.loss.sum())


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("static", [True, False], ids=["static", "as corrected"])
def test_the_loss_it_reports_is_the_loss_of_what_it_returns(order, static):
    W, H = normal(32, 96), hessian(96)
    solved = solve(W, factorize(H, order=order, group_size=16), 3, 16, False, "mse", static)
    torch.testing.assert_close(solved.loss, hessian_loss(solved.dequantize() - W, H), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("order", ["act_order", "group_aware"])
@pytest.mark.parametrize("group_size", [96, 16], ids=["per-channel", "per-group"])
def test_large_inputs_first_lowers_the_loss(order, group_size):
    losses = {"given": 0.0, order: 0.0}
    for seed in range(4):
        W, H = normal(48, 96, seed=seed), hessian(96, seed=seed)
        for name in losses:
            losses[name] += float(solve(W, factorize(H, order=name, group_size=group_size), 3, group_size).loss.sum())
    assert losses[order] < losses["given"]


def test_group_aware_order_needs_no_group_index_and_act_order_gives_one():
    W, H = normal(8, 64), hessian(64)
    aware = solve(W, factorize(H, order="group_aware", group_size=16), 4, 16)
    assert aware.g_idx is None
    assert torch.equal(aware.grid().dequantize(), aware.dequantize())
    moved = solve(W, factorize(H, order="act_order"), 4, 16)
    assert moved.g_idx.bincount().tolist() == [16] * 4
    assert set(moved.g_idx[H.diagonal().argsort(descending=True)[:16]].tolist()) == {0}


@pytest.mark.parametrize("order", ORDERS)
def test_linears_that_share_an_input_are_solved_as_one(order):
    first, second, H = normal(20, 64), normal(12, 64, seed=5), hessian(64)
    factor = factorize(H, order=order, group_size=16)
    stacked = solve(torch.cat([first, second]), factor, 4, 16)
    for rows, alone in ((slice(0, 20), solve(first, factor, 4, 16)), (slice(20, 32), solve(second, factor, 4, 16))):
        assert torch.equal(stacked.q[rows], alone.q)
        torch.testing.assert_close(stacked.loss[rows], alone.loss)
    if order != "act_order":
        torch.testing.assert_close(stacked.grid(20).dequantize(), solve(second, factor, 4, 16).dequantize())


@settings(max_examples=40, deadline=None)
@given(
    out=st.integers(1, 6),
    groups=st.integers(1, 5),
    size=st.sampled_from([1, 3, 16, 43]),
    bits=st.sampled_from(BITS),
    batch=st.sampled_from([1, 16, 50, 512]),
    order=st.sampled_from(ORDERS),
)
def test_neither_batch_nor_block_changes_the_result(out, groups, size, bits, batch, order):
    W, H = normal(out, groups * size), hessian(groups * size)
    for arithmetic, same_integers in ((nullcontext(), False), (float32_products(), True)):  # units for bf16, or none
        with arithmetic:
            factor = factorize(H, order=order, group_size=size)
            small, large = (solve(W, factor, bits, size, lazy_batch=columns) for columns in (batch, 10_000))
        if same_integers:
            assert float((small.q != large.q).float().mean()) < 0.05  # ties only
        near = 0.05 if same_integers else 0.15  # where bf16 turns other integers over, few rows differ by more
        assert float(small.loss.sum()) == pytest.approx(float(large.loss.sum()), rel=near, abs=1e-5)


def test_an_input_that_is_always_zero_is_rounded_as_it_is_and_moves_no_other():
    W, H, others = normal(16, 64), hessian(64), torch.arange(64) != 5
    H[5], H[:, 5] = 0, 0
    factor = factorize(H)
    solved = solve(W, factor, 4, 1)
    without = solve(W[:, others], factorize(H[others][:, others], damping=0.01 * 63 / 64), 4, 1)
    assert factor.dead == 1
    torch.testing.assert_close(solved.dequantize()[:, 5], round_to_nearest(W, 4, 1).dequantize()[:, 5])
    assert float(solved.loss.sum()) == pytest.approx(float(without.loss.sum()), rel=0.02)


def test_without_any_calibration_it_is_rounding_to_nearest():
    W = normal(16, 64)
    assert torch.equal(solve(W, factorize(torch.zeros(64, 64)), 4, 16).q, round_to_nearest(W, 4, 16).q)


def test_one_calibration_token_is_enough_to_be_finite():
    x = normal(1, 64)
    solved = solve(normal(16, 64), factorize(x.T @ x), 4, 16)
    assert bool(torch.isfinite(solved.dequantize()).all())
    assert bool(torch.isfinite(solved.loss).all())


def test_the_share_clipped_counts_what_lies_beyond_the_grid():
    W, H = normal(64, 64), torch.eye(64)
    searched, reaching = solve(W, factorize(H), 2, clip="mse"), solve(W, factorize(H), 2, symmetric=False)
    assert reaching.clipped < 0.02 < searched.clipped < 0.3


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_products_of_bf16_factors_leave_the_loss_equal(monkeypatch, bits):
    W, H = normal(128, 192), hessian(192)
    factor = factorize(H, order="group_aware", group_size=16)
    exact = float(solve(W, factor, bits, 16, clip="mse", lazy_batch=32).loss.sum())

    def add_rounded(target, coupling, errors):  # what a CPU with bf16 units does
        target.addmm_(coupling.bfloat16().float().t(), errors.bfloat16().float())

    monkeypatch.setattr("squeeze.algorithms.gptq._add_product", add_rounded)
    rounded = solve(W, factor, bits, 16, clip="mse", lazy_batch=32)
    true = float(hessian_loss(rounded.dequantize() - W, H).sum())
    assert true == pytest.approx(exact, rel=0.02)
    assert float(rounded.loss.sum()) == pytest.approx(true, rel=1e-3)


def test_bf16_weights_are_solved_in_float32():
    W, H = normal(16, 64).bfloat16(), hessian(64)
    assert torch.equal(solve(W, factorize(H), 4, 16).q, solve(W.float(), factorize(H), 4, 16).q)


def test_what_does_not_fit_is_refused():
    W, factor = normal(4, 32), factorize(torch.eye(32), order="group_aware", group_size=8)
    with pytest.raises(ShapeError, match="group_size 12 does not divide 32 input channels; 8 would"):
        solve(W, factor, 4, 12)
    with pytest.raises(ShapeError, match="ordered for group_size 8, not 16"):
        solve(W, factor, 4, 16)
    with pytest.raises(ShapeError, match="weight has 16 input channels, its Hessian 32"):
        solve(W[:, :16], factor, 4, 8)
    W[1, 1] = float("inf")
    with pytest.raises(SqueezeError, match="weight holds values that are not finite"):
        solve(W, factor, 4, 8)
