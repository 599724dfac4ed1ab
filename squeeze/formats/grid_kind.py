"""What a format must know of a grid to say whether it can hold it: everything but the numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor

ScaleType = Literal["float16", "bfloat16"]


@dataclass(frozen=True)
class GridKind:
    """A grid before, or without, its integers.

    Args:
        rows: Output channels.
        columns: Input channels.
        group_size: Input channels that share a scale; None = per-channel.
        ordered: True where groups are not consecutive channels (act_order with groups).
        scales: A float type that holds every scale exactly; all scales are exact in float16.
        negative: Whether scales may be negative.
    """

    rows: int
    columns: int
    bits: int
    group_size: int | None
    symmetric: bool
    ordered: bool = False
    scales: ScaleType = "float16"
    negative: bool = False

    @classmethod
    def of(cls, grid: QuantizedTensor) -> GridKind:
        rows, columns = grid.q.shape
        scales, negative = scale_type(grid.scale), bool((grid.scale < 0).any())
        return cls(rows, columns, grid.bits, grid.group_size, grid.symmetric, grid.g_idx is not None, scales, negative)

    @property
    def groups(self) -> int:
        """Scales per output channel."""
        return self.columns // (self.group_size or self.columns)

    @property
    def nbytes(self) -> int:
        """On disk, packed: integers, float16 scales, and a byte for each zero point."""
        return self.rows * (-(-self.columns // 8) * self.bits + self.groups * (2 if self.symmetric else 3))


def scale_type(scale: Tensor) -> ScaleType:
    """bfloat16 where it holds every scale exactly."""
    return "bfloat16" if torch.equal(scale.bfloat16().float(), scale.float()) else "float16"
