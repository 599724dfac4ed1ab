"""HQQ: less error than rounding, where outliers would stretch the grid."""

import pytest
import torch

from squeeze.algorithms.affine import integer_range
from squeeze.algorithms.hqq import half_quadratic, lp_loss
from squeeze.algorithms.rtn import round_to_nearest
from squeeze.errors import SqueezeError


def heavy_tailed(out: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(out, columns, generator=generator)
    weight[torch.rand(out, columns, generator=generator) < 0.01] *= 6
    return weight * 0.02


def lp(weight, grid):
    return float((grid.dequantize() - weight).abs().pow(0.7).sum())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("group_size", [None, 64], ids=["per-channel", "per-group"])
def test_it_lowers_the_error_that_it_minimises_against_rounding(bits, symmetric, group_size):
    weight = heavy_tailed(32, 256)
    fitted = half_quadratic(weight, bits, group_size, symmetric)
    assert lp(weight, fitted) < lp(weight, round_to_nearest(weight, bits, group_size, symmetric))
    assert int(fitted.q.min()) >= integer_range(bits)[0]
    assert int(fitted.q.max()) <= integer_range(bits)[1]
    assert torch.equal(fitted.scale, fitted.scale.half().float())


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_many_gain_what_a_few_outliers_lose(bits):
    weight = heavy_tailed(32, 256)
    fitted, rounded = half_quadratic(weight, bits, 64), round_to_nearest(weight, bits, 64, symmetric=False)
    fitted_error, rounded_error = ((grid.dequantize() - weight).abs() for grid in (fitted, rounded))
    assert fitted_error.median() < 0.95 * rounded_error.median()
    assert fitted_error.max() > rounded_error.max()


def test_zeros_stay_zero_and_what_is_not_finite_is_refused():
    weight = heavy_tailed(4, 64)
    weight[:, :32] = 0
    assert not half_quadratic(weight, 4, 32).dequantize()[:, :32].any()
    weight[0, 0] = float("inf")
    with pytest.raises(SqueezeError, match="weight holds values that are not finite"):
        half_quadratic(weight, 4, 32)


def test_the_loss_is_summed_over_each_group():
    values = torch.tensor([[[0.5, -0.5], [1.0, 0.0]]])
    loss = lp_loss(values, torch.ones(1, 2), torch.zeros(1, 2), 4)
    torch.testing.assert_close(loss, torch.tensor([[2 * 0.5**0.7, 0.0]]))
