"""A grid as GGUF's blocks of 32 weights, made from its own integers and scales: nothing is quantized again.

Q4_0, Q5_0 and Q8_0 store ``d * c`` with signed ``c``, Q4_1 stores ``d * u + m`` with unsigned ``u``; ``d`` and ``m``
are float16. Here ``c = q - zero_point`` and ``d = scale``, repeated for each block of a group. An asymmetric grid of 4
bits has ``c`` in -15..15: it fits Q4_1 where ``m = -scale * (zero_point + 8)`` is exact in float16, and Q5_0 always.

Layouts: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; in a block of four-bit values the low halves of the
16 bytes are weights 0 to 15, the high halves 16 to 31.
"""

from __future__ import annotations

import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError
from squeeze.formats.grid_kind import GridKind

BLOCK = 32
WEIGHTS = 2**22  # laid out at once: each takes several times its byte on the way
BYTES = {"Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q8_0": 34}  # bytes of one block
SIGNED = {"Q4_0": 8, "Q5_0": 16, "Q8_0": 128}  # integers go from -n to n - 1
TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q8_0")  # narrow ones first


def holds(kind: GridKind) -> str | None:
    """Why GGUF's blocks cannot hold such a grid; None where they can."""
    if kind.ordered:
        return "GGUF knows no groups in act_order; act_order: false or a GPTQ checkpoint would do"
    size = kind.group_size or kind.columns
    if kind.columns % BLOCK:
        return f"{kind.columns} inputs do not fill GGUF's blocks of {BLOCK}; leave the weight out (exclude)"
    if size % BLOCK:
        return f"group_size {size} is no multiple of GGUF's blocks of {BLOCK}; {BLOCK} would be"
    if kind.bits == 8 and not kind.symmetric:
        return "GGUF holds no asymmetric grid of 8 bits; symmetric: true would do"
    return None


def narrowest(grid: QuantizedTensor) -> str:
    """The narrowest type of :data:`TYPES` that holds every weight of the grid exactly.

    Raises:
        ModelError: none does.
    """
    if reason := holds(GridKind.of(grid)):
        raise ModelError(reason)
    low, high = _extent(grid)
    for name in TYPES:
        if name in SIGNED and -SIGNED[name] <= low and high < SIGNED[name]:
            return name
        if name == "Q4_1" and grid.bits == 4 and _least_is_exact(grid):
            return name
    raise ModelError(f"GGUF's integers go from -128 to 127, and here q - zero_point goes from {low} to {high}")


def to_blocks(grid: QuantizedTensor, name: str) -> Tensor:
    """uint8 ``[out, bytes]`` of one of :data:`TYPES` that holds the grid."""
    rows, columns = grid.q.shape
    step = max(1, WEIGHTS // columns)
    return torch.cat([_blocks_of(grid.rows(slice(start, start + step)), name) for start in range(0, rows, step)])


def _blocks_of(grid: QuantizedTensor, name: str) -> Tensor:
    rows, columns = grid.q.shape
    repeat = (grid.group_size or columns) // BLOCK
    scale = grid.scale.repeat_interleave(repeat, dim=1).reshape(-1, 1)
    zero_point = grid.zero_point.repeat_interleave(repeat, dim=1).reshape(-1, 1)
    q = grid.q.reshape(-1, BLOCK).to(torch.int16)
    parts = [_halves(scale)]
    if name == "Q4_1":
        parts += [_halves(-scale * (zero_point + 8)), _nibbles(q + 8)]
    elif name == "Q8_0":
        parts += [(q - zero_point).to(torch.int8).view(torch.uint8)]
    else:
        shifted = q - zero_point + SIGNED[name]
        parts += ([_high_bits(shifted)] if name == "Q5_0" else []) + [_nibbles(shifted & 15)]
    return torch.cat(parts, dim=1).reshape(rows, columns // BLOCK * BYTES[name])


def from_blocks(blocks: Tensor, name: str) -> QuantizedTensor:
    """The symmetric grid of blocks uint8 ``[out, bytes]``, in groups of 32.

    Raises:
        ModelError: a type that is not read into the grid.
    """
    if name not in SIGNED:
        raise ModelError(f"GGUF's type {name} is not read into the grid; {', '.join(SIGNED)} are")
    rows = len(blocks)
    block_bytes = blocks.reshape(-1, BYTES[name])
    scale = block_bytes[:, :2].contiguous().view(torch.float16).float().reshape(rows, -1)
    if name == "Q8_0":
        q = block_bytes[:, 2:].contiguous().view(torch.int8)
    else:
        q = (_integers(block_bytes[:, 2:], name) - SIGNED[name]).to(torch.int8)
    zeros = torch.zeros_like(scale, dtype=torch.int32)
    return QuantizedTensor(q.reshape(rows, -1), scale, zeros, 4 if name == "Q4_0" else 8, BLOCK, True)


def _extent(grid: QuantizedTensor) -> tuple[int, int]:
    """The least and the largest ``q - zero_point``."""
    if grid.symmetric:
        return int(grid.q.min()), int(grid.q.max())
    columns = grid.q.shape[1]
    centred = grid.q.reshape(len(grid.q), -1, grid.group_size or columns).to(torch.int16) - grid.zero_point[..., None]
    return int(centred.min()), int(centred.max())


def _least_is_exact(grid: QuantizedTensor) -> bool:
    least = -grid.scale * (grid.zero_point + 8)
    return bool(torch.equal(least.half().float(), least))


def _halves(values: Tensor) -> Tensor:
    """float16 as two bytes: ``[blocks, 1]`` to uint8 ``[blocks, 2]``."""
    return values.to(torch.float16).contiguous().view(torch.uint8)


def _nibbles(values: Tensor) -> Tensor:
    """Two values to a byte, 16 apart: ``[blocks, 32]`` to uint8 ``[blocks, 16]``."""
    return (values[:, :16] | (values[:, 16:] << 4)).to(torch.uint8)


def _high_bits(values: Tensor) -> Tensor:
    """Each value's fifth bit: ``[blocks, 32]`` to uint8 ``[blocks, 4]``, lowest first."""
    bits = ((values >> 4) & 1).reshape(-1, 4, 8)
    return (bits << torch.arange(8, dtype=torch.int16)).sum(dim=-1).to(torch.uint8)


def _integers(stored: Tensor, name: str) -> Tensor:
    """Unsigned integers int16 ``[blocks, 32]`` of a block without its scale."""
    nibbles = stored[:, -16:]
    values = torch.cat([nibbles & 15, nibbles >> 4], dim=1).to(torch.int16)
    if name == "Q4_0":
        return values
    high = (stored[:, :4, None] >> torch.arange(8, dtype=torch.uint8)) & 1
    return values | (high.reshape(-1, BLOCK).to(torch.int16) << 4)
