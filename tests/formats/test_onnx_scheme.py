"""What becomes integers, and what the writer makes of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from squeeze.algorithms.affine import Grid, activation_grid, quantize_symmetric
from squeeze.formats.onnx_entry import slow_entry
from squeeze.formats.onnx_file import onnx_bytes
from squeeze.formats.onnx_layer import bias_vector, weight_matrix
from squeeze.formats.onnx_qdq import LARGEST_BIAS, LayerWeights, hold_bias, write_qdq
from squeeze.formats.onnx_scheme import plan_scheme

Make = Callable[[], ir.Model]


def quantize(model: ir.Model, high: float = 6.0, signed: bool = False) -> None:
    scheme = plan_scheme(model.graph, {})
    grids = {root: activation_grid(-3 if root in ("image", "c0") else 0, high, signed) for root in scheme.roots}
    layers = [node for node in model.graph if node.name in scheme.layers]
    weights = {str(n.name): LayerWeights(quantize_symmetric(weight_matrix(n), 8), bias_vector(n)) for n in layers}
    write_qdq(model, scheme, grids, weights)


def run(model: ir.Model, images: np.ndarray) -> np.ndarray:
    logits: np.ndarray = ort.InferenceSession(onnx_bytes(model)).run(None, {"image": images})[0]
    return logits


def images() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(4, 3, 12, 12)).astype(np.float32)


def test_values_that_only_move_share_one_grid(residual: Make) -> None:
    scheme = plan_scheme(residual().graph, {})
    assert scheme.root["p"] == scheme.root["s"] == scheme.root["a1"] == "a1"
    assert scheme.moving == ["slice", "pad", "flatten"]
    assert "logits" not in scheme.root


def test_a_layer_left_out_leaves_its_reason(residual: Make) -> None:
    scheme = plan_scheme(residual().graph, {"c": "left out by the test"})
    assert scheme.skipped["c"] == "left out by the test"
    assert scheme.skipped["add"] == "not all of its inputs are integers"
    assert scheme.layers == ["a", "b", "fc"]


@pytest.mark.parametrize("signed", [False, True], ids=["uint8", "int8"])
def test_the_written_graph_predicts_as_the_float_one(residual: Make, signed: bool) -> None:
    quantized = residual()
    quantize(quantized, signed=signed)
    expected, got = run(residual(), images()), run(quantized, images())
    assert np.abs(expected - got).max() < 0.05 * np.abs(expected).max()


def test_relu_and_clip_vanish_into_the_range(residual: Make) -> None:
    quantized = residual()
    quantize(quantized, high=6.0)
    assert not {node.op_type for node in quantized.graph} & {"Relu", "Clip"}


def test_a_clip_that_the_range_does_not_perform_stays(residual: Make) -> None:
    quantized = residual()
    quantize(quantized, high=9.0)
    assert [node.name for node in quantized.graph if node.op_type == "Clip"] == ["b.clip"]
    expected, got = run(residual(), images()), run(quantized, images())
    assert np.abs(expected - got).max() < 0.1 * np.abs(expected).max()


def test_weights_are_stored_as_integers_and_float_ones_are_gone(residual: Make) -> None:
    quantized = residual()
    quantize(quantized)
    stored = {name: value.dtype for name, value in quantized.graph.initializers.items()}
    assert stored["b.weight.integers"] == ir.DataType.INT8
    assert stored["b.bias.integers"] == ir.DataType.INT32
    assert "b.weight" not in stored


def test_a_dead_channel_gets_a_scale_that_its_bias_fits() -> None:
    weight = quantize_symmetric(torch.tensor([[1e-13, 0.0], [1.0, 0.5]]), 8)
    grid = hold_bias(weight, torch.tensor([3.0, 3.0]), 0.01)
    assert float(3.0 / (grid.scale[0, 0] * 0.01)) <= LARGEST_BIAS * 1.0001
    assert grid.q[0].tolist() == [0, 0]
    assert torch.equal(grid.q[1], weight.q[1])


def test_the_grid_of_an_activation_keeps_its_type() -> None:
    assert activation_grid(0, 6, signed=True) == Grid(activation_grid(0, 6).scale, -128, True)


def test_an_entry_that_a_shortcut_reads_is_left_to_integers(residual: Make) -> None:
    model = residual()
    assert slow_entry(model.graph) == []
    shortcut = next(node for node in model.graph if node.name == "slice")
    shortcut.replace_input_with(0, model.graph.inputs[0])  # now only the next convolution reads the stem
    assert slow_entry(model.graph) == ["a"]
