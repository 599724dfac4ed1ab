"""The quantized weights of a torch model on disk: ``grid.safetensors``, integers and scales beside the dense weights.

As in a language model's shards (``grid_file``); the weight of a convolution lies there as its matrix
``[out, in / groups x height x width]``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError, first_line
from squeeze.models.grid_file import GRID, PARTS, GridEntry, from_tensors, to_tensors
from squeeze.models.shards import METADATA, metadata

GRID_FILE = "grid.safetensors"
Grids = Mapping[str, QuantizedTensor]


def grid_bytes(grid: QuantizedTensor) -> int:
    """What a weight takes as it is stored: packed integers, float16 scales, zero points."""
    return sum(tensor.nbytes for tensor in to_tensors("", grid).values())


def put_grid(module: nn.Module, name: str, grid: QuantizedTensor) -> None:
    """Let a module compute with what a weight has become."""
    weight = module.get_parameter(name).data
    weight.copy_(grid.dequantize().reshape(weight.shape))


def write_grids(grids: Grids, folder: Path) -> None:
    """Write the file, where there is something to write."""
    if not grids:
        return
    tensors = {
        key: value.contiguous() for name in sorted(grids) for key, value in to_tensors(name, grids[name]).items()
    }
    entries = {name: GridEntry.of(grid, tuple(grid.q.shape), "float32").to_json() for name, grid in grids.items()}
    save_file(tensors, folder / GRID_FILE, {METADATA: json.dumps({GRID: entries}, sort_keys=True)})


def read_grids(folder: Path) -> dict[str, QuantizedTensor]:
    """What :func:`write_grids` wrote; nothing where there is no such file.

    Raises:
        ModelError: it is damaged.
    """
    file = folder / GRID_FILE
    if not file.is_file():
        return {}
    try:
        tensors = load_file(file)
        entries = {name: GridEntry.from_json(values) for name, values in metadata(file)[GRID].items()}
        return {name: from_tensors(entry, _parts(tensors, name), name) for name, entry in entries.items()}
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ModelError(f"{file}: not a whole grid of quantized weights ({first_line(error)})") from None


def _parts(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: tensors[key] for key in (f"{name}.{part}" for part in PARTS) if key in tensors}
