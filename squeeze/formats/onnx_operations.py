"""The operations of an ONNX graph for one example, as a runtime runs them: what it fuses counts once.

Pairs of QuantizeLinear and DequantizeLinear, biases, and activations behind a layer are part of the layer's kernel.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod, sqrt

import onnx_ir as ir

from squeeze.formats.onnx_graph import constant, input_at, producer
from squeeze.formats.onnx_layer import LAYER_OPS
from squeeze.formats.onnx_macs import COUNTS, count_macs
from squeeze.formats.onnx_scheme import activation_of
from squeeze.formats.operation import WIDE, Kind, Numbers, Operation, product

WITHOUT_PRODUCTS: dict[Kind, set[str]] = {
    "curve": {"Gelu", "Erf", "Tanh", "Exp", "Sigmoid", "Pow", "Sqrt", "Log", "HardSwish", "HardSigmoid", "Elu", "Mish"},
    "norm": {"LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization", "ReduceL2"},
    "softmax": {"Softmax", "LogSoftmax"},
    "move": {"Transpose", "Slice", "Pad", "Concat", "Split", "Gather", "GatherElements", "Expand", "Tile", "Resize"},
}
FREE = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Constant", "Identity"}
VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Shape"}


def operations(model: ir.Model, free_size: int) -> list[Operation] | None:
    """In the order of the graph; None where a product is not known.

    Args:
        model: Is changed: hand in a copy.
        free_size: Of a dimension that a model leaves open, but for the first, which counts examples.
    """
    macs = count_macs(model, free_size)
    if None in macs.values():
        return None
    inside = _inside_layers(model.graph)
    ends = [*model.graph.inputs, *model.graph.outputs]
    found = [Operation("light", "float", values=_size(value)) for value in ends if value.const_value is None]
    for node in model.graph:
        if node.op_type not in FREE and node not in inside:
            found.append(_operation(node, macs.get(str(node.outputs[0].name)) or 0))
    return found


def _operation(node: ir.Node, macs: int) -> Operation:
    if node.op_type in COUNTS and macs:
        return _convolution(node, macs) if "Conv" in node.op_type else _product(node, macs)
    values = [value for value in (*node.inputs, *node.outputs) if value is not None and constant(value) is None]
    count = 0 if node.op_type in VIEWS else sum(map(_size, values))
    kind: Kind = next((kind for kind, names in WITHOUT_PRODUCTS.items() if node.op_type in names), "light")
    return Operation("stride" if _strides(node) else kind, _numbers(node), values=count)


def _strides(node: ir.Node) -> bool:
    """Whether it is a Slice with steps."""
    steps = constant(input_at(node, 4)) if node.op_type == "Slice" else None
    return steps is not None and bool((abs(steps.numpy()) > 1).any())


def _convolution(node: ir.Node, macs: int) -> Operation:
    out, weight = _sizes(node.outputs[0]), _sizes(node.inputs[1])
    groups = node.attributes.get_int("group", 1)
    kind: Kind = "pointwise" if prod(weight[2:]) == 1 else "conv"
    channels = sqrt(weight[0] // groups * weight[1])
    if groups > 1 and weight[1] == 1:
        kind, channels = "depthwise", groups
    values = _size(node.inputs[0]) + _size(node.outputs[0])
    numbers = _numbers(node)
    return Operation(kind, numbers, macs, channels, prod(out[2:]), values, WIDE[numbers] * prod(weight))


def _product(node: ir.Node, macs: int) -> Operation:
    out = _sizes(node.outputs[0])
    rows, columns = prod(out[:-1]), out[-1]
    width = macs // max(rows * columns, 1)
    numbers: Numbers = "int8" if "Integer" in node.op_type else _numbers(node)
    if _computed(node.inputs[1]):  # a product for each head: small ones do not add up to a large one
        return replace(product(rows, width, columns, numbers, 0), places=out[-2] if len(out) > 1 else 1)
    kind: Kind = "dynamic" if node.op_type == "MatMulInteger" else "matmul"
    return product(rows, width, columns, numbers, WIDE[numbers] * width * columns, kind)


def _inside_layers(graph: ir.Graph) -> set[ir.Node]:
    """Nodes that a layer's kernel includes: its activation, its bias, and what rounds its inputs."""
    inside: set[ir.Node] = set()
    for node in graph:
        if node.op_type in LAYER_OPS and (activation := activation_of(node)) is not None:
            inside.add(activation)
        last = node
        if node.op_type == "MatMulInteger":
            while (reader := _only_reader(last)) is not None and reader.op_type in ("Cast", "Mul"):
                inside.update([reader, *_makers_of_scales(reader)])
                last = reader
        if node.op_type in ("MatMul", "MatMulInteger"):
            reader = _only_reader(last)
            if reader is not None and reader.op_type == "Add" and any(not _computed(v) for v in reader.inputs):
                inside.add(reader)
    return inside


def _makers_of_scales(node: ir.Node) -> list[ir.Node]:
    """The product of an input's scale with the weight's."""
    makers = map(producer, node.inputs)
    return [maker for maker in makers if maker is not None and maker.op_type == "Mul" and _is_scale(maker)]


def _is_scale(node: ir.Node) -> bool:
    makers = map(producer, node.inputs)
    return any(maker is not None and maker.op_type == "DynamicQuantizeLinear" for maker in makers)


def _only_reader(node: ir.Node) -> ir.Node | None:
    uses = node.outputs[0].uses()
    return next(iter(uses)).node if len(uses) == 1 else None


def _numbers(node: ir.Node) -> Numbers:
    """Integers where what is computed comes from a pair of QuantizeLinear and DequantizeLinear."""
    first = input_at(node, 0)
    maker = producer(first)
    paired = maker is not None and maker.op_type in ("DequantizeLinear", "QuantizeLinear")
    return "int8" if paired or (first is not None and first.dtype in (ir.DataType.INT8, ir.DataType.UINT8)) else "float"


def _computed(value: ir.Value | None) -> bool:
    """Whether a run computes it, rather than the file holding it."""
    if value is None or constant(value) is not None:
        return False
    maker = value.producer()
    return maker is None or maker.op_type != "DequantizeLinear" or _computed(maker.inputs[0])


def _sizes(value: ir.Value | None) -> list[int]:
    shape = value.shape if value is not None else None
    return [size if isinstance(size, int) else 1 for size in shape or ()]


def _size(value: ir.Value | None) -> int:
    return prod(_sizes(value))
