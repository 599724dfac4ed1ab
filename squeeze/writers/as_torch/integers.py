"""Values and weights as integers, in the operators that torch's exporters know (``quantized_decomposed``).

Activations are int8 here, whatever the graph has: uint8 with zero point ``z`` is int8 with ``z - 128``, the same real
numbers. Weights keep their integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
import torch.ao.quantization.fx._decomposed  # registers quantized_decomposed
from torch import Tensor, nn

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError
from squeeze.formats.onnx_graph import constant

UINT8_SHIFT = 128
LOW, HIGH = -128, 127
QDQ: Any = torch.ops.quantized_decomposed


@dataclass(frozen=True)
class Step:
    """The grid of an activation as int8: ``real = scale * (q - zero_point)``, one scale for the whole tensor."""

    scale: float
    zero_point: int

    def quantize(self, x: Tensor) -> Tensor:
        q: Tensor = QDQ.quantize_per_tensor.default(x, self.scale, self.zero_point, LOW, HIGH, torch.int8)
        return q

    def dequantize(self, q: Tensor) -> Tensor:
        x: Tensor = QDQ.dequantize_per_tensor.default(q, self.scale, self.zero_point, LOW, HIGH, torch.int8)
        return x


def step_of(node: ir.Node) -> Step:
    """The grid of a QuantizeLinear or DequantizeLinear of an activation.

    Raises:
        ModelError: a grid of another kind.
    """
    scale = constant(node.inputs[1])
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if (
        scale is None
        or scale.size != 1
        or (zero is not None and zero.dtype not in (ir.DataType.INT8, ir.DataType.UINT8))
    ):
        what = "an activation with one scale for the whole tensor and 8 bits would do"
        raise ModelError(f"{node.name}: a grid that integer kernels of phones do not take; {what}")
    shift = UINT8_SHIFT if zero is None or zero.dtype == ir.DataType.UINT8 else 0
    zero_point = 0 if zero is None else int(zero.numpy().reshape(-1)[0])
    return Step(float(scale.numpy().reshape(-1)[0]), zero_point - shift)


def dynamically_quantized(x: Tensor) -> Tensor:
    """Rounded to int8 by the range of the values that come: what a layer with float outputs takes."""
    scale, zero_point = QDQ.choose_qparams.tensor(x, LOW, HIGH, torch.finfo(torch.float32).eps, torch.int8)
    q = QDQ.quantize_per_tensor.tensor(x, scale, zero_point, LOW, HIGH, torch.int8)
    result: Tensor = QDQ.dequantize_per_tensor.tensor(q, scale, zero_point, LOW, HIGH, torch.int8)
    return result


class IntegerWeight(nn.Module):
    """A weight on a grid of 8 bits, one scale per output channel, as its layer has it: ``[out, ...]``."""

    def __init__(self, grid: QuantizedTensor, shape: tuple[int, ...]) -> None:
        super().__init__()
        rows = grid.q.shape[0]
        self.register_buffer("q", grid.q.reshape(shape).contiguous())
        self.register_buffer("scale", grid.scale.reshape(-1).expand(rows).contiguous())
        self.register_buffer("zero_point", torch.zeros(rows, dtype=torch.int64))

    def forward(self) -> Tensor:
        weight: Tensor = QDQ.dequantize_per_channel.default(
            self.q, self.scale, self.zero_point, 0, -127, HIGH, torch.int8
        )
        return weight
