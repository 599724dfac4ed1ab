"""Finished pieces of a pass that has not finished yet."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from squeeze.sums import sync

SUM = "sha256"


class Journal:
    """Finished pieces of one pass, each written atomically; gone when the pass itself is in the store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str) -> dict[str, Tensor] | None:
        """The piece of that name, or None where it is absent, was cut short or is no longer what was written."""
        try:
            with safe_open(self.folder / f"{name}.safetensors", framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, no mapping
                whole = (file.metadata() or {}).get(SUM) == _sum(tensors)
        except (FileNotFoundError, SafetensorError):
            return None
        return tensors if whole else None

    def put(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Keep a piece; once this returns, no kill can lose it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f"{name}.part"
        copies = {key: value.detach().contiguous().clone() for key, value in tensors.items()}
        save_file(copies, temporary, {SUM: _sum(copies)})
        sync(temporary)
        temporary.replace(self.folder / f"{name}.safetensors")
        sync(self.folder)

    def drop(self, name: str) -> None:
        """Forget a piece that a later one replaces."""
        (self.folder / f"{name}.safetensors").unlink(missing_ok=True)


def _sum(tensors: dict[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return total.hexdigest()
