"""Rewrite one layer so that its activations are rounded at run time and its products are integers.

``x`` goes through DynamicQuantizeLinear (uint8), the products through MatMulInteger or ConvInteger (int32), and a Mul
with ``scale_x * scale_w`` gives floats again; the bias is added as a float.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.formats.onnx_layer import bias_vector, weight_array
from squeeze.formats.onnx_simplify import initializer


def write_dynamic(graph: ir.Graph, node: ir.Node, weight: QuantizedTensor) -> None:
    """Replace a Gemm, MatMul or Conv by its integer form, in place."""
    builder = _Builder(graph, node)
    q, scale_x, zero_x = builder.quantized_input()
    if node.op_type == "Conv":
        stored = weight.q.numpy().reshape(weight_array(node).shape)
        integers = builder.add("ConvInteger", [q, builder.constant("weight.integers", stored), zero_x], like=node)
    else:
        stored = np.ascontiguousarray(weight.q.numpy().T)  # MatMulInteger takes [in, out]
        integers = builder.add("MatMulInteger", [q, builder.constant("weight.integers", stored), zero_x])
    scale_w = weight.scale.numpy().reshape([-1] if len(weight.scale) > 1 else [])
    floats = builder.add("Cast", [integers], {"to": int(ir.DataType.FLOAT)})
    scales = builder.add("Mul", [scale_x, builder.constant("weight.scale", scale_w)])
    last = builder.add("Mul", [floats, scales])
    bias = bias_vector(node)
    if bias is not None:
        rank = len(weight_array(node).shape)
        shape = (1, -1, *[1] * (rank - 2)) if node.op_type == "Conv" else (-1,)
        last = builder.add("Add", [last, builder.constant("bias", bias.numpy().reshape(shape))])
    builder.finish(last)


class _Builder:
    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        self.graph, self.node, self.new = graph, node, list[ir.Node]()

    def quantized_input(self) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Integers, scale and zero point of the layer's input; layers that read one value share them."""
        source = self.node.inputs[0]
        assert source is not None
        quantize = next((use.node for use in source.uses() if use.node.op_type == "DynamicQuantizeLinear"), None)
        if quantize is None:
            quantize = ir.node("DynamicQuantizeLinear", [source], num_outputs=3, name=f"{source.name}.quantize")
            for value, suffix in zip(quantize.outputs, ("integers", "scale", "zero_point"), strict=True):
                value.name = f"{source.name}.{suffix}"
            self.new.append(quantize)
        q, scale, zero_point = quantize.outputs
        return q, scale, zero_point

    def constant(self, suffix: str, array: np.ndarray[Any, Any]) -> ir.Value:
        return initializer(self.graph, f"{self.node.name}.{suffix}", array)

    def add(
        self, op: str, inputs: list[ir.Value], attributes: dict[str, int] | None = None, like: ir.Node | None = None
    ) -> ir.Value:
        name = str(self.node.name) if op.endswith("Integer") else f"{self.node.name}.{op.lower()}_{len(self.new)}"
        node = ir.node(op, inputs, attributes, name=name)
        if like is not None:
            node.attributes.update(like.attributes)
        out = node.outputs[0]
        out.name = f"{name}.out"
        if op != "Mul" or inputs[0].shape is not None:  # the product of the two scales has a shape of its own
            out.shape = self.node.outputs[0].shape
            out.type = ir.TensorType(ir.DataType.INT32 if op.endswith("Integer") else ir.DataType.FLOAT)
        self.new.append(node)
        return node.outputs[0]

    def finish(self, last: ir.Value) -> None:
        old = self.node.outputs[0]
        last.type = old.type
        ir.convenience.replace_nodes_and_values(self.graph, self.node, [self.node], self.new, [old], [last])
