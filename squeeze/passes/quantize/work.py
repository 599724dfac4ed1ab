"""What a quantizer of weights is handed: matrices with their schemes."""

from __future__ import annotations

from dataclasses import dataclass, field

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.blocks.visit import Visit
from squeeze.blocks.watch import Weight
from squeeze.passes.quantize.scheme import Scheme

Grids = dict[Weight, QuantizedTensor]


@dataclass
class BlockWork(Visit):
    """One block or layer while it is quantized, with the scheme of each weight."""

    schemes: dict[Weight, Scheme] = field(default_factory=dict)
