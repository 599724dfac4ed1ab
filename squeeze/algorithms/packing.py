"""Integers of 2, 3, 4 or 8 bits packed into bytes: lowest bits first, each row on its own.

Eight values of ``bits`` bits fill ``bits`` bytes exactly, so a row is padded to a multiple of eight values and any
width is handled alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

VALUES = 8  # packed together: eight values fill whole bytes at every width


def pack(values: Tensor, bits: int) -> Tensor:
    """Pack ``[rows, columns]`` integers ``0 <= v < 2**bits`` into uint8 ``[rows, bytes]``."""
    rows, columns = values.shape
    if bits == 8:
        return values.to(torch.uint8)
    if 8 % bits == 0:
        return _bytes_of(torch.nn.functional.pad(values.to(torch.uint8), (0, -columns % VALUES)), bits)
    padded = torch.nn.functional.pad(values.to(torch.int32), (0, -columns % VALUES))
    groups = padded.reshape(rows, -1, VALUES)
    word = sum(groups[..., i] << (bits * i) for i in range(VALUES))  # at most 32 bits
    assert isinstance(word, Tensor)
    return torch.stack([(word >> (8 * i)) & 255 for i in range(bits)], dim=-1).to(torch.uint8).reshape(rows, -1)


def unpack(packed: Tensor, bits: int, rows: int, columns: int) -> Tensor:
    """Undo :func:`pack`: uint8 ``[rows, columns]``."""
    if bits == 8:
        return packed
    if 8 % bits == 0:  # no value lies across two bytes
        parts = torch.stack([(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)], dim=-1)
        return parts.reshape(rows, -1)[:, :columns].contiguous()
    byte_groups = packed.reshape(rows, -1, bits).to(torch.int64)
    word = sum(byte_groups[..., i] << (8 * i) for i in range(bits))
    assert isinstance(word, Tensor)
    values = torch.stack([(word >> (bits * i)) & (2**bits - 1) for i in range(VALUES)], dim=-1)
    return values.reshape(rows, -1)[:, :columns].to(torch.uint8)


def _bytes_of(values: Tensor, bits: int) -> Tensor:
    """Values of 2 or 4 bits, whole bytes of them, as those bytes."""
    split = values.reshape(len(values), -1, 8 // bits)
    packed = split[..., 0].clone()
    for place in range(1, 8 // bits):
        packed |= split[..., place] << (bits * place)
    return packed
