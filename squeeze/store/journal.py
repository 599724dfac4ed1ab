"""Finished pieces of a pass that has not finished yet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from squeeze.formats.streamed_safetensors import Slot, header
from squeeze.sums import sync

SUM = "sha256"
NO_SUM = "0" * 64  # stands in the header until the last tensor is written


class Piece(Mapping[str, Tensor]):
    """A piece on disk; each tensor is read when it is asked for."""

    def __init__(self, file: Path) -> None:
        self.file = file
        with safe_open(file, framework="pt") as opened:
            self.names, self.sum = list(opened.keys()), (opened.metadata() or {}).get(SUM)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        with safe_open(self.file, framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class Journal:
    """Finished pieces of one pass, each written atomically; gone when the pass itself is in the store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str) -> dict[str, Tensor] | None:
        """The piece of that name, or None where it is absent, was cut short or is no longer what was written."""
        piece = self.open(name)
        return None if piece is None else dict(piece)

    def open(self, name: str) -> Piece | None:
        """The same, with one tensor in memory at a time."""
        try:
            piece = Piece(self.folder / f"{name}.safetensors")
            total = hashlib.sha256()
            for slot in slots(piece):
                _add(total, slot, piece[slot.name])
        except (FileNotFoundError, SafetensorError):
            return None
        return piece if piece.sum == total.hexdigest() else None

    def put(self, name: str, tensors: Mapping[str, Tensor], whole: Callable[[Tensor], Tensor] = Tensor.detach) -> None:
        """Keep a piece; once this returns, no kill can lose it.

        Args:
            whole: Makes each tensor, in the order of :func:`slots`, the one to be written, which is held no longer.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary, total, order = self.folder / f"{name}.part", hashlib.sha256(), slots(tensors)
        with temporary.open("wb") as stream:
            stream.write(header(order, {SUM: NO_SUM}))
            for slot in order:
                stream.write(_add(total, slot, whole(tensors[slot.name])))
            stream.seek(0)
            stream.write(header(order, {SUM: total.hexdigest()}))
        sync(temporary)
        temporary.replace(self.folder / f"{name}.safetensors")
        sync(self.folder)

    def drop(self, name: str) -> None:
        """Forget a piece that a later one replaces."""
        (self.folder / f"{name}.safetensors").unlink(missing_ok=True)


def slots(tensors: Mapping[str, Tensor]) -> list[Slot]:
    """Tensors in the order in which a piece holds them: wide types first, which keeps each aligned, then by name."""
    every = [Slot(name, tuple(value.shape), value.dtype) for name, value in tensors.items()]
    return sorted(every, key=lambda slot: (-slot.dtype.itemsize, slot.name))


def _add(total: hashlib._Hash, slot: Slot, tensor: Tensor) -> memoryview:
    """Add name, type, shape and bytes to a sha256; gives the bytes."""
    flat = tensor.contiguous().reshape(-1)
    data: memoryview = flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
    total.update(f"{slot.name} {slot.dtype} {slot.shape};".encode())
    total.update(data)
    return data
