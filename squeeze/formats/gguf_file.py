"""A .gguf file, written tensor by tensor, and opened so that a file that is none ends in one clear line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from squeeze.errors import MissingExtra, ModelError, first_line
from squeeze.formats.gguf_blocks import BLOCK, BYTES

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
        count = int(np.prod(self.shape))
        return count // BLOCK * BYTES[self.kind] if self.kind in BYTES else count * DENSE[self.kind].itemsize


def gguf() -> Any:
    """The package.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import gguf as package
    except ImportError:
        raise MissingExtra("a .gguf file needs the package gguf; pip install 'squeeze[gguf]'") from None
    return package


def write(path: Path, writer: Any, entries: list[Entry], tensors: Iterator[Tensor]) -> None:
    """Write header, metadata and tensors; one tensor in memory at a time.

    Args:
        writer: A GGUFWriter that holds the metadata and no tensor yet.
        entries: What ``tensors`` will give, in the same order.
    """
    package = gguf()
    for entry in entries:
        kind = package.GGMLQuantizationType[entry.kind]
        dtype = np.dtype(np.float32 if entry.kind == "F32" else np.float16 if entry.kind == "F16" else np.uint8)
        shape = entry.shape if entry.kind in ("F32", "F16") else package.quant_shape_to_byte_shape(entry.shape, kind)
        writer.add_tensor_info(entry.name, shape, dtype, entry.nbytes, raw_dtype=kind)
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


def read(path: Path) -> Any:
    """The file as the gguf package's reader has it; tensors are mapped.

    Raises:
        ModelError: no .gguf file, a type that the package does not know, or a file cut short.
    """
    package = gguf()
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    try:
        return package.GGUFReader(path)
    except (ValueError, KeyError, IndexError, OverflowError, UnicodeDecodeError, MemoryError) as error:
        raise ModelError(f"{path}: not a whole .gguf file ({first_line(error)})") from None


def length(reader: Any, name: str) -> int:
    """Of the first axis of a tensor.

    Raises:
        ModelError: there is none of that name.
    """
    return int(_tensor(reader, name).shape[-1])  # innermost first


def _tensor(reader: Any, name: str) -> Any:
    tensor = next((tensor for tensor in reader.tensors if tensor.name == name), None)
    if tensor is None:
        raise ModelError(f"the .gguf file holds no tensor '{name}'")
    return tensor


def dense(reader: Any, name: str, rows: slice = EVERY) -> Tensor:
    """A tensor as the gguf package's own ``dequantize`` gives it: float32, shaped as torch has it.

    Args:
        rows: Of the first axis.

    Raises:
        ModelError: there is none of that name, or of a type that the package cannot dequantize.
    """
    tensor = _tensor(reader, name)
    try:
        values = gguf().quants.dequantize(tensor.data[rows], tensor.tensor_type)
    except NotImplementedError as error:
        raise ModelError(f"{name}: {first_line(error)}") from None
    own = values if values.flags.writeable else np.array(values)  # floats are given as they lie in the file
    _, *inner = [int(size) for size in reversed(tensor.shape)]
    return torch.from_numpy(own).reshape(-1, *inner)
