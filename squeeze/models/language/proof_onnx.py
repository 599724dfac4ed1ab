"""Whether a decoder's ONNX file holds the very weights of the grid: unpacked by us, and run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from squeeze.errors import ModelError
from squeeze.formats.onnx_weights import held_weights
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.proof import Equality


def prove_onnx(model: LanguageModel, file: Path) -> Iterator[Equality]:
    """Each quantized weight of the file as either reader sees it, beside ``grid.dequantize()``.

    Raises:
        ModelError: a weight of the model is not in the file.
    """
    missing = set(model.grid)
    for held in held_weights(file):
        own = torch.cat([_grid(model, name) for name in held.names])
        missing -= {name.partition("#")[0] for name in held.names}
        for reader, read in (("squeeze", held.unpacked), ("onnxruntime", held.run)):
            yield _compare("+".join(held.names), held.form, reader, own, read())
    if missing and (absent := sorted(name for name in missing if _is_read(model, name))):
        raise ModelError(f"{file}: holds no '{absent[0]}', which the model has quantized")


def _grid(model: LanguageModel, name: str) -> Tensor:
    weight, _, expert = name.partition("#")
    real = model.quantized(weight).dequantize()
    if not expert:
        return real
    rows = model.grid[weight].shape[1]
    return real[int(expert) * rows : (int(expert) + 1) * rows]


def _is_read(model: LanguageModel, name: str) -> bool:
    """Text goes through it: it is no vision tower's."""
    return name.startswith(f"{model.skeleton.layers_name}.") or name in model.skeleton.read_outside


def _compare(name: str, form: str, reader: str, own: Tensor, read: Tensor) -> Equality:
    if own.shape != read.shape:
        raise ModelError(f"{name}: {reader} reads {list(read.shape)}, and {list(own.shape)} was written")
    same = torch.eq((own + 0.0).view(torch.int32), (read + 0.0).contiguous().view(torch.int32))  # -0.0 is 0.0
    return Equality(name, form, reader, "float32", own.numel(), int((~same).sum()))
