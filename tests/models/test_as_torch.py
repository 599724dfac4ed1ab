"""An ONNX graph as a torch module: the same numbers, the same integers, and a name for what it cannot say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto
from onnx_operators import GRAPHS, IMAGE, Nodes, convolution, graph, in_onnx_runtime, one, quantized, stored

from squeeze.errors import ModelError
from squeeze.formats.grid_kind import GridKind
from squeeze.formats.onnx_grid import take_grids
from squeeze.writers.as_torch.build import as_torch, examples, holds


def both(model: ir.Model, image: np.ndarray = IMAGE) -> tuple[np.ndarray, np.ndarray]:
    """What ONNX Runtime and torch make of an example."""
    expected = in_onnx_runtime(model, image)
    network = as_torch(model, take_grids(model.graph)).eval()
    return expected, network(torch.from_numpy(image))[0].numpy()


@pytest.mark.parametrize("make_nodes", GRAPHS.values(), ids=GRAPHS.keys())
def test_torch_computes_what_onnx_runtime_computes(make_nodes: Callable[[], tuple[Nodes, list[TensorProto]]]) -> None:
    expected, actual = both(graph(*make_nodes()))
    assert np.abs(actual - expected).max() < 1e-5 * np.abs(expected).max()


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
