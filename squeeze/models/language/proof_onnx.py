"""Whether a decoder's ONNX file holds the very weights of the grid: unpacked by us, and run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import EffectError, ModelError
from squeeze.formats.onnx_nbits import rows_of, stacked
from squeeze.formats.onnx_weights import HeldWeight, held_weights
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.proof import Equality

WEIGHTS = 2**25  # looked at together: a head's table need not be in memory as floats


def prove_onnx(model: LanguageModel, file: Path) -> Iterator[Equality]:
    """Each quantized weight of the file as either reader sees it, beside ``grid.dequantize()``.

    Raises:
        ModelError: a weight of the model is not in the file.
    """
    missing = set(model.grid)
    for held in held_weights(file):
        missing -= {name.partition("#")[0] for name in held.names}
        grid = stacked([_grid(model, name) for name in held.names])
        for reader in ("squeeze", "onnxruntime"):
            yield Equality(
                "+".join(held.names), held.form, reader, "float32", grid.q.numel(), _differing(held, grid, reader)
            )
    if missing and (absent := sorted(name for name in missing if _is_read(model, name))):
        raise ModelError(f"{file}: holds no '{absent[0]}', which the model has quantized")


def proven(equalities: Iterable[Equality]) -> list[dict[str, Any]]:
    """One line per format and reader: tensors and weights compared, all of them equal.

    Raises:
        EffectError: a reader sees other weights.
    """
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for found in equalities:
        if not found.equal:
            where = f"{found.form}: {found.name}: {found.reader} reads {found.differing} of {found.weights} weights"
            raise EffectError(f"{where} otherwise than they were written; none would be right")
        said = {"format": found.form, "reader": found.reader, "dtype": found.dtype}
        line = lines.setdefault((found.form, found.reader), said | {"tensors": 0, "weights": 0, "differing": 0})
        line["tensors"] += 1
        line["weights"] += found.weights
    return list(lines.values())


def _differing(held: HeldWeight, grid: QuantizedTensor, reader: str) -> int:
    """How many weights a reader sees otherwise, some rows at a time."""
    if (held.rows, held.columns) != tuple(grid.q.shape):
        what = f"[{held.rows}, {held.columns}], and {list(grid.q.shape)} was written"
        raise ModelError(f"{held.names[0]}: the file holds {what}")
    step, count = max(1, WEIGHTS // held.columns), 0
    for start in range(0, held.rows, step):
        rows = slice(start, start + step)
        part = held.part(rows)
        read = part.unpacked() if reader == "squeeze" else part.run()
        own = rows_of(grid, rows).dequantize()
        same = torch.eq((own + 0.0).view(torch.int32), (read + 0.0).contiguous().view(torch.int32))  # -0.0 is 0.0
        count += int((~same).sum())
    return count


def _grid(model: LanguageModel, name: str) -> QuantizedTensor:
    weight, _, expert = name.partition("#")
    grid = model.quantized(weight)
    if not expert:
        return grid
    rows = model.grid[weight].shape[1]
    return rows_of(grid, slice(int(expert) * rows, (int(expert) + 1) * rows))


def _is_read(model: LanguageModel, name: str) -> bool:
    """Text goes through it: it is no vision tower's."""
    return name.startswith(f"{model.skeleton.layers_name}.") or name in model.skeleton.read_outside
