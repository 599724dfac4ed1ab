"""What goes into an ONNX layer, as rows of products, and the integers that fit these rows best."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.algorithms.rounding import round_on_inputs
from squeeze.formats.onnx_attributes import attributes, padding
from squeeze.formats.onnx_layer import can_hold_bias, group_count, weight_array, weight_matrix

TOKENS = 1 << 16  # places sampled per layer: neighbouring ones of an image are nearly equal
AXES = 2  # of a convolution that is unfolded here
Array = np.ndarray[Any, Any]


def why_nearest(node: ir.Node) -> str | None:
    """Why a layer's integers cannot be chosen on its inputs; None where they can."""
    if node.op_type != "Conv":
        return None
    if len(weight_array(node).shape) != AXES + 2:
        return "a convolution over other than two axes"
    automatic = attributes(node).get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    return "its padding is computed from the input's size (auto_pad)" if automatic else None


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
    """``[groups, columns, places]`` of one example."""
    options = attributes(node)
    kernel = tuple(weight_array(node).shape[2:])
    ends = [size for pair in reversed(padding(node)) for size in pair]
    strides, dilations = (tuple(options.get(name, (1, 1))) for name in ("strides", "dilations"))
    columns = functional.unfold(functional.pad(x, ends) if ends else x, kernel, dilation=dilations, stride=strides)
    return columns.reshape(group_count(node), -1, columns.shape[-1])
