"""What a quantizer of weights is handed: matrices with their schemes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.blocks.visit import Visit
from squeeze.blocks.watch import Weight
from squeeze.passes.quantize.scheme import Scheme

Grids = dict[Weight, QuantizedTensor]


@dataclass
class BlockWork(Visit):
    """One block or layer while it is quantized, with the scheme of each weight.

    Args:
        token_weights: float32 ``[tokens, groups]`` by weight, what a squared error of a token's output costs in each
            group of output channels; None: all tokens the same.
    """

    schemes: dict[Weight, Scheme] = field(default_factory=dict)
    token_weights: Mapping[Weight, Tensor] | None = None
