"""Grids as MatMulNBits and as blocked DequantizeLinear: there and back, whatever kind."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from grids import grids, random_grid
from hypothesis import given, settings

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError
from squeeze.formats import onnx_blocked, onnx_nbits
from squeeze.formats.grid_kind import GridKind

SIZES: list[int | None] = [None, 16, 32, 48, 128, 512]
ROWS = [1, 3, 8]


def real_alike(one: QuantizedTensor, other: QuantizedTensor) -> bool:
    """Widths and groups may be others (a group of 48 is three blocks of 16); every weight is the same bits."""
    return torch.equal(one.dequantize() + 0.0, other.dequantize() + 0.0)


@settings(max_examples=120, deadline=None)
@given(grids(SIZES, ROWS))
def test_matmulnbits_gives_the_grid_back(grid: QuantizedTensor) -> None:
    stored = onnx_nbits.to_arrays(grid)
    assert stored.block & (stored.block - 1) == 0
    assert stored.packed.shape == (len(grid.q), -(-grid.q.shape[1] // stored.block), stored.block * stored.bits // 8)
    assert (stored.zero_points is None) == grid.symmetric
    assert real_alike(onnx_nbits.from_arrays(stored), grid)


@settings(max_examples=120, deadline=None)
@given(grids([*SIZES, 8, 5], ROWS))
def test_blocked_dequantization_gives_the_grid_back(grid: QuantizedTensor) -> None:
    stored = onnx_blocked.to_arrays(grid)
    assert stored.integers.shape == (grid.q.shape[1], len(grid.q))
    back = onnx_blocked.from_arrays(stored, grid.bits)
    assert real_alike(back, grid)
    assert torch.equal(back.q, grid.q)


@pytest.mark.parametrize("columns", [17, 43, 172])
def test_a_channel_of_any_length_is_one_group(columns: int) -> None:
    """Its last block is cut short, and comes back without what was filled in."""
    for symmetric in (True, False):
        grid = random_grid(3, columns, 4, None, symmetric)
        stored = onnx_nbits.to_arrays(grid)
        assert stored.packed.shape[1] * stored.block >= columns
        back = onnx_nbits.from_arrays(stored)
        assert torch.equal(back.q, grid.q)
        assert back.group_size is None


REFUSED = {
    "group": (GridKind(8, 96, 4, 24, True), "MatMulNBits has no group_size 24; 16, 32, 48 or null would do"),
    "width": (GridKind(8, 96, 5, 32, True), "MatMulNBits has no 5 bits; 2, 3, 4, 8 would do"),
}


@pytest.mark.parametrize(("kind", "reason"), list(REFUSED.values()), ids=list(REFUSED))
def test_what_the_operator_cannot_hold_is_said_before(kind: GridKind, reason: str) -> None:
    assert onnx_nbits.holds(kind) == reason
    assert onnx_nbits.holds(replace(kind, bits=4, group_size=48, ordered=True)) is None
    assert onnx_blocked.holds(replace(kind, bits=6)) == "DequantizeLinear has no 6 bits; 2, 3, 4, 8 would do"
    assert onnx_blocked.holds(replace(kind, bits=4)) is None


def test_a_group_of_another_size_than_blocks_is_refused() -> None:
    with pytest.raises(ModelError, match="MatMulNBits has no group_size 8"):
        onnx_nbits.to_arrays(random_grid(2, 16, 4, 8, True))


def test_a_g_idx_that_fills_groups_unevenly_is_refused() -> None:
    grid = random_grid(2, 64, 4, 32, True, ordered=True)
    assert grid.g_idx is not None
    uneven = replace(grid, g_idx=torch.cat([torch.zeros(40), torch.ones(24)]).int())
    for write in (onnx_nbits.to_arrays, onnx_blocked.to_arrays):
        with pytest.raises(ModelError, match="act_order: the groups are not of 32 channels each"):
            write(uneven)


def test_arrays_of_other_shapes_are_refused() -> None:
    stored = onnx_nbits.to_arrays(random_grid(4, 64, 4, 32, False))
    with pytest.raises(ModelError, match=r"MatMulNBits of 4 x 64: B is \[4, 1, 16\] and scales \[4, 2\]; .* would do"):
        onnx_nbits.from_arrays(replace(stored, packed=stored.packed[:, :1]))
    with pytest.raises(ModelError, match="MatMulNBits of 4 x 60: blocks of 32 do not divide the inputs"):
        onnx_nbits.from_arrays(replace(stored, columns=60))
