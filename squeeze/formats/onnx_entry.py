"""The layers at a network's entry that x86 runs faster as floats.

Measured on ONNX Runtime 1.32, one thread: a 3 x 3 convolution of an image with 3 channels takes 2.5 to 4 times as long
on integers (the kernel unrolls the image first), a depthwise one of 8 channels 6 times (no vector form below 16).
Further in, integers win. Leaving the entry float also spares the most sensitive activations. Where a shortcut reads the
entry's output too, the runtime would transpose on every branch and lose more than it gains, so only a chain counts.
"""

from __future__ import annotations

import onnx_ir as ir

from squeeze.formats.onnx_graph import constant
from squeeze.formats.onnx_layer import group_count
from squeeze.formats.onnx_scheme import activation_of

FEW_INPUTS = 36  # products summed per output: 3 x 3 of 4 channels; from 7 x 7 on, integers are as fast
NARROW = 16  # channels that fill one vector of the depthwise kernel
THROUGH_OPS = frozenset({"Relu", "Clip", "Pad", "Reshape", "Transpose", "Sub", "Mul", "Div", "Add"})


def slow_entry(graph: ir.Graph) -> list[str]:
    """Convolutions at the network's entry, reached through no other layer kind, that are slow on integers."""
    reached = {value.name for value in graph.inputs}
    names = []
    for node in graph:
        activations = [value for value in node.inputs if value is not None and constant(value) is None]
        if not activations or any(value.name not in reached for value in activations):
            continue
        slow = node.op_type == "Conv" and _is_slow(node) and _feeds_one_conv(node)
        if slow:
            names.append(str(node.name))
        if slow or node.op_type in THROUGH_OPS:
            reached.update(value.name for value in node.outputs)
    return names


def _is_slow(node: ir.Node) -> bool:
    weight = constant(node.inputs[1])
    if weight is None or len(weight.shape) != 4:
        return False
    out, per_group, *kernel = (int(size) for size in weight.shape.numpy())
    groups = group_count(node)
    if groups == 1:
        return max(kernel) > 1 and weight.size <= FEW_INPUTS * out
    return per_group == 1 and groups == out < NARROW


def _feeds_one_conv(node: ir.Node) -> bool:
    readers = [use.node for use in (activation_of(node) or node).outputs[0].uses()]
    return len(readers) == 1 and readers[0].op_type == "Conv"
