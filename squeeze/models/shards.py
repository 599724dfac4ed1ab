"""Weights in the files of a folder, read one by one, whichever way a checkpoint stacks its experts.

Names are those of the checkpoint; which tensor of a module they are is the business of ``names``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from squeeze.errors import ModelError, did_you_mean
from squeeze.formats.regular import parse_json, read_json, require_regular
from squeeze.models.gguf_pieces import GgufPiece, link_pieces, read_index
from squeeze.models.links import link_or_copy
from squeeze.models.pieces import Piece, opened

INDEX_ENDING = ".safetensors.index.json"
INDEX = f"model{INDEX_ENDING}"
METADATA = "squeeze"  # one key: safetensors writes several in random order


class Shards:
    """Tensors by name, over all the files of a folder that hold some: safetensors, and a .gguf file by its index.

    Raises:
        ModelError: no shards, a shard that the index names is missing or cut short.
    """

    def __init__(self, folder: Path, files: list[Path] | None = None) -> None:
        self.folder = folder
        in_gguf: dict[str, GgufPiece] = {} if files else read_index(folder)
        self.files = files or _files(folder, none_will_do=bool(in_gguf))
        plain = (Piece(file, name, shape) for file in self.files for name, shape in _shapes(file).items())
        self.pieces: dict[str, Piece] = {piece.name: piece for piece in plain} | in_gguf

    def __contains__(self, name: str) -> bool:
        return name in self.pieces

    def read(self, name: str) -> Tensor:
        """One tensor, mapped from its file where that holds it as it is."""
        if name not in self.pieces:
            raise ModelError(f"{self.folder}: no tensor '{name}'{did_you_mean(name, self.pieces)}")
        return self.pieces[name].read()

    def parts(self, name: str) -> Iterator[Tensor]:
        """One tensor's rows, some at a time."""
        return self.pieces[name].parts()

    def nbytes(self) -> int:
        """Bytes of the safetensors files; of what lies in a .gguf file, as its values are read."""
        return sum(file.stat().st_size for file in self.files) + sum(piece.nbytes for piece in self._in_gguf())

    def save(self, folder: Path) -> None:
        """All tensors in another folder: linked where the file system can, copied where it cannot."""
        for file in self.files:
            link_or_copy(file, folder / file.relative_to(self.folder))
        if pieces := self._in_gguf():
            link_pieces(folder, pieces)

    def _in_gguf(self) -> list[GgufPiece]:
        return [piece for piece in self.pieces.values() if isinstance(piece, GgufPiece)]


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


def _files(folder: Path, none_will_do: bool) -> list[Path]:
    others = sorted(folder.glob(f"*{INDEX_ENDING}"))  # auto-gptq calls its shards otherwise
    index = folder / INDEX if (folder / INDEX).is_file() or not others else others[0]
    if not index.is_file():
        files = sorted(folder.glob("*.safetensors"))
        if not files and not none_will_do:
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
    with opened(file) as shard:
        return {name: tuple(shard.get_slice(name).get_shape()) for name in shard.keys()}  # noqa: SIM118, no mapping
