"""One tensor as it lies in a file, read whole or some rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from squeeze.errors import ModelError

PART_VALUES = 1 << 24  # of a tensor that is read in parts


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """A safetensors file; raises ``ModelError`` where it is not a whole one."""
    try:
        with safe_open(file, framework="pt") as shard:
            yield shard
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file}: not a whole safetensors file ({error})") from None


@dataclass(frozen=True)
class Piece:
    """One tensor of a safetensors file that is, or is part of, a tensor of the module."""

    file: Path
    name: str
    shape: tuple[int, ...]

    def read(self) -> Tensor:
        """The tensor; its pages are mapped from the file and freed with it."""
        with opened(self.file) as shard:
            tensor: Tensor = shard.get_tensor(self.name)
            return tensor

    def parts(self) -> Iterator[Tensor]:
        """Its rows, some at a time: no page of it stays in memory while the next are read."""
        if not self.shape:
            yield self.read()
            return
        rows = max(1, PART_VALUES // max(math.prod(self.shape[1:]), 1))
        for start in range(0, self.shape[0], rows):
            with opened(self.file) as shard:
                part: Tensor = shard.get_slice(self.name)[start : start + rows]
            yield part


@dataclass(frozen=True)
class Stacked:
    """A module's tensor ``[experts, out, in]`` that is stored expert by expert, each maybe in several parts."""

    experts: tuple[tuple[Piece, ...], ...]  # per expert, the parts to concatenate along ``out``

    @property
    def shape(self) -> tuple[int, ...]:
        """``[experts, out, in]``."""
        first = self.experts[0]
        return (len(self.experts), sum(piece.shape[0] for piece in first), *first[0].shape[1:])

    def read(self) -> Tensor:
        """``[experts, out, in]``."""
        return torch.stack([torch.cat([piece.read() for piece in parts]) for parts in self.experts])
