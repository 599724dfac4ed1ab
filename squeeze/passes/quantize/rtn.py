"""Round to nearest: the simple method that every other is held against."""

from __future__ import annotations

import math
from typing import ClassVar

from squeeze.algorithms.rtn import RATIOS, Clip, round_to_nearest
from squeeze.formats.grid_kind import ScaleType
from squeeze.models.torch_stage import TorchStage
from squeeze.passes.base import Context
from squeeze.passes.effort import WRITTEN_BLOCK, Amount, Work
from squeeze.passes.quantize.block_pass import BlockPass
from squeeze.passes.quantize.work import BlockWork, Grids

ROUNDING_STEPS = 20  # times that a weight is read or written: read, checked, rounded, packed, its file hashed
SEARCH_STEPS = 8  # the same for each scale that is tried


class Rtn(BlockPass[TorchStage]):
    """Round every weight to the nearest point of its group's grid; looks at no data."""

    name: ClassVar[str] = "rtn"

    clip: Clip = "absmax"
    """mse: search the scale of least squared error, worth it at 2 and 3 bits; absmax: reach the largest weight."""
    scales: ScaleType = "float16"
    """bfloat16: 8 significant bits, which XNNPACK's int4 kernels (.pte) hold as well as every other format."""

    def scale_type(self) -> ScaleType:
        return self.scales

    def work(self, model: TorchStage, data: Amount | None) -> Work | None:
        weights = sum(math.prod(shape.matrix) for shape in model.matrices().values())
        steps = len(RATIOS) * SEARCH_STEPS if self.clip == "mse" else 0
        written = WRITTEN_BLOCK.times(model.blocks)
        return Work(values=weights * (ROUNDING_STEPS + steps)) + written if model.blocks else None

    def quantize(self, work: BlockWork, context: Context) -> Grids:
        return {
            weight: round_to_nearest(weight.of(work.block), s.bits, s.group_size, s.symmetric, self.clip, s.scale_dtype)
            for weight, s in work.schemes.items()
        }
