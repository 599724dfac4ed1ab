"""A grid as the inputs of ONNX's own DequantizeLinear with ``block_size`` (opset 21), seen through a MatMul.

Integers lie as a MatMul takes its second input, ``[in, out]``: int4 or int8, the blocks along axis 0, ``scale`` float32
``[groups, out]``, ``zero_point`` like it and of the integers' type, absent where the grid is symmetric. Per-channel
grids have one scale per column, ``[out]`` on axis 1. Narrower integers lie in int4. ONNX Runtime makes a MatMulNBits
of the pair when it loads the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.formats.grid_kind import GridKind
from squeeze.formats.onnx_nbits import WIDTHS, consecutive

Array = NDArray[Any]


@dataclass(frozen=True)
class Blocked:
    """One weight as DequantizeLinear takes it.

    Args:
        integers: int4 (of ml_dtypes) or int8 ``[in, out]``.
        block: Input channels that share a scale; None = per-channel.
        order: int64 ``[in]``, which input channel each stored one is; None: as they come.
    """

    integers: Array
    scale: Array
    zero_point: Array | None
    block: int | None
    order: Array | None


def holds(kind: GridKind) -> str | None:
    """Why DequantizeLinear cannot hold such a grid; None where it can."""
    if kind.bits not in WIDTHS:
        return f"DequantizeLinear has no {kind.bits} bits; {', '.join(map(str, WIDTHS))} would do"
    return None


def to_arrays(grid: QuantizedTensor) -> Blocked:
    dtype = ml_dtypes.int4 if grid.bits <= 4 else np.int8
    order = None if grid.g_idx is None else consecutive(grid)
    q = grid.q if order is None else grid.q[:, order]
    scale, zero_point = grid.scale.float(), grid.zero_point
    if grid.group_size is None:
        scale, zero_point = scale[:, 0], zero_point[:, 0]
    return Blocked(
        _stored(q, dtype),
        np.ascontiguousarray(scale.numpy().T),
        None if grid.symmetric else _stored(zero_point, dtype),
        grid.group_size,
        None if order is None else order.numpy(),
    )


def from_arrays(stored: Blocked, bits: int) -> QuantizedTensor:
    q = torch.from_numpy(stored.integers.astype(np.int8).T.copy())
    scale = torch.from_numpy(stored.scale.T.copy())
    zeros = torch.zeros_like(scale, dtype=torch.int32)
    if stored.zero_point is not None:
        zeros = torch.from_numpy(stored.zero_point.astype(np.int32).T.copy())
    if stored.block is None:
        scale, zeros = scale[:, None], zeros[:, None]
    g_idx = None
    if stored.order is not None:
        back = torch.argsort(torch.from_numpy(np.array(stored.order)))
        q, g_idx = q[:, back], (back // (stored.block or len(back))).int()
    return QuantizedTensor(q, scale, zeros, bits, stored.block, stored.zero_point is None, g_idx)


def _stored(values: Tensor, dtype: Any) -> Array:
    return np.ascontiguousarray(values.to(torch.int8).numpy().T).astype(dtype)
