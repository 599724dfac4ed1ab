"""A grid as the initializers of ONNX Runtime's MatMulNBits and GatherBlockQuantized (domain ``com.microsoft``).

``B`` uint8 ``[out, blocks, block * bits / 8]``, unsigned integers, lowest bits first; ``scales`` float32
``[out, blocks]``; ``zero_points`` uint8 ``[out, ceil(blocks * bits / 8)]``, absent where the grid is symmetric. A block
is a power of two of at least 16 input channels, so a longer group is several blocks of one scale, and a grid of 3 bits
lies in 4. Groups that are not consecutive channels (act_order) become so by an ``order`` of the input channels, which
the graph gathers: the operator's own ``g_idx`` is deprecated and gives wrong products beside packed zero points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.algorithms.packing import pack, unpack
from squeeze.errors import ModelError
from squeeze.formats.grid_kind import GridKind

SMALLEST, LARGEST = 16, 256  # blocks: the operator's least, and the most that its int8 kernels take
WIDTHS = {2: 2, 3: 4, 4: 4, 8: 8}  # bits of a grid: of the operator
PIECE = 4096  # rows that are packed together: wider integers are in memory meanwhile
Array = NDArray[Any]


@dataclass(frozen=True)
class NBits:
    """One weight as the operator takes it.

    Args:
        order: int64 ``[in]``, which input channel each stored one is; None: as they come.
    """

    packed: Array
    scales: Array
    zero_points: Array | None
    order: Array | None
    rows: int
    columns: int
    bits: int
    block: int


def holds(kind: GridKind) -> str | None:
    """Why MatMulNBits cannot hold such a grid; None where it can."""
    size = kind.group_size
    if kind.bits not in WIDTHS:
        return f"MatMulNBits has no {kind.bits} bits; {', '.join(map(str, WIDTHS))} would do"
    if size is not None and size != kind.columns and size % SMALLEST:
        fit = [str(n) for n in range(SMALLEST, min(kind.columns, LARGEST + 1), SMALLEST) if kind.columns % n == 0]
        right = f"{', '.join(fit)} or null" if fit else "null"
        return f"MatMulNBits has no group_size {size}; {right} would do"
    return None


def block_size(kind: GridKind) -> int:
    """Input channels that share a scale in the file: the most that a group is made of."""
    size = kind.group_size or kind.columns
    part = min(size & -size, LARGEST)  # the largest power of two that divides it
    return part if part >= SMALLEST else 2 * SMALLEST  # one group: its last block may be cut short


def stored_bytes(kind: GridKind) -> int:
    """What a weight on such a grid takes in a file: integers in whole blocks, a float32 scale for each."""
    blocks, bits = -(-kind.columns // block_size(kind)), WIDTHS[kind.bits]
    zero_points = 0 if kind.symmetric else -(-blocks * bits // 8)
    order = 8 * kind.columns if kind.ordered else 0
    return kind.rows * (blocks * block_size(kind) * bits // 8 + 4 * blocks + zero_points) + order


def to_arrays(grid: QuantizedTensor) -> NBits:
    """The initializers of one weight; raises ``ModelError`` where the operator does not hold its groups."""
    kind = GridKind.of(grid)
    if reason := holds(kind):
        raise ModelError(reason)
    bits, block = WIDTHS[grid.bits], block_size(kind)
    order = None if grid.g_idx is None else consecutive(grid)
    q = grid.q if order is None else grid.q[:, order]
    offset, size = 2 ** (bits - 1), grid.group_size or kind.columns
    blocks = -(-kind.columns // block)
    group = torch.arange(blocks) * block // size
    zeros = (grid.zero_point[:, group] + offset).to(torch.uint8)
    pieces = zip(torch.split(q, PIECE), torch.split(zeros, PIECE), strict=True)
    packed = torch.cat([_packed(*piece, bits, block) for piece in pieces]).reshape(kind.rows, blocks, -1)
    points = None if grid.symmetric else pack(zeros, bits)[:, : -(-blocks * bits // 8)].contiguous().numpy()
    scales = grid.scale[:, group].float().contiguous().numpy()
    places = None if order is None else order.numpy()
    return NBits(packed.numpy(), scales, points, places, kind.rows, kind.columns, bits, block)


def from_arrays(stored: NBits) -> QuantizedTensor:
    """The grid of one weight, blocks of one scale being one group; raises ``ModelError`` where it is none."""
    rows, bits, block = stored.rows, stored.bits, stored.block
    blocks = -(-stored.columns // block)
    expected = ((rows, blocks, block * bits // 8), (rows, blocks))
    if (stored.packed.shape, stored.scales.shape) != expected:
        shapes = f"{list(stored.packed.shape)} and scales {list(stored.scales.shape)}"
        right = f"{expected[0]} and {expected[1]} would do"
        raise ModelError(f"MatMulNBits of {rows} x {stored.columns}: B is {shapes}; {right}")
    offset = 2 ** (bits - 1)
    filled = unpack(torch.from_numpy(stored.packed).reshape(rows * blocks, -1), bits, rows * blocks, block)
    q = filled.reshape(rows, -1)[:, : stored.columns].sub(offset).view(torch.int8)  # modulo 256, exactly
    scale = torch.from_numpy(stored.scales).float()
    zero_point = torch.zeros_like(scale, dtype=torch.int32)
    if stored.zero_points is not None:
        zero_point = _points(torch.from_numpy(stored.zero_points), bits, rows, blocks) - offset
    whole = bool((scale == scale[:, :1]).all()) and bool((zero_point == zero_point[:, :1]).all())
    if stored.columns % block and not whole:
        raise ModelError(f"MatMulNBits of {rows} x {stored.columns}: blocks of {block} do not divide the inputs")
    if whole and stored.order is None:
        return QuantizedTensor(q, scale[:, :1], zero_point[:, :1], bits, None, stored.zero_points is None)
    g_idx = None
    if stored.order is not None:
        order = torch.from_numpy(np.array(stored.order))
        back = torch.argsort(order)
        q, g_idx = q[:, back], (back // block).int()
    return QuantizedTensor(q, scale, zero_point, bits, block, stored.zero_points is None, g_idx)


def consecutive(grid: QuantizedTensor) -> Tensor:
    """int64 ``[in]``: inputs in the order in which groups lie together; raises ``ModelError`` where sizes differ."""
    assert grid.g_idx is not None
    order = torch.argsort(grid.g_idx.long(), stable=True)
    size = grid.group_size or grid.q.shape[1]
    if not torch.equal(grid.g_idx.long()[order], torch.arange(len(order)) // size):
        raise ModelError(f"act_order: the groups are not of {size} channels each, as blocks must be")
    return order


def _packed(q: Tensor, zeros: Tensor, bits: int, block: int) -> Tensor:
    """Rows of signed integers as unsigned ones, packed block by block."""
    return pack(_filled(q.to(torch.int16) + 2 ** (bits - 1), zeros, block).reshape(-1, block), bits)


def _filled(values: Tensor, zeros: Tensor, block: int) -> Tensor:
    """Columns up to a whole number of blocks; what is added stands for 0."""
    missing = zeros.shape[1] * block - values.shape[1]
    return torch.cat([values, zeros[:, -1:].to(values.dtype).expand(-1, missing)], dim=1) if missing else values


def _points(stored: Tensor, bits: int, rows: int, blocks: int) -> Tensor:
    missing = -stored.shape[1] % bits  # whole words of eight values, as they are unpacked
    padded = torch.nn.functional.pad(stored, (0, missing))
    return unpack(padded, bits, rows, blocks)[:, :blocks].to(torch.int32)
