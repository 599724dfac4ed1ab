"""Whether a decoder's ONNX file holds the very weights of the grid: unpacked by us, and run by ONNX Runtime.

Where a node holds several weights, each is compared by itself with the rows that are its own: what the writer stacked
is never stacked again here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError
from squeeze.formats.onnx_weights import FileWeight, file_weights
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.memory import trim_after
from squeeze.writers.proof import Equality

WEIGHTS = 2**23  # weights compared at once, so that no large table is in memory as floats


def prove_onnx(model: LanguageModel, file: Path) -> Iterator[Equality]:
    """Each quantized weight of the file as either reader sees it, beside ``grid.dequantize()``.

    Raises:
        ModelError: a weight of the model is not in the file.
    """
    missing = set(model.grid)
    for weight in file_weights(file):
        missing -= {name.partition("#")[0] for name in weight.names}
        label, count = "+".join(weight.names), weight.rows * weight.columns
        for reader, differing in _differing(weight, model).items():
            yield Equality(label, weight.form, reader, "float32", count, differing)
    if missing and (absent := sorted(name for name in missing if _is_of_text(model, name))):
        raise ModelError(f"{file}: holds no '{absent[0]}', which the model has quantized")
    trim_after(model.nbytes())


def _differing(weight: FileWeight, model: LanguageModel) -> dict[str, int]:
    """How many weights each reader sees otherwise."""
    total, first = Counter[str](), 0
    for name in weight.names:
        grid = _grid(model, name)
        rows, columns = grid.q.shape
        if weight.columns != columns or first + rows > weight.rows:
            what = f"[{weight.rows}, {weight.columns}], and {list(grid.q.shape)} was written from row {first} on"
            raise ModelError(f"{name}: the file holds {what}")
        total.update(_differing_rows(weight, first, grid))
        first += rows
    if first != weight.rows:
        raise ModelError(f"{weight.names[0]}: the file holds {weight.rows} rows, and {first} were written")
    return dict(total)


def _differing_rows(weight: FileWeight, first: int, grid: QuantizedTensor) -> Counter[str]:
    """By reader, how many weights it sees otherwise; some rows at a time, from ``first`` on in the file."""
    step, counts = max(1, WEIGHTS // weight.columns), Counter[str]()
    for start in range(0, len(grid.q), step):
        own = grid.rows(slice(start, start + step)).dequantize()
        part = weight.part(slice(first + start, first + start + len(own)))
        counts.update(squeeze=_unlike(own, part.unpacked()), onnxruntime=_unlike(own, part.run()))
    return counts


def _unlike(own: Tensor, other: Tensor) -> int:
    """How many numbers differ; -0.0 and 0.0 are the same weight."""
    return 0 if torch.equal(own, other) else int((own != other).sum())


def _grid(model: LanguageModel, name: str) -> QuantizedTensor:
    weight, _, expert = name.partition("#")
    grid = model.quantized(weight)
    if not expert:
        return grid
    rows = model.grid[weight].shape[1]
    return grid.rows(slice(int(expert) * rows, (int(expert) + 1) * rows))


def _is_of_text(model: LanguageModel, name: str) -> bool:
    """Text goes through it: it is no vision tower's."""
    return name.startswith(f"{model.skeleton.layers_name}.") or name in model.skeleton.read_outside
