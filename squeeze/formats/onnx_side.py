"""Weights beside a ``.onnx`` file, appended one by one, so that no more than one is in memory.

Offsets are multiples of 64 bytes. Equal weights in equal order give equal files.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import onnx_ir as ir
from numpy.typing import NDArray

ALIGNMENT = 64


class SideFile:
    """The file that tensors are appended to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.end = 0

    def __enter__(self) -> Self:
        self.file = self.path.open("wb")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.file.close()

    def append(self, name: str, array: NDArray[Any], dtype: ir.DataType | None = None) -> ir.ExternalTensor:
        """Write an array; int4 two to a byte, the first one low.

        Args:
            dtype: What the array's elements stand for, where numpy has no such type (bfloat16 as uint16).
        """
        tensor = ir.Tensor(array, dtype)
        start = self.end + -self.end % ALIGNMENT
        self.file.write(b"\0" * (start - self.end))
        tensor.tofile(self.file)
        self.end = start + tensor.nbytes
        return self.view(name, start, tensor.nbytes, tensor.dtype, array.shape)

    def view(self, name: str, start: int, length: int, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.ExternalTensor:
        """A tensor of what was written before, maybe in another shape."""
        return ir.ExternalTensor(
            self.path.name, start, length, dtype, shape=ir.Shape(shape), name=name, base_dir=self.path.parent
        )
