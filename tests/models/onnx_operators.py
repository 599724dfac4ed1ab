"""Small ONNX graphs of single operators, and one on integers, that writers of other formats must say again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

RANDOM = np.random.default_rng(0)
Nodes = list[onnx.NodeProto]
IMAGE = RANDOM.normal(size=(1, 4, 9, 9)).astype(np.float32)


def stored(name: str, array: object, dtype: type = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.asarray(array, dtype), name)


def graph(
    nodes: Nodes, weights: list[TensorProto], sizes: tuple[int | str, ...] = (4, 9, 9), opset: int = 18
) -> ir.Model:
    """From ``x`` to ``y``."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *sizes])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    proto = helper.make_graph(nodes, "made", inputs, outputs, weights)
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model))


def in_onnx_runtime(model: ir.Model, image: np.ndarray = IMAGE) -> np.ndarray:
    """What ONNX Runtime makes of an example."""
    session = ort.InferenceSession(ir.serde.serialize_model(model).SerializeToString())
    result: np.ndarray = session.run(None, {"x": image})[0]
    return result


def convolution(**options: object) -> Callable[[], tuple[Nodes, list[TensorProto]]]:
    def build() -> tuple[Nodes, list[TensorProto]]:
        groups = int(str(options.get("group", 1)))
        weights = [stored("w", RANDOM.normal(size=(8, 4 // groups, 3, 3))), stored("b", RANDOM.normal(size=8))]
        return [helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv", **options)], weights

    return build


def one(operator: str, *inputs: TensorProto, **options: object) -> Callable[[], tuple[Nodes, list[TensorProto]]]:
    names = ["x", *(tensor.name for tensor in inputs)]
    return lambda: ([helper.make_node(operator, names, ["y"], "it", **options)], list(inputs))


GRAPHS = {
    "conv": convolution(pads=[1, 1, 1, 1]),
    "strided": convolution(strides=[2, 2], pads=[1, 0, 1, 0]),
    "padded on one side": convolution(strides=[2, 2], pads=[0, 0, 1, 1]),
    "dilated in groups": convolution(dilations=[2, 2], group=4),
    "max pool": one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "average pool": one("AveragePool", kernel_shape=[2, 2], strides=[2, 2]),
    "every second pixel": one(
        "Slice", *(stored(n, v, np.int64) for n, v in [("s", [0, 0]), ("e", [99, 99]), ("a", [2, 3]), ("t", [2, 2])])
    ),
    "pad": one("Pad", stored("p", [0, 1, 0, 0, 0, 1, 2, 0], np.int64)),
    "clip": one("Clip", stored("low", 0.0), stored("high", 6.0)),
    "clip below": one("Clip", stored("low", -0.5)),
    "mean": one("ReduceMean", stored("axes", [2, 3], np.int64), keepdims=0),
    "reshape": one("Reshape", stored("shape", [0, -1], np.int64)),
    "transpose": one("Transpose", perm=[0, 2, 3, 1]),
    "transpose without an order": one("Transpose"),
    "unsqueeze from the end": one("Unsqueeze", stored("axes", [-1, 1, -3], np.int64)),
    "add of a constant": one("Add", stored("c", np.ones((4, 1, 1)))),
    "hard sigmoid": one("HardSigmoid", alpha=1 / 6, beta=0.5),
    "softmax": one("Softmax", axis=1),
}

# What the writers of files for phones say, and as_torch does not.
ON_PHONES = {
    "average pool that counts its zeros": one("AveragePool", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
    "global average": one("GlobalAveragePool"),
    "flatten": one("Flatten"),
    "softmax of the last axis": one("Softmax", axis=-1),
    "relu": one("Relu"),
    "sigmoid": one("Sigmoid"),
    "tanh": one("Tanh"),
    "hard swish": one("HardSwish"),
    "multiplied by a constant": one("Mul", stored("c", np.arange(4).reshape(4, 1, 1) + 0.5)),
}


def chain() -> tuple[Nodes, list[TensorProto]]:
    """Weights of a matrix in both orders, constants, two readers of one value, names that MIL makes the same."""
    random = np.random.default_rng(5)
    weights = [stored("w", random.normal(size=(6, 4, 3, 3))), stored("c", random.normal(size=(1, 6, 1, 1)))]
    weights += [stored("m", random.normal(size=(6 * 81, 5))), stored("g", random.normal(size=(3, 5)))]
    weights += [stored("bias", random.normal(size=3))]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a.1"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["a.1", "c"], ["a/1"], "shift"),
        helper.make_node("Relu", ["a/1"], ["tensor"], "relu"),
        helper.make_node("Concat", ["tensor", "a.1"], ["1"], "concat", axis=1),
        helper.make_node("Slice", ["1", "s", "e", "t"], ["f"], "channels"),
        helper.make_node("Flatten", ["f"], ["a_1"], "flatten"),
        helper.make_node("MatMul", ["a_1", "m"], ["matrix"], "matmul"),
        helper.make_node("Gemm", ["matrix", "g", "bias"], ["y"], "gemm", transB=1),
    ]
    return nodes, [*weights, *(stored(n, [v], np.int64) for n, v in [("s", 3), ("e", 9), ("t", 1)])]


def quantized(zero_point: int, dtype: type, groups: int = 1) -> ir.Model:
    """QuantizeLinear, MaxPool on integers, DequantizeLinear, a Conv on int8 weights, and integers again."""
    scale, zero = stored("s", 0.03), stored("z", zero_point, dtype)
    weights = [
        # small ones: ONNX Runtime adds pairs in 16 bits on some CPUs
        stored("q", RANDOM.integers(-63, 64, (8, 4 // groups, 3, 3)), np.int8),
        stored("ws", RANDOM.uniform(0.001, 0.01, 8)),
        stored("b", RANDOM.normal(size=8)),
        stored("s2", 0.11),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["i"], "quantize"),
        helper.make_node("MaxPool", ["i"], ["m"], "pool", kernel_shape=[2, 2]),
        helper.make_node("DequantizeLinear", ["m", "s", "z"], ["r"], "dequantize"),
        helper.make_node("DequantizeLinear", ["q", "ws"], ["w"], "weight", axis=0),
        helper.make_node("Conv", ["r", "w", "b"], ["c"], "conv", group=groups),
        helper.make_node("QuantizeLinear", ["c", "s2", "z"], ["o"], "quantize2"),
        helper.make_node("DequantizeLinear", ["o", "s2", "z"], ["y"], "dequantize2"),
    ]
    return graph(nodes, [scale, zero, *weights])
