"""What goes into an ONNX layer, as rows of products, and the integers that fit these rows best."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.algorithms.rounding import round_on_inputs
from squeeze.formats.onnx_attributes import attributes, resolved_padding
from squeeze.formats.onnx_layer import can_hold_bias, group_count, weight_array, weight_matrix

TOKENS = 1 << 16  # places sampled per layer: neighbouring ones of an image are nearly equal
Array = np.ndarray[Any, Any]


def round_layer(node: ir.Node, given: Array, original: Array, bits: int) -> QuantizedTensor:
    """A layer's weight ``[out, in]`` on its grid, group by group of its channels.

    Args:
        given, original: Its input in the quantized and in the float network, the same examples.
    """
    groups = group_count(node)
    parts = weight_matrix(node).chunk(groups)
    rows = zip(parts, unfolded(node, given), unfolded(node, original), strict=True)
    solved = [round_on_inputs(part, X, Xo, bits, can_hold_bias(node)) for part, X, Xo in rows]
    return QuantizedTensor.stack(solved)


def unfolded(node: ir.Node, value: Array) -> Tensor:
    """``[groups, tokens, columns]`` of a layer's input, columns as its weight has them; at most ``TOKENS`` tokens."""
    x = torch.from_numpy(value)
    if node.op_type != "Conv":
        rows = x.reshape(-1, x.shape[-1])
        return rows[:: max(1, len(rows) // TOKENS)][None]
    parts = []
    for one in torch.split(x, 1):  # one by one: unfolded, they are many times larger
        columns = _columns(node, one)
        parts.append(columns[:, :, :: max(1, columns.shape[2] * len(x) // TOKENS)])
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous()


def _columns(node: ir.Node, x: Tensor) -> Tensor:
    """``[groups, columns, places]`` of one example ``[1, channels, *sizes]``."""
    options, kernel = attributes(node), weight_array(node).shape[2:]
    strides, dilations = (options.get(name) or [1] * len(kernel) for name in ("strides", "dilations"))
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    ends = resolved_padding(node, x.shape[2:], spans, strides)
    windows = functional.pad(x, [end for pair in reversed(ends) for end in pair])
    for axis, (span, stride, dilation) in enumerate(zip(spans, strides, dilations, strict=True)):
        windows = windows.unfold(2 + axis, span, stride)[..., ::dilation]
    axes = len(kernel)
    places_last = windows.permute(0, 1, *range(2 + axes, 2 + 2 * axes), *range(2, 2 + axes))
    groups = group_count(node)
    return places_last.reshape(groups, x.shape[1] // groups * prod(kernel), -1)
