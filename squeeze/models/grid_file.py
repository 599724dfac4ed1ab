"""Quantized weights on disk: integers packed to their width, scales as float16, one entry per weight.

``NAME.q`` holds the integers of ``[out, in]``, packed row by row into bytes, lowest bits first; ``NAME.scale`` is
float16 ``[out, groups]``; ``NAME.zero_point`` is uint8, where the grid is asymmetric; ``NAME.g_idx`` is int32 ``[in]``,
where groups are not consecutive channels. What cannot be seen from the tensors stands in the shard's metadata, under
``grid``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.algorithms.packing import pack, unpack
from squeeze.formats.grid_kind import GridKind, ScaleType, scale_type
from squeeze.models.shards import Shards, metadata

GRID = "grid"  # the key of a shard's metadata
PARTS = ("q", "scale", "zero_point", "g_idx")
USUAL = (("scales", "float16"), ("negative", False))


@dataclass(frozen=True)
class GridEntry:
    """What a shard says of one quantized weight."""

    shape: tuple[int, ...]  # shape of the weight in the module: [out, in] or [experts, out, in]
    bits: int
    group_size: int | None
    symmetric: bool
    dtype: str  # dtype of the dequantized weight
    scales: ScaleType = "float16"  # a float type that holds every scale exactly
    negative: bool = False  # whether some scale is negative

    @classmethod
    def of(cls, grid: QuantizedTensor, shape: tuple[int, ...], dtype: str) -> GridEntry:
        """Describe a grid whose dequantized weight has that shape and dtype."""
        scales, negative = scale_type(grid.scale), bool((grid.scale < 0).any())
        return cls(shape, grid.bits, grid.group_size, grid.symmetric, dtype, scales, negative)

    def kind(self, ordered: bool = False) -> GridKind:
        """All but the numbers; experts lie one under the other."""
        rows = math.prod(self.shape[:-1])
        scheme = self.bits, self.group_size, self.symmetric
        return GridKind(rows, self.shape[-1], *scheme, ordered, self.scales, self.negative)

    def to_json(self) -> dict[str, Any]:
        """JSON values; usual ones are left out, so that files stay the same bytes as before these fields."""
        values = asdict(self)
        return {name: value for name, value in values.items() if (name, value) not in USUAL}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> GridEntry:
        """Read back what :meth:`to_json` gave."""
        return cls(**{**values, "shape": tuple(values["shape"])})


def stored_value(shards: Shards, grid: Mapping[str, GridEntry], name: str, wide: bool = False) -> Tensor:
    """One stored weight in its own dtype and shape; a quantized one dequantized, in float32 where ``wide``."""
    if name not in grid:
        return shards.read(name)
    return dense(grid[name], stored_grid(shards, grid, name), wide)


def dense(entry: GridEntry, grid: QuantizedTensor, wide: bool = False) -> Tensor:
    """The dequantized weight, in the dtype and shape that it had; ``wide``: float32, as runtimes multiply it."""
    values = grid.dequantize()
    return (values if wide else values.to(getattr(torch, entry.dtype))).reshape(entry.shape)


def stored_grid(shards: Shards, grid: Mapping[str, GridEntry], name: str) -> QuantizedTensor:
    """The grid of a quantized weight; the experts of a 3-D weight lie one under the other."""
    parts = [f"{name}.{part}" for part in PARTS]
    return from_tensors(grid[name], {part: shards.read(part) for part in parts if part in shards}, name)


def read_grid(shards: Shards) -> dict[str, GridEntry]:
    """What the shards say of their quantized weights."""
    entries: dict[str, GridEntry] = {}
    for file in sorted(shards.files):
        header = metadata(file).get(GRID, {})
        entries |= {name: GridEntry.from_json(values) for name, values in header.items()}
    return entries


def to_tensors(name: str, grid: QuantizedTensor) -> dict[str, Tensor]:
    """The tensors that a shard keeps of one quantized weight."""
    offset = 2 ** (grid.bits - 1)
    tensors = {f"{name}.q": pack(grid.q + offset if grid.bits < 8 else grid.q.to(torch.int16) + offset, grid.bits)}
    tensors[f"{name}.scale"] = grid.scale.to(torch.float16)
    if not grid.symmetric:
        tensors[f"{name}.zero_point"] = (grid.zero_point + offset).to(torch.uint8)
    if grid.g_idx is not None:
        tensors[f"{name}.g_idx"] = grid.g_idx.int().clone()  # weights that share an input share it
    return tensors


def from_tensors(entry: GridEntry, tensors: dict[str, Tensor], name: str) -> QuantizedTensor:
    """The grid again, bit for bit."""
    offset = 2 ** (entry.bits - 1)
    columns = entry.shape[-1]
    rows = tensors[f"{name}.scale"].shape[0]
    q = unpack(tensors[f"{name}.q"], entry.bits, rows, columns).sub(offset).view(torch.int8)  # modulo 256, exactly
    scale = tensors[f"{name}.scale"].float()
    stored = tensors.get(f"{name}.zero_point")
    zero_point = torch.zeros_like(scale, dtype=torch.int32) if stored is None else stored.to(torch.int32) - offset
    g_idx = tensors.get(f"{name}.g_idx")
    return QuantizedTensor(q, scale, zero_point, entry.bits, entry.group_size, entry.symmetric, g_idx)
