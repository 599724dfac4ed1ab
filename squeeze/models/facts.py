"""What is known of a model once it is a runtime's file, which need not tell."""

from __future__ import annotations

from dataclasses import dataclass

FLOAT_TOLERANCE = 1e-3  # other vector units add in another order
NARROW_TOLERANCE = 5e-2  # a rounding that falls the other way moves a quantized output by whole steps


@dataclass(frozen=True)
class Facts:
    """Counts of the model that files were made from; None: not known.

    Args:
        parameters: Number of weights.
        tolerance: How far another host's output may be off, as a share of the largest.
        macs: Multiply-accumulates for one example, or for one token.
    """

    parameters: int | None
    tolerance: float
    macs: int | None = None
