"""Random grids of every kind, with scales exact in float16, as the quantizers make them."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor

BITS = (2, 3, 4, 8)


def random_grid(
    rows: int,
    columns: int,
    bits: int,
    group_size: int | None,
    symmetric: bool,
    ordered: bool = False,
    seed: int = 0,
    lowest_zero: int = 0,
) -> QuantizedTensor:
    """A grid that uses all its integers.

    Args:
        lowest_zero: The least zero point, above the lowest integer (1: as version 1 of GPTQ's checkpoints can store).
    """
    random = torch.Generator().manual_seed(seed)
    half, groups = 2 ** (bits - 1), columns // (group_size or columns)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=random)

    scale = (torch.rand(rows, groups, generator=random) + 1e-3).mul(0.1).half().float()
    zero_point = integers(lowest_zero - half, half, rows, groups).int()
    zero_point = torch.zeros_like(zero_point) if symmetric else zero_point
    g_idx = None
    if ordered and groups > 1:
        g_idx = (torch.arange(columns) // (group_size or columns))[torch.randperm(columns, generator=random)].int()
    q = integers(-half, half, rows, columns).to(torch.int8)
    return QuantizedTensor(q, scale, zero_point, bits, group_size, symmetric, g_idx)


def grids(sizes: list[int | None], rows: list[int], **fixed: Any) -> st.SearchStrategy[QuantizedTensor]:
    """Grids of these group sizes and numbers of rows; ``fixed`` pins arguments of :func:`random_grid`."""
    choices: dict[str, st.SearchStrategy[Any]] = {
        "bits": st.sampled_from(BITS),
        "symmetric": st.booleans(),
        "ordered": st.booleans(),
        "seed": st.integers(0, 999),
    }
    choices |= {name: st.just(value) for name, value in fixed.items()}

    def build(size: int | None, groups: int, count: int, rest: dict[str, Any]) -> QuantizedTensor:
        return random_grid(count, (size or 32) * groups, group_size=size, **rest)

    return st.builds(
        build, st.sampled_from(sizes), st.integers(1, 3), st.sampled_from(rows), st.fixed_dictionaries(choices)
    )


def same(one: QuantizedTensor, other: QuantizedTensor) -> bool:
    """Two grids hold the same integers, scales, zero points and groups."""
    parts = ("q", "scale", "zero_point")
    equal = all(torch.equal(getattr(one, name), getattr(other, name)) for name in parts)
    both = one.g_idx is not None and other.g_idx is not None
    grouped = torch.equal(one.g_idx, other.g_idx) if both else one.g_idx is other.g_idx  # type: ignore[arg-type]
    return equal and grouped and (one.bits, one.group_size) == (other.bits, other.group_size)
