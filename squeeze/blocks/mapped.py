"""A tensor in a file, of which no more lies in memory than what was used last."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch


class MappedTensor:
    """A tensor whose numbers lie in a file.

    Args:
        tensor: All of it; parts come into memory as they are read or written.
    """

    def __init__(self, file: mmap.mmap, shape: Sequence[int], dtype: torch.dtype) -> None:
        self.tensor = torch.frombuffer(file, dtype=dtype, count=prod(shape)).reshape(*shape)
        self._file = file

    @classmethod
    def create(cls, path: Path, shape: Sequence[int], dtype: torch.dtype) -> MappedTensor:
        """A file of that size, which is written through.

        Raises:
            OSError: the disk has no room for all of it; known here, where a later write would kill the process.
        """
        size_bytes = prod(shape) * dtype.itemsize
        with path.open("w+b") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size_bytes)
            else:
                file.truncate(size_bytes)
            return cls(mmap.mmap(file.fileno(), size_bytes, access=mmap.ACCESS_WRITE), shape, dtype)

    @classmethod
    def open(cls, path: Path, shape: Sequence[int], dtype: torch.dtype) -> MappedTensor:
        """A file that is read; what is written into the tensor never reaches it."""
        with path.open("rb") as file:
            return cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), shape, dtype)

    def release(self, part: slice) -> None:
        """Let these rows leave memory; the file keeps what was written through, and gives it again when asked."""
        if not hasattr(self._file, "madvise"):
            return
        row = self.tensor[0].nbytes
        start = part.start * row // mmap.PAGESIZE * mmap.PAGESIZE
        self._file.madvise(mmap.MADV_DONTNEED, start, min(part.stop * row, len(self._file)) - start)
