"""AWQ: channels with large inputs get finer steps, and nothing else changes."""

import pytest
import torch

from squeeze.algorithms.awq import STEPS, channel_scale, round_clipped, search_scale
from squeeze.algorithms.hessian import hessian_loss
from squeeze.algorithms.rtn import round_to_nearest


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(channels: int) -> torch.Tensor:
    X = normal(500, channels, seed=7)
    X[:, :3] *= 40  # the salient channels of the paper
    return X


@pytest.mark.parametrize("group_size", [None, 32], ids=["per-channel", "per-group"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_search_finds_scales_that_cost_the_outputs_less(bits, group_size):
    X, weights = inputs(64), [normal(24, 64), normal(40, 64, seed=1)]
    best = search_scale(weights, X.abs().mean(dim=0), X.T @ X / len(X), bits, group_size)
    assert best.after < 0.8 * best.before
    assert best.alpha > 0
    rounded = [round_to_nearest(w * best.scale, bits, group_size).dequantize() / best.scale for w in weights]
    measured = sum(float(((q - w) @ X.T).square().sum()) for q, w in zip(rounded, weights, strict=True))
    assert measured / len(X) == pytest.approx(best.after, rel=1e-2)


def test_alpha_zero_is_rounding_to_nearest():
    X, W = inputs(64), normal(24, 64)
    H = X.T @ X / len(X)
    assert torch.equal(channel_scale(X.abs().mean(dim=0), 0.0), torch.ones(64))
    plain = hessian_loss(round_to_nearest(W, 4, 32).dequantize() - W, H).sum()
    assert search_scale([W], X.abs().mean(dim=0), H, 4, 32).before == pytest.approx(float(plain), rel=1e-5)


def test_inputs_of_one_size_need_no_scale():
    best = search_scale([normal(24, 64)], torch.ones(64), torch.eye(64), 4, 32)
    assert best.alpha == 0
    assert torch.equal(best.scale, torch.ones(64))


def test_a_dead_channel_and_no_data_leave_scales_finite():
    magnitude = inputs(64).abs().mean(dim=0)
    magnitude[9] = 0
    for step in range(STEPS):
        assert bool(torch.isfinite(channel_scale(magnitude, step / STEPS)).all())
    assert torch.equal(channel_scale(torch.zeros(8), 0.5), torch.ones(8))


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_clipping_lowers_the_loss_that_each_group_sees(bits, symmetric):
    X, W = normal(500, 64, seed=7), normal(24, 64)
    H = torch.block_diag(*(X[:, part : part + 32].T @ X[:, part : part + 32] for part in (0, 32))) / len(X)
    clipped, plain = round_clipped(W, H, bits, 32, symmetric), round_to_nearest(W, bits, 32, symmetric)
    before, after = (float(hessian_loss(grid.dequantize() - W, H).sum()) for grid in (plain, clipped))
    assert after < before
