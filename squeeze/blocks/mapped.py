"""A tensor in a file, of which no more lies in memory than what was used last."""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from squeeze.algorithms.space import Space

PART = 1024  # rows or columns of a matrix on disk that are worked on at once


class MappedTensor:
    """A tensor whose numbers lie in a file.

    Args:
        tensor: All of it; parts come into memory as they are read or written.
        file: As long as the tensor lives, so does it.
    """

    def __init__(self, file: mmap.mmap, shape: Sequence[int], dtype: torch.dtype) -> None:
        self.tensor = torch.frombuffer(file, dtype=dtype, count=prod(shape)).reshape(*shape)
        self.file = file

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
        if not hasattr(self.file, "madvise"):
            return
        row = self.tensor[0].nbytes
        start = part.start * row // mmap.PAGESIZE * mmap.PAGESIZE
        self.file.madvise(mmap.MADV_DONTNEED, start, min(part.stop * row, len(self.file)) - start)


class DiskSpace(Space):
    """Matrices lie in files, and what was last used of them in memory.

    Files have no names: each is gone with its tensor, whatever becomes of the process.

    Args:
        folder: Where the files lie; not where a file system keeps its files in memory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: list[weakref.ref[mmap.mmap]] = []

    def zeros(self, rows: int, columns: int) -> Tensor:
        path = self.folder / "matrix"
        mapped = MappedTensor.create(path, (rows, columns), torch.float32)
        path.unlink()
        self._files = [one for one in self._files if one() is not None] + [weakref.ref(mapped.file)]
        return mapped.tensor

    def release(self) -> None:
        for file in (one() for one in self._files):
            if file is not None and hasattr(file, "madvise"):
                file.madvise(mmap.MADV_DONTNEED)

    def tall(self, matrix: Tensor, rows: slice, columns: slice) -> Tensor:
        start, stop, _ = rows.indices(len(matrix))
        parts = []
        for part in self.parts(start, stop):
            parts.append(matrix[part, columns].clone())
            self.release()  # a page that is read brings its neighbours: of each row 64 KB
        return torch.cat(parts)

    def columns(self, symmetric: Tensor, columns: slice) -> Tensor:
        return symmetric[columns].t()  # rows lie together

    def parts(self, start: int, stop: int) -> Iterator[slice]:
        for first in range(start, stop, PART):
            yield slice(first, min(first + PART, stop))
