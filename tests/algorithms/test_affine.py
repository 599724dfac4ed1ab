"""The grid: what is stored comes back, and where rounding ties it goes to even as ONNX does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from squeeze.algorithms.affine import (
    QuantizedTensor,
    activation_grid,
    clipped_share,
    fake_quantize,
    quantize_symmetric,
    symmetric_scale,
)
from squeeze.errors import ShapeError


@given(st.integers(0, 2**31 - 1), st.sampled_from([2, 4, 8]), st.sampled_from([None, 4, 8]))
def test_no_weight_moves_by_more_than_half_a_step(seed: int, bits: int, group_size: int | None) -> None:
    W = torch.randn(3, 16, generator=torch.Generator().manual_seed(seed))
    grid = quantize_symmetric(W, bits, group_size)
    step = grid.scale.repeat_interleave(16 // grid.scale.shape[1], dim=1)
    assert ((grid.dequantize() - W).abs() <= step * 0.5001).all()


@given(st.integers(0, 2**31 - 1))
def test_what_lies_on_the_grid_comes_back_exactly(seed: int) -> None:
    W = torch.randn(4, 8, generator=torch.Generator().manual_seed(seed))
    once = quantize_symmetric(W, 8)
    again = quantize_symmetric(once.dequantize(), 8, scale=once.scale)
    assert torch.equal(once.q, again.q)


def test_ties_round_to_even() -> None:
    W = torch.tensor([[0.5, 1.5, 2.5, -0.5, 127.0]])
    assert quantize_symmetric(W, 8).q.tolist() == [[0, 2, 2, 0, 127]]


def test_one_scale_per_tensor_serves_all_channels() -> None:
    W = torch.tensor([[127.0, 1.0], [1.0, 2.0]])
    whole = quantize_symmetric(W, 8, scale=symmetric_scale(W.reshape(1, -1), 8))
    assert whole.q.tolist() == [[127, 1], [1, 2]]
    assert torch.equal(whole.dequantize(), W)


def test_a_channel_of_zeros_gets_a_usable_scale() -> None:
    assert symmetric_scale(torch.zeros(2, 4), 8).tolist() == [[1.0], [1.0]]


def test_a_group_that_does_not_divide_is_refused_with_one_that_does() -> None:
    with pytest.raises(ShapeError, match="group_size 5 does not divide 12 input channels; 4 would"):
        symmetric_scale(torch.ones(1, 12), 8, 5)


@pytest.mark.parametrize("signed", [False, True], ids=["uint8", "int8"])
@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-1.0, 3.0), (0.5, 2.0), (0.0, 0.0)])
def test_zero_is_exact_on_every_activation_grid(low: float, high: float, signed: bool) -> None:
    grid = activation_grid(low, high, signed)
    assert fake_quantize(torch.zeros(1), grid).item() == 0.0
    assert grid.low <= min(low, 0) + grid.scale / 2
    assert grid.high >= high - grid.scale / 2


@pytest.mark.parametrize("g_idx", [None, torch.tensor([1, 0, 1, 0])], ids=["in order", "by index"])
def test_the_share_beyond_counts_what_no_rounding_reaches(g_idx: torch.Tensor | None) -> None:
    groups = torch.tensor([0, 0, 1, 1]) if g_idx is None else g_idx
    scale = torch.tensor([[1.0, 2.0]])
    W = torch.tensor([[7.4, 7.6, -7.4, 3.0]]) * scale[:, groups]  # 7.6 steps lie beyond 7, 7.4 are rounded to it
    q = torch.round(W / scale[:, groups]).clamp(-7, 7).to(torch.int8)
    grid = QuantizedTensor(q, scale, torch.zeros(1, 2, dtype=torch.int32), 4, 2, True, g_idx)
    assert clipped_share(W, grid) == 0.25
    assert clipped_share(grid.dequantize(), grid) == 0
