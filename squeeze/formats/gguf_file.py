"""A .gguf file, written tensor by tensor, and opened so that a file that is none ends in one clear line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from squeeze.errors import ModelError, first_line
from squeeze.formats.gguf_types import gguf, type_named

EVERY = slice(None)
DENSE = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Entry:
    """A tensor of the file before its bytes are there.

    Args:
        shape: As torch has it, ``[out, in]``.
        kind: ``F32``, ``F16``, ``BF16`` or one of the block types.
    """

    name: str
    shape: tuple[int, ...]
    kind: str

    @property
    def nbytes(self) -> int:
        """Bytes in the file, without padding."""
        kind = type_named(self.kind)
        return prod(self.shape) // kind.weights * kind.nbytes


def write(path: Path, writer: Any, entries: list[Entry], tensors: Iterator[Tensor]) -> None:
    """Write header, metadata and tensors; one tensor in memory at a time.

    Args:
        writer: A GGUFWriter that holds the metadata and no tensor yet.
        entries: What ``tensors`` will give, in the same order.
    """
    for entry in entries:
        number = type_named(entry.kind).number
        writer.add_tensor_info(entry.name, entry.shape, np.dtype(np.float32), entry.nbytes, raw_dtype=number)
    temporary = path.with_name(path.name + ".part")
    writer.write_header_to_file(temporary)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for entry, tensor in zip(entries, tensors, strict=True):
        data = tensor.contiguous().view(torch.uint8).numpy()
        assert data.nbytes == entry.nbytes, f"{entry.name}: {data.nbytes} bytes, and {entry.nbytes} were promised"
        writer.write_tensor_data(data)
    writer.close()
    temporary.replace(path)


class PackageReader:
    """A .gguf file as the gguf package reads it; tensors are mapped.

    Raises:
        ModelError: no .gguf file, a type that the package does not know, or a file cut short.
        MissingExtra: the package is not installed.
    """

    name = "gguf"

    def __init__(self, path: Path) -> None:
        package = gguf()
        if not path.is_file():
            raise ModelError(f"{path}: no such file")
        try:
            reader = package.GGUFReader(path)
        except (ValueError, KeyError, IndexError, OverflowError, UnicodeDecodeError, MemoryError) as error:
            raise ModelError(f"{path}: not a whole .gguf file ({first_line(error)})") from None
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}  # metadata go: an object for each token

    def rows(self, name: str) -> int:
        """Length of the first axis of a tensor."""
        return int(self._tensor(name).shape[-1])  # innermost first

    def dense(self, name: str, rows: slice = EVERY) -> Tensor:
        """A tensor, or rows of its first axis, as the package dequantizes it: float32, shaped as torch has it.

        Raises:
            ModelError: there is none of that name, or of a type that the package cannot dequantize.
        """
        tensor = self._tensor(name)
        try:
            values = gguf().quants.dequantize(tensor.data[rows], tensor.tensor_type)
        except NotImplementedError as error:
            raise ModelError(f"{name}: {first_line(error)}") from None
        own = values if values.flags.writeable else np.array(values)  # floats are given as they lie in the file
        _, *inner = [int(size) for size in reversed(tensor.shape)]
        return torch.from_numpy(own).reshape(-1, *inner)

    def _tensor(self, name: str) -> Any:
        if name not in self._tensors:
            raise ModelError(f"the .gguf file holds no tensor '{name}'")
        return self._tensors[name]
