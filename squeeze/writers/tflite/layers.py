"""Convolutions and matrix products with stored weights, as kernels of phones take them.

Weights are ``[out, h, w, in]`` (``[1, h, w, out]`` where each channel has a filter of its own) or ``[out, in]``;
integers keep their values and scales. Behind integers the bias is int32 on the grid of the sums,
``scale_in * scale_weight``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError
from squeeze.formats.onnx_attributes import attributes, padding, value_sizes
from squeeze.formats.onnx_layer import group_count, weight_array, weight_matrix
from squeeze.formats.onnx_step import Step
from squeeze.writers.tflite.file import Array
from squeeze.writers.tflite.values import Value, Values

INT32 = 2**31 - 1
FILTERS, DEPTHWISE = (0, 2, 3, 1), (1, 2, 3, 0)  # from [out, in, h, w]


@dataclass(frozen=True)
class Layer:
    """A node with its stored weight.

    Args:
        grid: None: its weights are reals.
        bias: float32 ``[out]``.
    """

    node: ir.Node
    grid: QuantizedTensor | None
    bias: Tensor | None

    @property
    def name(self) -> str:
        return str(self.node.name)

    def weight(self, shape: tuple[int, ...], order: tuple[int, ...]) -> tuple[Array, Array | None]:
        """The stored numbers and their scales."""
        matrix = weight_matrix(self.node).numpy() if self.grid is None else self.grid.q.numpy().astype(np.int8)
        array = np.ascontiguousarray(matrix.reshape(shape).transpose(order))
        return array, None if self.grid is None else self.grid.scale.reshape(-1).expand(shape[0]).numpy()


def add_layer(values: Values, layer: Layer, source: Value, step: Step | None) -> Value:
    """The operators of one layer.

    Args:
        source: Its input: integers where ``step`` is given.
        step: The grid of its output; None: reals.
    """
    if layer.node.op_type == "Conv":
        return _convolution(values, layer, source, step)
    return _product(values, layer, source, step)


def _convolution(values: Values, layer: Layer, source: Value, step: Step | None) -> Value:
    node, options = layer.node, attributes(layer.node)
    shape = weight_array(node).shape
    if len(shape) != 4:
        raise ModelError(f"{node.name}: a convolution over {len(shape) - 2} axes; two would do")
    groups, channels = group_count(node), source.shape[1]
    depthwise = groups == channels and groups > 1
    strides, dilations = (tuple(options.get(name, (1, 1))) for name in ("strides", "dilations"))
    source = values.turned(source, last=True)
    source, same = padded(values, node, source, tuple(shape[2:]), strides, dilations)
    array, scales = layer.weight(shape, DEPTHWISE if depthwise else FILTERS)
    weight = values.file.constant(f"{layer.name}.weight", array, scales, axis=3 if depthwise else 0)
    inputs = [source.index, weight, _bias(values, layer, source, shape[0])]
    out = values.new(node.outputs[0], last=True, step=step)
    fields = {"padding": 0 if same else 1, "strideH": strides[0], "strideW": strides[1]}
    fields |= {"dilationHFactor": dilations[0], "dilationWFactor": dilations[1]}
    if depthwise:
        fields["depthMultiplier"] = shape[0] // channels
        values.file.operator("DEPTHWISE_CONV_2D", inputs, [out.index], "DepthwiseConv2DOptions", **fields)
    else:
        values.file.operator("CONV_2D", inputs, [out.index], "Conv2DOptions", **fields)
    return out


def padded(
    values: Values,
    node: ir.Node,
    source: Value,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    explicit: bool = False,
) -> tuple[Value, bool]:
    """The input as the kernel takes it, and whether the kernel adds the padding itself (SAME); else there is none.

    Args:
        explicit: The zeros are to be there, since the kernel would not count its own.
    """
    pads = padding(node) or [(0, 0), (0, 0)]
    if not any(map(any, pads)):
        return source, False
    axes = zip(source.shape[2:], kernel, strides, dilations, strict=True)
    if not explicit and pads == [_same(*axis) for axis in axes]:
        return source, True
    (top, bottom), (left, right) = pads
    height, width = source.shape[2] + top + bottom, source.shape[3] + left + right
    shape = (*source.shape[:2], height, width)
    made = values.padded(source, f"{node.name}.padded", shape)
    values.move("PAD", source.index, made.index, np.array([(0, 0), *pads, (0, 0)]), "PadOptions")
    return made, False


def _same(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """What SAME adds before and behind."""
    missing = max(0, (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)
    return missing // 2, missing - missing // 2


def _product(values: Values, layer: Layer, source: Value, step: Step | None) -> Value:
    node, options = layer.node, attributes(layer.node)
    if any(options.get(name, right) != right for name, right in (("alpha", 1.0), ("beta", 1.0), ("transA", 0))):
        raise ModelError(f"{node.name}: a Gemm with alpha, beta or transA has no form in .tflite here")
    shape = tuple(weight_matrix(node).shape)
    array, scales = layer.weight(shape, (0, 1))
    source = values.turned(source, last=False)
    weight = values.file.constant(f"{layer.name}.weight", array, scales)
    inputs = [source.index, weight, _bias(values, layer, source, shape[0])]
    out = values.new(node.outputs[0], step=step)
    fields = {"keepNumDims": len(value_sizes(node.outputs[0])) > 2, "asymmetricQuantizeInputs": scales is not None}
    values.file.operator("FULLY_CONNECTED", inputs, [out.index], "FullyConnectedOptions", **fields)
    return out


def _bias(values: Values, layer: Layer, source: Value, count: int) -> int:
    """The bias as a constant; zeros where the layer has none."""
    bias = np.zeros(count, np.float32) if layer.bias is None else layer.bias.numpy()
    name = f"{layer.name}.bias"
    if source.step is None or layer.grid is None:
        return values.file.constant(name, bias)
    scales = source.step.scale * layer.grid.scale.reshape(-1).expand(count).numpy().astype(np.float64)
    integers = np.rint(bias / scales)
    if np.abs(integers).max(initial=0) > INT32:
        raise ModelError(f"{layer.name}: its bias is too large for int32 on the grid of its sums")
    return values.file.constant(name, integers.astype(np.int32), scales)
