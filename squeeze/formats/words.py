"""Integers as one stream of bits, lowest first, cut into 32-bit words: how GPTQ and compressed-tensors lie on disk.

A value may begin in one word and end in the next (3 bits: 32 values fill three words).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from squeeze.algorithms.packing import VALUES, pack, unpack

WORD = 32


def words(values: int, bits: int) -> int:
    """How many words that many values take."""
    return -(-values * bits // WORD)


def dtype_fault(parts: Mapping[str, Tensor]) -> str | None:
    """What is wrong with the types of a packed linear's tensors; None where nothing is."""
    for name, value in parts.items():
        if "scale" in name:
            right, expected = value.is_floating_point(), "a float type"
        elif name in ("g_idx", "weight_g_idx", "weight_shape"):
            right, expected = not value.is_floating_point(), "an integer type"
        else:
            right, expected = value.dtype == torch.int32, "torch.int32"
        if not right:
            return f"{name} is {value.dtype}; {expected} would do"
    return None


def to_words(values: Tensor, bits: int) -> Tensor:
    """Pack ``[rows, columns]`` integers ``0 <= v < 2**bits`` into int32 ``[rows, words]``, each row on its own."""
    packed = pack(values, bits)
    padded = torch.nn.functional.pad(packed, (0, -packed.shape[1] % 4))
    stream = padded.reshape(-1).view(torch.int32).reshape(len(values), -1)
    return stream[:, : words(values.shape[1], bits)].clone()


def from_words(packed: Tensor, bits: int, columns: int) -> Tensor:
    """Undo :func:`to_words`: uint8 ``[rows, columns]``."""
    stream = packed.reshape(-1).view(torch.uint8).reshape(len(packed), -1)
    length = columns if bits == 8 else -(-columns // VALUES) * bits
    stream = torch.nn.functional.pad(stream, (0, max(0, length - stream.shape[1])))[:, :length]
    return unpack(stream.contiguous(), bits, len(packed), columns)
