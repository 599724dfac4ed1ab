"""A grid as GGUF's blocks of 32 or 64 weights, made from its own integers and scales: nothing is quantized again.

Q4_0, Q5_0 and Q8_0 store ``d * c`` with signed ``c``, Q4_1 stores ``d * u + m`` with unsigned ``u``; ``d`` and ``m``
are float16. Here ``c = q - zero_point`` and ``d = scale``, repeated for each block of a group. An asymmetric grid of 4
bits has ``c`` in -15..15: it fits Q4_1 where ``m = -scale * (zero_point + 8)`` is exact in float16, and Q5_0 always.
Q2_0 stores ``d * (u - 1)`` with ``u`` in 0..3: a grid of 2 bits has ``c`` in -2..1, so ``d = -scale``, ``u = 1 - c``.

Layouts: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; in a block of four-bit values the low halves of the
16 bytes are weights 0 to 15, the high halves 16 to 31; in one of two-bit values a byte holds four neighbours, lowest
bits first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError
from squeeze.formats.grid_kind import GridKind

BLOCK = 32
WEIGHTS = 2**22  # laid out at once: each takes several times its byte on the way
TWO_BITS, WIDE_BLOCK = "Q2_0", 64
BYTES = {TWO_BITS: 18, "Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q8_0": 34}  # bytes of one block
SIGNED = {"Q4_0": 8, "Q5_0": 16, "Q8_0": 128}  # integers go from -n to n - 1
TWO_BIT_PLACES = torch.tensor([0, 2, 4, 6], dtype=torch.uint8)
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


def fits_two_bits(kind: GridKind) -> bool:
    """Whether such a grid can be Q2_0."""
    size = kind.group_size or kind.columns
    return kind.bits == 2 and kind.symmetric and size % WIDE_BLOCK == 0 and kind.columns % WIDE_BLOCK == 0


def narrowest(grid: QuantizedTensor, two_bits: bool = False) -> str:
    """The narrowest type of :data:`TYPES` that holds every weight of the grid exactly.

    Args:
        two_bits: Q2_0, too.

    Raises:
        ModelError: none does.
    """
    kind = GridKind.of(grid)
    if reason := holds(kind):
        raise ModelError(reason)
    if two_bits and fits_two_bits(kind):
        return TWO_BITS
    low, high = _extent(grid)
    for name in TYPES:
        if name in SIGNED and -SIGNED[name] <= low and high < SIGNED[name]:
            return name
        if name == "Q4_1" and grid.bits == 4 and _least_is_exact(grid):
            return name
    raise ModelError(f"GGUF's integers go from -128 to 127, and here q - zero_point goes from {low} to {high}")


def to_blocks(grid: QuantizedTensor, name: str) -> Tensor:
    """uint8 ``[out, bytes]`` of a type that holds the grid."""
    rows, columns = grid.q.shape
    step = max(1, WEIGHTS // columns)
    return torch.cat([_blocks_of(grid.rows(slice(start, start + step)), name) for start in range(0, rows, step)])


def _blocks_of(grid: QuantizedTensor, name: str) -> Tensor:
    rows, columns = grid.q.shape
    block = weights_of_block(name)
    repeat = (grid.group_size or columns) // block
    scale = grid.scale.repeat_interleave(repeat, dim=1).reshape(-1, 1)
    zero_point = grid.zero_point.repeat_interleave(repeat, dim=1).reshape(-1, 1)
    q = grid.q.reshape(-1, block).to(torch.int16)
    parts = [_halves(-scale if name == TWO_BITS else scale)]
    if name == TWO_BITS:
        parts += [_quarters(1 - q)]
    elif name == "Q4_1":
        parts += [_halves(-scale * (zero_point + 8)), _nibbles(q + 8)]
    elif name == "Q8_0":
        parts += [(q - zero_point).to(torch.int8).view(torch.uint8)]
    else:
        shifted = q - zero_point + SIGNED[name]
        parts += ([_high_bits(shifted)] if name == "Q5_0" else []) + [_nibbles(shifted & 15)]
    return torch.cat(parts, dim=1).reshape(rows, columns // block * BYTES[name])


def from_blocks(blocks: Tensor, name: str) -> QuantizedTensor:
    """The symmetric grid of blocks uint8 ``[out, bytes]``, in groups of a block.

    Raises:
        ModelError: a type that is not read into the grid.
    """
    if name not in SIGNED and name != TWO_BITS:
        raise ModelError(f"GGUF's type {name} is not read into the grid; {', '.join((TWO_BITS, *SIGNED))} are")
    rows = len(blocks)
    block_bytes = blocks.reshape(-1, BYTES[name])
    scale = block_bytes[:, :2].contiguous().view(torch.float16).float().reshape(rows, -1)
    if name == TWO_BITS:
        scale, q = -scale, (1 - _two_bits(block_bytes[:, 2:])).to(torch.int8)
    elif name == "Q8_0":
        q = block_bytes[:, 2:].contiguous().view(torch.int8)
    else:
        q = (_integers(block_bytes[:, 2:], name) - SIGNED[name]).to(torch.int8)
    zeros = torch.zeros_like(scale, dtype=torch.int32)
    bits = {TWO_BITS: 2, "Q4_0": 4}.get(name, 8)
    return QuantizedTensor(q.reshape(rows, -1), scale, zeros, bits, weights_of_block(name), True)


def weights_of_block(name: str) -> int:
    """Weights that share a scale in the file."""
    return WIDE_BLOCK if name == TWO_BITS else BLOCK


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


def _quarters(values: Tensor) -> Tensor:
    """Four neighbours to a byte: ``[blocks, 64]`` in 0..3 to uint8 ``[blocks, 16]``, lowest bits first."""
    return (values.reshape(len(values), -1, 4) << TWO_BIT_PLACES.short()).sum(dim=-1).to(torch.uint8)


def _two_bits(stored: Tensor) -> Tensor:
    """What :func:`_quarters` was given, int16."""
    return ((stored[..., None] >> TWO_BIT_PLACES) & 3).reshape(len(stored), -1).to(torch.int16)


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
