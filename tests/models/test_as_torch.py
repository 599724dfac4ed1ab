"""An ONNX graph as a torch module: the same numbers, the same integers, and a name for what it cannot say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from squeeze.errors import ModelError
from squeeze.formats.grid_kind import GridKind
from squeeze.formats.onnx_grid import take_grids
from squeeze.writers.as_torch.build import as_torch, examples, holds

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


def both(model: ir.Model, image: np.ndarray = IMAGE) -> tuple[np.ndarray, np.ndarray]:
    """What ONNX Runtime and torch make of an example."""
    session = ort.InferenceSession(ir.serde.serialize_model(model).SerializeToString())
    expected = session.run(None, {"x": image})[0]
    network = as_torch(model, take_grids(model.graph)).eval()
    return expected, network(torch.from_numpy(image))[0].numpy()


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


@pytest.mark.parametrize("make_nodes", GRAPHS.values(), ids=GRAPHS.keys())
def test_torch_computes_what_onnx_runtime_computes(make_nodes: Callable[[], tuple[Nodes, list[TensorProto]]]) -> None:
    expected, actual = both(graph(*make_nodes()))
    assert np.abs(actual - expected).max() < 1e-5 * np.abs(expected).max()


def quantized(zero_point: int, dtype: type) -> ir.Model:
    """QuantizeLinear, MaxPool on integers, DequantizeLinear, a Conv on int8 weights, and integers again."""
    scale, zero = stored("s", 0.03), stored("z", zero_point, dtype)
    weights = [
        stored("q", RANDOM.integers(-63, 64, (8, 4, 3, 3)), np.int8),  # ONNX Runtime adds pairs in 16 bits on some CPUs
        stored("ws", RANDOM.uniform(0.001, 0.01, 8)),
        stored("b", RANDOM.normal(size=8)),
        stored("s2", 0.11),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["i"], "quantize"),
        helper.make_node("MaxPool", ["i"], ["m"], "pool", kernel_shape=[2, 2]),
        helper.make_node("DequantizeLinear", ["m", "s", "z"], ["r"], "dequantize"),
        helper.make_node("DequantizeLinear", ["q", "ws"], ["w"], "weight", axis=0),
        helper.make_node("Conv", ["r", "w", "b"], ["c"], "conv"),
        helper.make_node("QuantizeLinear", ["c", "s2", "z"], ["o"], "quantize2"),
        helper.make_node("DequantizeLinear", ["o", "s2", "z"], ["y"], "dequantize2"),
    ]
    return graph(nodes, [scale, zero, *weights])


@pytest.mark.parametrize(("zero_point", "dtype"), [(128, np.uint8), (7, np.uint8), (-3, np.int8)])
def test_integers_are_the_same_whether_the_graph_has_them_signed_or_not(zero_point: int, dtype: type) -> None:
    """At most one step apart, where a sum of floats falls on the other side of a half."""
    expected, result = both(quantized(zero_point, dtype))
    steps = np.abs(result - expected) / 0.11
    assert steps.max() < 1.01
    assert (steps < 0.01).mean() > 0.99


@pytest.mark.parametrize(
    ("make_nodes", "message"),
    [
        (one("Erf"), "it: Erf has no form in torch here"),
        (one("Flatten", axis=2), "it: Flatten at axis 2; axis 1 would do"),
        (convolution(auto_pad="SAME_UPPER"), "conv: auto_pad SAME_UPPER of Conv; explicit pads would do"),
        (one("MaxPool", kernel_shape=[2, 2], ceil_mode=1), "it: MaxPool over two axes, padded alike"),
        (one("Pad", stored("p", [0] * 4 + [1] * 4, np.int64), mode="edge"), "it: Pad with mode edge"),
    ],
)
def test_what_has_no_form_is_named(make_nodes: Callable[[], tuple[Nodes, list[TensorProto]]], message: str) -> None:
    model = graph(*make_nodes())
    with pytest.raises(ModelError, match=message):
        as_torch(model, {})


def test_a_softmax_that_flattens_is_refused() -> None:
    model = graph(*one("Softmax", axis=1)(), opset=12)
    with pytest.raises(ModelError, match="it: Softmax of opset 12 runs over all axes from its own on; opset 13"):
        as_torch(model, {})


def test_a_free_size_is_refused() -> None:
    model = graph(*one("Relu")(), sizes=(4, "height", 9))
    with pytest.raises(ModelError, match="input 'x' has a free size"):
        list(examples(model))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (GridKind(8, 8, 8, None, True), None),
        (GridKind(8, 8, 4, None, True), "weights of 4 bits; its integer kernels take bits: 8"),
        (GridKind(8, 8, 8, 4, True), "weights of 8 bits in groups of 4"),
        (GridKind(8, 8, 8, None, False), "weights of 8 bits with zero points"),
    ],
)
def test_a_grid_that_integer_kernels_do_not_take_is_told(kind: GridKind, reason: str | None) -> None:
    assert (holds(kind) is None) == (reason is None)
    assert (holds(kind) or "").startswith(reason or "")
