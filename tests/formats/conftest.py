"""Small float graphs with every shape of connection that the int8 writer must understand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper


def residual_net() -> onnx.ModelProto:
    """Stem, a block with a strided zero-padded shortcut, pool, classifier: ResNet-20 in small, one channel dead."""
    random = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> TensorProto:
        values = random.normal(size=shape).astype(np.float32) / np.sqrt(max(1, int(np.prod(shape[1:]))))
        if name == "b.weight":
            values[3] = 1e-13
        return numpy_helper.from_array(values.astype(np.float32), name)

    def integers(name: str, *values: int) -> TensorProto:
        return numpy_helper.from_array(np.array(values, dtype=np.int64), name)

    def conv(name: str, source: str, stride: int, out: str) -> onnx.NodeProto:
        attributes = {"pads": [1, 1, 1, 1], "strides": [stride, stride], "kernel_shape": [3, 3]}
        return helper.make_node("Conv", [source, f"{name}.weight", f"{name}.bias"], [out], name, **attributes)

    nodes = [
        conv("a", "image", 1, "a0"),
        helper.make_node("Relu", ["a0"], ["a1"], "a.relu"),
        conv("b", "a1", 2, "b0"),
        helper.make_node("Clip", ["b0", "zero", "six"], ["b1"], "b.clip"),
        conv("c", "b1", 1, "c0"),
        helper.make_node("Slice", ["a1", "from", "to", "axes", "steps"], ["s"], "slice"),
        helper.make_node("Pad", ["s", "pads"], ["p"], "pad"),
        helper.make_node("Add", ["c0", "p"], ["d0"], "add"),
        helper.make_node("Relu", ["d0"], ["d1"], "add.relu"),
        helper.make_node("GlobalAveragePool", ["d1"], ["g"], "pool"),
        helper.make_node("Flatten", ["g"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["logits"], "fc", transB=1),
    ]
    initializers = [
        weight("a.weight", 8, 3, 3, 3),
        weight("a.bias", 8),
        weight("b.weight", 16, 8, 3, 3),
        weight("b.bias", 16),
        weight("c.weight", 16, 16, 3, 3),
        weight("c.bias", 16),
        weight("fc.weight", 5, 16),
        weight("fc.bias", 5),
        integers("from", 0, 0),
        integers("to", 99, 99),
        integers("axes", 2, 3),
        integers("steps", 2, 2),
        integers("pads", 0, 4, 0, 0, 0, 4, 0, 0),
        numpy_helper.from_array(np.array(0, dtype=np.float32), "zero"),
        numpy_helper.from_array(np.array(6, dtype=np.float32), "six"),
    ]
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 12, 12])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 5])],
        initializers,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return onnx.shape_inference.infer_shapes(proto)


@pytest.fixture
def residual() -> Callable[[], ir.Model]:
    """Makes the graph afresh; tests change what they get."""
    return lambda: ir.from_proto(residual_net())
