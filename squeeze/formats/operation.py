"""An operation: the work of one layer, in the terms in which a device's speed is measured.

Which kernels a runtime has for it is the business of ``squeeze.measure``, which times chains of each kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Literal

Products = Literal["conv", "pointwise", "depthwise", "matmul", "dynamic", "attention"]
Kind = Products | Literal["light", "move", "stride", "curve", "norm", "softmax", "glue"]
Numbers = Literal["float", "int8", "int4"]
WIDE: dict[Numbers, int] = {"float": 4, "int8": 1}  # bytes of a stored weight


@dataclass(frozen=True)
class Operation:
    """One operator as a runtime runs it, an activation that it applies itself included.

    Args:
        kind: ``conv`` has a kernel of several places, ``pointwise`` of one, ``depthwise`` one filter per channel;
            ``dynamic`` is a matrix product whose inputs are rounded to int8 as they come; ``attention`` is of one new
            token with all that are cached. Without products: ``light`` adds, multiplies or pools, ``move`` copies to
            other places, ``stride`` takes every second number, ``curve`` is a function of each number (Gelu),
            ``norm`` and ``softmax`` are of rows, ``glue`` is all that a decoder's block has between its products.
        numbers: What is multiplied: floats, int8 by int8, or int4 weights in groups.
        macs: Multiply-accumulates; 0: a kind without products.
        channels: Geometric mean of input and output channels that meet; of a depthwise one, all of them.
        places: Output positions, rows of a product, or tokens that are cached.
        values: Numbers read and written, weights apart.
        weight_bytes: As stored.
    """

    kind: Kind
    numbers: Numbers
    macs: int = 0
    channels: float = 1.0
    places: int = 1
    values: int = 0
    weight_bytes: int = 0


def product(
    rows: int, width: int, columns: int, numbers: Numbers, weight_bytes: int, kind: Kind = "matmul"
) -> Operation:
    """``[rows, width] @ [width, columns]``."""
    macs = rows * width * columns
    return Operation(kind, numbers, macs, sqrt(width * columns), rows, rows * (width + columns), weight_bytes)
