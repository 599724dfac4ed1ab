"""Values and weights as integers, in the operators that torch's exporters know (``quantized_decomposed``).

Activations are int8 here, whatever the graph has (``formats.onnx_step``). Weights keep their integers.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers quantized_decomposed
from torch import Tensor, nn

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.formats.onnx_step import Step

LOW, HIGH = -128, 127
QDQ: Any = torch.ops.quantized_decomposed


def quantize(step: Step, x: Tensor) -> Tensor:
    q: Tensor = QDQ.quantize_per_tensor.default(x, step.scale, step.zero_point, LOW, HIGH, torch.int8)
    return q


def dequantize(step: Step, q: Tensor) -> Tensor:
    x: Tensor = QDQ.dequantize_per_tensor.default(q, step.scale, step.zero_point, LOW, HIGH, torch.int8)
    return x


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
        parts = self.q, self.scale, self.zero_point
        weight: Tensor = QDQ.dequantize_per_channel.default(*parts, 0, -127, HIGH, torch.int8)
        return weight
