"""Weights in safetensors shards, mapped and read one by one, whichever way a checkpoint stacks its experts.

Names are those of the checkpoint; which tensor of a module they are is the business of ``names``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from squeeze.errors import ModelError, did_you_mean
from squeeze.formats.regular import parse_json, read_json, require_regular

INDEX_ENDING = ".safetensors.index.json"
INDEX = f"model{INDEX_ENDING}"
PART_VALUES = 1 << 24  # of a tensor that is read in parts
METADATA = "squeeze"  # one key: safetensors writes several in random order


@dataclass(frozen=True)
class Piece:
    """One stored tensor that is, or is part of, a tensor of the module."""

    file: Path
    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Stacked:
    """A module's tensor ``[experts, out, in]`` that is stored expert by expert, each maybe in several parts."""

    experts: tuple[tuple[Piece, ...], ...]  # per expert, the parts to concatenate along ``out``

    @property
    def shape(self) -> tuple[int, ...]:
        """``[experts, out, in]``."""
        first = self.experts[0]
        return (len(self.experts), sum(piece.shape[0] for piece in first), *first[0].shape[1:])


class Shards:
    """Tensors by name, over all the safetensors files of a folder.

    Raises:
        ModelError: no shards, a shard that the index names is missing or cut short.
    """

    def __init__(self, folder: Path, files: list[Path] | None = None) -> None:
        self.folder = folder
        self.pieces = {
            name: Piece(file, name, shape) for file in files or _files(folder) for name, shape in _shapes(file).items()
        }

    def __contains__(self, name: str) -> bool:
        return name in self.pieces

    def read(self, name: str) -> Tensor:
        """One tensor; its pages are mapped from the file and freed with it."""
        if name not in self.pieces:
            raise ModelError(f"{self.folder}: no tensor '{name}'{did_you_mean(name, self.pieces)}")
        return read_piece(self.pieces[name])

    def parts(self, name: str) -> Iterator[Tensor]:
        """One tensor's rows, some at a time: no page of it stays in memory while the next are read."""
        piece = self.pieces[name]
        row_values = math.prod(piece.shape[1:])
        rows = max(1, PART_VALUES // max(row_values, 1))
        for start in range(0, piece.shape[0] if piece.shape else 1, rows):
            with _opened(piece) as shard:
                part: Tensor = shard.get_slice(piece.name)[start : start + rows] if piece.shape else read_piece(piece)
            yield part

    def nbytes(self) -> int:
        """Bytes of all shards on disk."""
        return sum(file.stat().st_size for file in {piece.file for piece in self.pieces.values()})


def read_piece(piece: Piece) -> Tensor:
    """The tensor of a piece."""
    with _opened(piece) as shard:
        tensor: Tensor = shard.get_tensor(piece.name)
        return tensor


@contextmanager
def _opened(piece: Piece) -> Iterator[Any]:
    try:
        with safe_open(piece.file, framework="pt") as shard:
            yield shard
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{piece.file}: not a whole safetensors file ({error})") from None


def read_stacked(stacked: Stacked) -> Tensor:
    """``[experts, out, in]``."""
    return torch.stack([torch.cat([read_piece(piece) for piece in parts]) for parts in stacked.experts])


def metadata(file: Path) -> dict[str, Any]:
    """What Squeeze wrote into a shard beside the tensors; nothing where another wrote it."""
    with safe_open(file, framework="pt") as shard:
        text = (shard.metadata() or {}).get(METADATA, "{}")
    try:
        header = parse_json(text)
    except ValueError as error:
        raise ModelError(f"{file}: what Squeeze wrote beside the tensors is damaged ({error})") from None
    if not isinstance(header, dict):
        raise ModelError(f"{file}: what Squeeze wrote beside the tensors is damaged (no JSON object)")
    return header


def _files(folder: Path) -> list[Path]:
    others = sorted(folder.glob(f"*{INDEX_ENDING}"))  # auto-gptq calls its shards otherwise
    index = folder / INDEX if (folder / INDEX).is_file() or not others else others[0]
    if not index.is_file():
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise ModelError(f"{folder}: no *.safetensors here")
        return files
    values = read_json(index)
    shards = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise ModelError(f"{index}: not a shard index (no weight_map of names to files)")
    names = set(shards.values())
    for name in sorted(names):
        if not re.fullmatch(r"[\w.-]{1,200}\.safetensors", name) or not (folder / name).is_file():
            raise ModelError(f"{folder}: the index names the shard '{name}', which is not here")
    return [folder / name for name in sorted(names)]


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    require_regular(file)
    try:
        with safe_open(file, framework="pt") as shard:
            return {name: tuple(shard.get_slice(name).get_shape()) for name in shard.keys()}  # noqa: SIM118, no mapping
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file}: not a whole safetensors file ({error})") from None
