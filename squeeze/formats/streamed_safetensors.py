"""A safetensors file written piece by piece, no tensor whole in memory.

Layout: https://huggingface.co/docs/safetensors/index
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
FORMAT = {"format": "pt"}


@dataclass(frozen=True)
class Slot:
    """A tensor of the file before its bytes are there."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return prod(self.shape) * self.dtype.itemsize


def write_streamed(file: Path, slots: Sequence[Slot], pieces: Iterator[Iterator[Tensor]]) -> None:
    """Write a file; it appears whole or not at all.

    Args:
        pieces: For each slot, in the same order, its values in order, in parts of its own dtype.
    """
    temporary = file.with_name(file.name + ".part")
    with temporary.open("wb") as stream:
        stream.write(header(slots))
        for slot, parts in zip(slots, pieces, strict=True):
            count = sum(stream.write(part.contiguous().view(torch.uint8).numpy().tobytes()) for part in parts)
            assert count == slot.nbytes, f"{slot.name}: {count} bytes, and {slot.nbytes} were promised"
    temporary.replace(file)


def header(slots: Sequence[Slot], metadata: Mapping[str, str] = FORMAT) -> bytes:
    """What stands before the bytes of all tensors, which follow in the same order."""
    values: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for slot in slots:
        begin, end = end, end + slot.nbytes
        values[slot.name] = {"dtype": NAMES[slot.dtype], "shape": list(slot.shape), "data_offsets": [begin, end]}
    text = json.dumps(values, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
