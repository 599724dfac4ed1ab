"""The grid of an activation in an ONNX graph, as phones' kernels have it: int8, one scale for the whole tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from squeeze.errors import ModelError
from squeeze.formats.onnx_graph import constant, input_at

UINT8_SHIFT = 128


@dataclass(frozen=True)
class Step:
    """``real = scale * (q - zero_point)`` with int8 ``q``: uint8 with zero point ``z`` is int8 with ``z - 128``."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class StoredStep:
    """The grid of an activation as the graph has it.

    Args:
        scale: float32.
        zero_point: int8 or uint8, which the integers are too.
    """

    scale: np.float32
    zero_point: np.integer[Any]


def step_of(node: ir.Node) -> Step:
    """The grid of a QuantizeLinear or DequantizeLinear of an activation.

    Raises:
        ModelError: a grid of another kind.
    """
    stored = stored_step(node)
    shift = UINT8_SHIFT if stored.zero_point.dtype == np.uint8 else 0
    return Step(float(stored.scale), int(stored.zero_point) - shift)


def stored_step(node: ir.Node) -> StoredStep:
    """As :func:`step_of`, with the graph's own integers."""
    scale, zero = constant(node.inputs[1]), constant(input_at(node, 2))
    eight_bits = zero is None or zero.dtype in (ir.DataType.INT8, ir.DataType.UINT8)
    if scale is None or scale.size != 1 or not eight_bits:
        what = "an activation with one scale for the whole tensor and 8 bits would do"
        raise ModelError(f"{node.name}: a grid that integer kernels of phones do not take; {what}")
    zero_point = np.uint8(0) if zero is None else zero.numpy().reshape(-1)[0]
    return StoredStep(np.float32(scale.numpy().reshape(-1)[0]), zero_point)
