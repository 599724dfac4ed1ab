"""Weights in safetensors shards, mapped and read one by one, whichever way a checkpoint stacks its experts.

Names are those of the module; where a checkpoint stores the experts of a layer one by one and the module holds them
as one 3-D tensor, they are stacked on reading. What the weights mean is the caller's business.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from squeeze.errors import ModelError, did_you_mean

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Piece:
    """One stored tensor that is, or is part of, a tensor of the module."""

    file: Path
    name: str


@dataclass(frozen=True)
class Stacked:
    """A module's tensor ``[experts, out, in]`` that is stored expert by expert, each maybe in several parts."""

    experts: tuple[tuple[Piece, ...], ...]  # per expert, the parts to concatenate along ``out``


class Shards:
    """Tensors by name, over all the safetensors files of a folder.

    Raises:
        ModelError: no shards, a shard that the index names is missing or cut short.
    """

    def __init__(self, folder: Path, files: list[Path] | None = None) -> None:
        self.folder = folder
        self.pieces = {name: Piece(file, name) for file in files or _files(folder) for name in _names(file)}

    def __contains__(self, name: str) -> bool:
        return name in self.pieces

    def read(self, name: str) -> Tensor:
        """One tensor; its pages are mapped from the file and freed with it."""
        if name not in self.pieces:
            raise ModelError(f"{self.folder}: no tensor '{name}'{did_you_mean(name, self.pieces)}")
        return read_piece(self.pieces[name])

    def nbytes(self) -> int:
        """Bytes of all shards on disk."""
        return sum(file.stat().st_size for file in {piece.file for piece in self.pieces.values()})


def read_piece(piece: Piece) -> Tensor:
    """The tensor of a piece."""
    try:
        with safe_open(piece.file, framework="pt") as shard:
            tensor: Tensor = shard.get_tensor(piece.name)
            return tensor
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{piece.file}: not a whole safetensors file ({error})") from None


def read_stacked(stacked: Stacked) -> Tensor:
    """``[experts, out, in]``."""
    return torch.stack([torch.cat([read_piece(piece) for piece in parts]) for parts in stacked.experts])


def stacked_experts(pieces: Mapping[str, Piece], wanted: Iterable[str], renames: Renames) -> dict[str, Stacked]:
    """How the module's 3-D expert tensors are stored one by one, for those of ``wanted`` that are.

    Args:
        renames: For a target such as ``.experts.gate_up_proj``, the stored parts, ``(".experts.*.w1.weight", ...)``,
            and what stands for the parts of the name before it.
    """
    found = {}
    for name in wanted:
        for target, sources in renames.targets.items():
            if name.endswith(target):
                prefix = renames.stored_prefix(name.removesuffix(target))
                if experts := _experts(pieces, prefix, sources):
                    found[name] = Stacked(experts)
    return found


@dataclass(frozen=True)
class Renames:
    """A checkpoint's own names for what the module calls otherwise."""

    targets: Mapping[str, tuple[str, ...]]  # ".experts.down_proj": (".experts.*.w2.weight",)
    parts: tuple[tuple[str, str], ...] = ()  # (".mlp.", ".block_sparse_moe."): the module's, the stored one's

    def stored(self, name: str) -> str:
        """The stored name of a tensor that is stored alone."""
        for own, stored in self.parts:
            name = name.replace(own, stored)
        return name

    def stored_prefix(self, prefix: str) -> str:
        """The stored form of the beginning of a name (``...layers.0.mlp``)."""
        return self.stored(f"{prefix}.").removesuffix(".")


def _experts(pieces: Mapping[str, Piece], prefix: str, sources: tuple[str, ...]) -> tuple[tuple[Piece, ...], ...]:
    experts: list[tuple[Piece, ...]] = []
    while True:
        names = [prefix + source.replace("*", str(len(experts))) for source in sources]
        if not all(name in pieces for name in names):
            return tuple(experts)
        experts.append(tuple(pieces[name] for name in names))


def metadata(file: Path) -> dict[str, str]:
    """What a shard says of itself."""
    with safe_open(file, framework="pt") as shard:
        return dict(shard.metadata() or {})


def _files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if not index.is_file():
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise ModelError(f"{folder}: no *.safetensors here")
        return files
    try:
        named = set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{index}: not a shard index ({error})") from None
    for name in sorted(named):
        if not re.fullmatch(r"[\w.-]+\.safetensors", name) or not (folder / name).is_file():
            raise ModelError(f"{folder}: the index names the shard '{name}', which is not here")
    return [folder / name for name in sorted(named)]


def _names(file: Path) -> list[str]:
    try:
        with safe_open(file, framework="pt") as shard:
            return list(shard.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file}: not a whole safetensors file ({error})") from None
