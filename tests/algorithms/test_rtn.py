"""Rounding to nearest: what the grid can hold, at every width, and what it must refuse."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from squeeze.algorithms.affine import integer_range
from squeeze.algorithms.rtn import round_to_nearest
from squeeze.errors import ShapeError, SqueezeError

BITS = (2, 3, 4, 8)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mse(weight: torch.Tensor, other: torch.Tensor) -> float:
    return float((weight - other).square().mean())


@settings(max_examples=60, deadline=None)
@given(
    out=st.integers(1, 9),
    groups=st.integers(1, 5),
    size=st.sampled_from([1, 2, 7, 16, 43]),
    bits=st.sampled_from(BITS),
    symmetric=st.booleans(),
    clip=st.sampled_from(["absmax", "mse"]),
    seed=st.integers(0, 99),
)
def test_every_weight_within_the_grid_lies_half_a_step_from_it(out, groups, size, bits, symmetric, clip, seed):
    weight = normal(out, groups * size, seed=seed)
    grid = round_to_nearest(weight, bits, size, symmetric, clip)
    qmin, qmax = integer_range(bits)
    assert qmin <= int(grid.q.min())
    assert int(grid.q.max()) <= qmax
    inside = (grid.q > qmin) & (grid.q < qmax)
    step = grid.scale.repeat_interleave(size, dim=1)
    assert bool(((weight - grid.dequantize()).abs() <= step * 0.501)[inside].all())


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_a_weight_that_is_on_the_grid_comes_back_unchanged(bits, symmetric):
    grid = round_to_nearest(normal(6, 64), bits, 16, symmetric)
    grid.q[:, ::16], grid.q[:, 1::16] = integer_range(bits)[0], integer_range(bits)[1]  # the grid is used to its ends
    again = round_to_nearest(grid.dequantize(), bits, 16, symmetric)
    if not symmetric:  # a symmetric grid reaches as far up as down, so its ends move
        assert torch.equal(again.q, grid.q)
    assert mse(again.dequantize(), grid.dequantize()) <= float(grid.scale.max()) ** 2 / 12


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("size", [None, 32], ids=["per-channel", "per-group"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_searching_the_clip_never_costs_error(bits, size, symmetric):
    weight = normal(32, 128)
    searched = round_to_nearest(weight, bits, size, symmetric, "mse").dequantize()
    plain = round_to_nearest(weight, bits, size, symmetric).dequantize()
    assert mse(searched, weight) <= mse(plain, weight) * 1.001


@pytest.mark.parametrize("clip", ["absmax", "mse"])
def test_scales_are_exact_in_what_targets_store(clip):
    scale = round_to_nearest(normal(16, 64), 4, 32, clip=clip).scale
    assert torch.equal(scale, scale.half().float())


@pytest.mark.parametrize("clip", ["absmax", "mse"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_a_group_of_zeros_has_scale_one_and_stays_zero(clip, symmetric):
    weight = normal(4, 64)
    weight[1, 16:32] = 0
    grid = round_to_nearest(weight, 4, 16, symmetric, clip)
    assert grid.scale[1, 1] == 1
    assert not grid.dequantize()[1, 16:32].any()


@pytest.mark.parametrize("magnitude", [1e-30, 1e30])
def test_weights_beyond_float16_keep_a_finite_positive_scale(magnitude):
    grid = round_to_nearest(normal(4, 32) * magnitude, 4, 16)
    assert bool((grid.scale > 0).all())
    assert bool(torch.isfinite(grid.dequantize()).all())


def test_an_asymmetric_grid_keeps_zero_exact_and_wins_on_one_sided_weights():
    weight = normal(16, 64).abs()
    weight[:, 3] = 0
    uneven, even = round_to_nearest(weight, 4, 32, symmetric=False), round_to_nearest(weight, 4, 32)
    assert not uneven.dequantize()[:, 3].any()
    assert mse(uneven.dequantize(), weight) < mse(even.dequantize(), weight) / 3


def test_a_large_weight_is_rounded_in_pieces_to_the_same_integers(monkeypatch):
    weight = normal(50, 64)
    whole = round_to_nearest(weight, 4, 32)
    monkeypatch.setattr("squeeze.algorithms.rtn.CHUNK_VALUES", 7 * 64)
    assert torch.equal(round_to_nearest(weight, 4, 32).q, whole.q)


def test_what_no_grid_holds_is_refused():
    weight = normal(4, 64)
    with pytest.raises(ShapeError, match="group_size 24 does not divide 64 input channels; 16 would"):
        round_to_nearest(weight, 4, 24)
    weight[2, 5] = float("nan")
    with pytest.raises(SqueezeError, match="weight holds values that are not finite"):
        round_to_nearest(weight, 4, 32)
