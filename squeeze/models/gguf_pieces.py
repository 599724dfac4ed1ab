"""Weights that stay in a .gguf file: read under a model's own names, dequantized each time that they are asked for.

The index beside a model's config says of each weight which tensors of the file it is made of, in which order of rows.
So a large file takes no room a second time, however wide the type is that its weights are computed in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from squeeze.errors import ModelError
from squeeze.formats.gguf_header import TensorInfo
from squeeze.formats.gguf_types import dequantize
from squeeze.formats.regular import read_json, require_regular
from squeeze.models.links import link_or_copy
from squeeze.models.pieces import Piece

INDEX, FILE = "gguf.index", "weights.gguf"  # in a model's folder
PART_BYTES = 16 * 2**20  # float32 bytes dequantized at a time
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class GgufPiece(Piece):
    """One weight of a model and the tensors of the .gguf file that hold it.

    Args:
        dtype: What it is read as: a key of :data:`DTYPES`.
        tensors: One; or of stacked experts several, of which each has the same share of every expert's rows.
        head_channels: Of queries and keys whose rotary pairs lie side by side in the file; None: rows stay as they are.
        added: What the file's values have more than the model's.
    """

    dtype: str
    tensors: tuple[TensorInfo, ...]
    head_channels: int | None = None
    added: float = 0.0

    @property
    def value_dtype(self) -> torch.dtype:
        """Of what is read."""
        return DTYPES[self.dtype]

    @property
    def nbytes(self) -> int:
        """Of its values in that dtype."""
        return torch.Size(self.shape).numel() * self.value_dtype.itemsize

    def read(self) -> Tensor:
        value = torch.empty(self.shape, dtype=self.value_dtype)
        flat, place = value.reshape(-1), 0
        for part in self.parts():
            flat[place : place + part.numel()] = part.reshape(-1)
            place += part.numel()
        return value

    def parts(self) -> Iterator[Tensor]:
        for tensor, rows in self._runs():
            value = self._dequantized(tensor, rows)
            if len(self.shape) == 1 and (order := self._order()) is not None:
                value = value.reshape(-1)[order]
            stored = (value - self.added if self.added else value).to(self.value_dtype)
            if not bool(torch.isfinite(stored).all()):
                raise ModelError(f"{self.file}: '{tensor.name}' holds numbers that are not finite as {stored.dtype}")
            yield stored if len(self.shape) > 1 else stored.reshape(-1)

    def _runs(self) -> Iterator[tuple[TensorInfo, Any]]:
        """Which rows of which tensor come next."""
        if len(self.tensors) > 1:  # stacked experts: of each in turn, its share from every tensor
            for expert in range(self.shape[0]):
                for tensor in self.tensors:
                    each = tensor.rows // self.shape[0]
                    yield from ((tensor, rows) for rows in self._split(np.arange(expert * each, (expert + 1) * each)))
            return
        order, tensor = self._order() if len(self.shape) > 1 else None, self.tensors[0]
        every = np.arange(tensor.rows) if order is None else order.numpy()
        yield from ((tensor, rows) for rows in self._split(every))

    def _split(self, rows: Any) -> Iterator[Any]:
        step = max(1, PART_BYTES // (4 * self.shape[-1]))
        yield from (rows[start : start + step] for start in range(0, len(rows), step))

    def _order(self) -> Tensor | None:
        """Which row of the file's tensor each row of the model's is; None where the order stays."""
        if self.head_channels is None:
            return None
        return paired_rows(self.shape[0], self.shape[0] // self.head_channels).argsort()

    def _dequantized(self, tensor: TensorInfo, rows: Any) -> Tensor:
        """float32 ``[rows, columns]``."""
        try:
            raw = tensor.raw(self.file)[rows]
        except (OSError, ValueError) as error:
            raise ModelError(f"{self.file}: '{tensor.name}' cannot be read any more ({error})") from None
        return torch.from_numpy(dequantize(raw, tensor.kind))


def paired_rows(rows: int, heads: int) -> Tensor:
    """Which row of transformers' comes where: its rotary pairs lie half a head apart, llama.cpp's side by side."""
    return torch.arange(rows).reshape(heads, 2, rows // heads // 2).transpose(1, 2).reshape(-1)


def write_index(folder: Path, file: Path | str, pieces: Iterable[GgufPiece]) -> None:
    """Say in a model's folder which weights lie in which .gguf file, a path of its own or a name in that folder."""
    weights = [{name: value for name, value in asdict(piece).items() if name != "file"} for piece in pieces]
    (folder / INDEX).write_text(json.dumps({"file": str(file), "weights": weights}))


def link_pieces(folder: Path, pieces: Iterable[GgufPiece]) -> None:
    """The same with the file itself in the folder: linked where the file system can, copied where it cannot."""
    every = list(pieces)
    (folder / FILE).unlink(missing_ok=True)
    link_or_copy(every[0].file, folder / FILE)
    write_index(folder, FILE, every)


def read_index(folder: Path) -> dict[str, GgufPiece]:
    """The weights of a model's folder that lie in a .gguf file, by name; none where it has no such index.

    Raises:
        ModelError: an index that is damaged, a file that is gone.
    """
    if not (folder / INDEX).is_file():
        return {}
    values = read_json(folder / INDEX)
    try:
        file = folder / values["file"]
        pieces = [_piece(file, weight) for weight in values["weights"]]
    except (KeyError, TypeError) as error:
        raise ModelError(f"{folder / INDEX}: no index of weights in a .gguf file ({error})") from None
    require_regular(file)
    return {piece.name: piece for piece in pieces}


def _piece(file: Path, weight: dict[str, Any]) -> GgufPiece:
    tensors = tuple(TensorInfo(**{**tensor, "shape": tuple(tensor["shape"])}) for tensor in weight["tensors"])
    return GgufPiece(file, **{**weight, "shape": tuple(weight["shape"]), "tensors": tensors})
