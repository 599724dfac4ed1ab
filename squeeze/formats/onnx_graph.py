"""Questions about an ONNX graph: which constants a node holds.

A weight is seen through the nodes that only store it differently (DequantizeLinear, Cast, Transpose ...).
How a graph is run or changed is not this module's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

STANDARD = ("", "ai.onnx")  # names of the standard's own domain
STORAGE_OPS = frozenset({"DequantizeLinear", "Cast", "Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze"})
WEIGHTED_OPS = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger"}
    | {"MatMulNBits", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "LSTM", "GRU", "RNN", "Gather", "Embedding"}
    | {"BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization", "PRelu"}
)
INTEGER_OPS = frozenset(
    {"QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat"}
    | {"MatMulNBits", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QAttention", "GatherBlockQuantized"}
)
WEIGHT_INPUTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("ConvInteger", "MatMulInteger", "MatMulNBits"), (1,)),
    **{"QLinearConv": (3, 8), "QLinearMatMul": (3,), "QGemm": (3, 6), "DynamicQuantizeMatMul": (1, 4), "Gather": (0,)},
}
"""Places of weights and biases among the inputs; other places of these kernels are scales and zero points."""


@dataclass(frozen=True)
class NodeConstant:
    """One constant that a node holds.

    Args:
        value: The initializer as stored.
        is_weight: False for the scales, zero points and shapes that only say how to read one.
    """

    value: ir.Value
    is_weight: bool

    @property
    def tensor(self) -> ir.TensorProtocol:
        assert self.value.const_value is not None
        return self.value.const_value


def producer(value: ir.Value | None) -> ir.Node | None:
    """The node that computes a value; None: it is not there, stored, or fed."""
    return None if value is None else value.producer()


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """One of a node's inputs; None: it is left out."""
    return node.inputs[index] if len(node.inputs) > index else None


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor behind an initializer or the output of a Constant node."""
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value
    node = value.producer()
    if node is not None and node.op_type == "Constant" and "value" in node.attributes:
        return node.attributes["value"].as_tensor()
    return None


def holds_stored_integers(node: ir.Node | None) -> bool:
    """Whether it is a DequantizeLinear of a constant, which belongs to the layer that reads it."""
    return node is not None and node.op_type == "DequantizeLinear" and constant(node.inputs[0]) is not None


def fed_inputs(graph: ir.Graph) -> list[ir.Value]:
    """Inputs without a default value: old files also list their weights as inputs."""
    return [value for value in graph.inputs if value.name not in graph.initializers]


def node_constants(node: ir.Node) -> Iterator[NodeConstant]:
    """The constants of a node, looked up through the nodes that only store them differently."""
    for index, value in enumerate(node.inputs):
        if value is not None:
            yield from _constants_behind(value, _is_weight_input(node, index))


def holds_integers(node: ir.Node) -> bool:
    """Whether a quantizer wrote the node: an integer kernel, or one that gives stored integers back as floats."""
    return node.op_type in INTEGER_OPS or node.op_type == "DequantizeLinear"


def takes_integers(node: ir.Node) -> bool:
    """Whether a quantizer has been at the node's activations too, not at its weights alone."""
    return node.op_type in INTEGER_OPS or node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear")


def _constants_behind(value: ir.Value, is_weight: bool) -> Iterator[NodeConstant]:
    if value.const_value is not None and (value.is_initializer() or value.producer() is None):
        yield NodeConstant(value, is_weight)
        return
    node = value.producer()
    if node is None or node.op_type not in STORAGE_OPS or not _is_constant(node):
        return
    for index, source in enumerate(node.inputs):
        if source is not None:
            yield from _constants_behind(source, is_weight and index == 0)


def _is_constant(node: ir.Node) -> bool:
    first = node.inputs[0]
    if first is None:
        return False
    if first.const_value is not None and first.is_initializer():
        return True
    maker = first.producer()
    return maker is not None and maker.op_type in STORAGE_OPS and _is_constant(maker)


def _is_weight_input(node: ir.Node, index: int) -> bool:
    return index in WEIGHT_INPUTS.get(node.op_type, range(len(node.inputs)))
