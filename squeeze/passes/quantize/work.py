"""What a quantizer of weights is handed: matrices with their schemes, and what goes into them."""

from __future__ import annotations

from dataclasses import dataclass, field

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.algorithms.drift import Drift
from squeeze.algorithms.hessian import Hessian
from squeeze.blocks.visit import Visit
from squeeze.blocks.watch import Weight
from squeeze.passes.quantize.scheme import Scheme

Grids = dict[Weight, QuantizedTensor]


@dataclass
class BlockWork(Visit):
    """One block, or one layer, on its way, and how each of its weights is to be quantized."""

    schemes: dict[Weight, Scheme] = field(default_factory=dict)


@dataclass
class Inputs:
    """What went into the weights of a group, over all calibration data.

    Args:
        hessian: Of the inputs that they are given now.
        drift: How far those are from the original's by then; None where nobody asked, or where the two models send
            other tokens to an expert.
        place: Where what the weight gives is in the residual stream; None where that is not known.
    """

    hessian: Hessian
    drift: Drift | None = None
    place: str | None = None
