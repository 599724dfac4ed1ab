"""HQQ on language models: the plumbing; the paper is ``squeeze.algorithms.hqq``."""

from __future__ import annotations

import math
from typing import ClassVar

from squeeze.algorithms.hqq import ROUNDS, half_quadratic
from squeeze.models.torch_stage import TorchStage
from squeeze.passes.base import Context
from squeeze.passes.effort import WRITTEN_BLOCK, Amount, Work
from squeeze.passes.quantize.block_pass import BlockPass
from squeeze.passes.quantize.work import BlockWork, Grids

ROUND_STEPS = 60  # times that a weight is read or written in a round, its powers counted as several


class Hqq(BlockPass[TorchStage]):
    """Fit the grid of every weight so that a few outliers count little; looks at no data.

    Badri & Shaji, 2023, "Half-Quadratic Quantization of Large Machine Learning Models".
    """

    name: ClassVar[str] = "hqq"

    symmetric: bool = False
    """The paper's grids have a zero point: false."""

    def work(self, model: TorchStage, data: Amount | None) -> Work | None:
        weights = sum(math.prod(shape.matrix) for shape in model.matrices().values())
        written = WRITTEN_BLOCK.times(model.blocks)
        return Work(values=weights * ROUNDS * ROUND_STEPS) + written if model.blocks else None

    def quantize(self, work: BlockWork, context: Context) -> Grids:
        return {
            weight: half_quadratic(weight.of(work.block), s.bits, s.group_size, s.symmetric)
            for weight, s in work.schemes.items()
        }
