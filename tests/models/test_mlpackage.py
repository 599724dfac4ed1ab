"""An ONNX graph as a Core ML package, read back: the same integers and, by the documented operations, the same numbers.

Core ML itself runs on macOS only and takes no part in these tests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper
from onnx_operators import (
    GRAPHS,
    IMAGE,
    ON_PHONES,
    Nodes,
    chain,
    convolution,
    graph,
    in_onnx_runtime,
    one,
    quantized,
    stored,
)

from squeeze.algorithms.affine import QuantizedTensor, quantize_symmetric
from squeeze.errors import EffectError, ModelError
from squeeze.formats.grid_kind import GridKind
from squeeze.formats.mil_arithmetic import computed
from squeeze.formats.mil_program import Program
from squeeze.formats.mlpackage import WEIGHTS, coremltools, read_mlpackage, root_of
from squeeze.formats.onnx_grid import store_grid, take_grids
from squeeze.formats.onnx_layer import weight_matrix
from squeeze.models.onnx_model import OnnxModel
from squeeze.writers.coreml import CoreMlWriter
from squeeze.writers.proof import proven

pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'squeeze[coreml]'")
Make = Callable[[], tuple[Nodes, list[TensorProto]]]
MORE: dict[str, Make] = ON_PHONES | {
    "average pool that does not": one("AveragePool", kernel_shape=[3, 3], pads=[1, 0, 1, 2]),
    "max pool padded on one side": one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 0]),
    "mean of all axes": one("ReduceMean", keepdims=1),
    "mean that keeps axes": one("ReduceMean", stored("axes", [-1, 2], np.int64), keepdims=1),
    "identity": one("Identity"),
    "clip above": one("Clip", stored("low", -1e9), stored("high", 0.5)),
    "divided by a constant": one("Div", stored("c", np.arange(4).reshape(4, 1, 1) + 0.5)),
    "pad with a number": one("Pad", stored("p", [0] * 4 + [0, 0, 1, 2], np.int64), stored("v", 2.5)),
}


def written(model: ir.Model, folder: Path) -> Path:
    return CoreMlWriter().write(OnnxModel(model), folder)


def read(file: Path) -> Program:
    return read_mlpackage(root_of(file))


def answer(file: Path) -> np.ndarray:
    (result,) = computed(read(file), {"x": IMAGE})
    return result


@pytest.mark.parametrize("name", [*GRAPHS, *MORE, "a chain"])
def test_what_is_read_back_computes_what_onnx_runtime_computes(name: str, tmp_path: Path) -> None:
    model = graph(*({**GRAPHS, **MORE, "a chain": chain}[name]()))
    expected, actual = in_onnx_runtime(model), answer(written(model, tmp_path))
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(("zero_point", "dtype"), [(128, np.uint8), (7, np.uint8), (-3, np.int8)])
@pytest.mark.parametrize("groups", [1, 4], ids=["all channels", "a filter each"])
def test_activations_keep_their_scales_and_zero_points(
    zero_point: int, dtype: type, groups: int, tmp_path: Path
) -> None:
    """Signed or not, with the pooling of integers between them; ONNX Runtime's integer kernel also rounds the bias."""
    model = quantized(zero_point, dtype, groups)
    file = written(model, tmp_path)
    program = read(file)
    pairs = [one for one in program.operations if one.kind in ("quantize", "dequantize")]
    assert {(one.kind, program.constant(one, "zero_point").item()) for one in pairs} == {
        ("quantize", zero_point),
        ("dequantize", zero_point),
    }
    assert {program.dtypes[one.reads["zero_point"][0]] for one in pairs} == {np.dtype(dtype).name.upper()}
    assert {program.constant(one, "scale").item() for one in pairs} == {np.float32(0.03), np.float32(0.11)}
    steps = np.abs(answer(file) - in_onnx_runtime(model)) / 0.11
    assert steps.max() < 1.01
    assert (steps < 0.01).mean() > 0.98


def test_the_very_integers_are_read_and_a_single_other_one_is_found(tmp_path: Path) -> None:
    model = OnnxModel(quantized(128, np.uint8))
    file = CoreMlWriter().write(model, tmp_path)
    integers, reals = proven(CoreMlWriter().prove(model, file))
    assert [(line["dtype"], line["tensors"], line["weights"]) for line in (integers, reals)] == [
        ("int8", 1, 288),
        ("float32", 1, 288),
    ]
    weight = model.copy_ir().graph.initializers["q"].const_value
    assert weight is not None
    weights = root_of(file) / WEIGHTS
    data = bytearray(weights.read_bytes())
    at = data.index(weight.numpy().tobytes())
    data[at] = (data[at] + 1) % 256
    weights.write_bytes(data)
    with pytest.raises(EffectError, match="reads 1 of 288 weights otherwise than they were written, in int8"):
        proven(CoreMlWriter().prove(model, file))


def with_grid(bits: int, group_size: int | None, symmetric: bool) -> tuple[ir.Model, dict[str, QuantizedTensor]]:
    """The chain's convolution and products on a grid; groups of the convolution are whole windows."""
    model, grids = graph(*chain(), opset=21), {}
    for node in list(model.graph):
        if node.op_type in ("Conv", "MatMul"):
            size = None if group_size is None else 9 * group_size
            grid = quantize_symmetric(weight_matrix(node), bits, size)
            if not symmetric:
                zeros = torch.randint(-3, 4, grid.scale.shape, dtype=torch.int32)
                grid = QuantizedTensor(grid.q, grid.scale, zeros, bits, size, False)
            store_grid(node, grid)
            grids[str(node.name)] = grid
    return model, grids


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zero points"])
@pytest.mark.parametrize(("bits", "group_size", "system"), [(8, None, 8), (8, 2, 9), (4, None, 9), (4, 2, 9)], ids=str)
def test_a_grid_of_4_or_8_bits_per_channel_or_group_is_held(
    bits: int, group_size: int | None, system: int, symmetric: bool, tmp_path: Path
) -> None:
    """Blocks and 4 bits want iOS 18, whose packages are of format 9."""
    model, grids = with_grid(bits, group_size, symmetric)
    file = written(model, tmp_path)
    package = coremltools().proto.Model_pb2.Model.FromString(file.read_bytes())
    assert package.specificationVersion == system
    lines = proven(CoreMlWriter().prove(OnnxModel(model), file))
    assert [(line["dtype"], line["tensors"]) for line in lines] == [(f"int{bits}", 2), ("float32", 2)]
    floats = graph(*chain(), opset=21)
    for node in floats.graph:
        if str(node.name) in grids:
            matrix = grids[str(node.name)].dequantize().numpy()
            stored_shape = node.inputs[1].const_value.numpy().shape  # type: ignore[union-attr]
            array = matrix.T if node.op_type == "MatMul" else matrix.reshape(stored_shape)
            node.inputs[1].const_value = ir.tensor(np.ascontiguousarray(array))  # type: ignore[union-attr]
    expected = in_onnx_runtime(floats)
    assert np.abs(answer(file) - expected).max() < 1e-5 * np.abs(expected).max()


def test_4_bits_take_half_of_8(tmp_path: Path) -> None:
    sizes = {}
    for bits in (4, 8):
        (tmp_path / str(bits)).mkdir()
        file = written(with_grid(bits, 2, True)[0], tmp_path / str(bits))
        sizes[bits] = (root_of(file) / WEIGHTS).stat().st_size
    assert sizes[8] - sizes[4] == pytest.approx((6 * 4 * 9 + 6 * 81 * 5) / 2, abs=128)  # blobs begin at multiples of 64


def test_the_same_graph_gives_the_same_bytes_however_often_it_was_written(tmp_path: Path) -> None:
    """coremltools numbers constants by all that its process ever built, and names parts of a package at random."""
    model, files = quantized(128, np.uint8), []
    for name in "ab":
        (tmp_path / name).mkdir()
        root = root_of(written(model, tmp_path / name))
        files.append({path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()})
    assert len(files[0]) == 3
    assert files[0] == files[1]


def test_equal_constants_are_stored_once(tmp_path: Path) -> None:
    program = read(written(quantized(128, np.uint8), tmp_path))
    shared = [one.reads["zero_point"] for one in program.operations if one.kind in ("quantize", "dequantize")]
    assert len(shared) > 4
    assert len(set(shared)) == 1


@pytest.mark.parametrize(
    ("make_nodes", "message"),
    [
        (one("Erf"), r"it: Erf has no form in MIL here; .*Transpose, Unsqueeze have"),
        (convolution(auto_pad="SAME_UPPER"), "conv: auto_pad SAME_UPPER of Conv; explicit pads would do"),
        (one("MaxPool", kernel_shape=[2, 2], ceil_mode=1), "it: MaxPool without ceil_mode and dilations would do"),
        (one("Pad", stored("p", [0] * 4 + [1] * 4, np.int64), mode="edge"), "it: Pad with mode edge; constants added"),
        (
            one("Slice", *(stored(n, [v], np.int64) for n, v in [("s", 9), ("e", 0), ("a", 3), ("t", -1)])),
            "it: Slice with a step of -1; steps above 0 would do",
        ),
    ],
    ids=["operator", "auto pad", "ceil mode", "edge", "backwards"],
)
def test_what_has_no_form_is_named_and_leaves_nothing(make_nodes: Make, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        written(graph(*make_nodes()), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_operator_without_a_form_is_found_before_anything_is_written() -> None:
    nodes = [
        helper.make_node("Erf", ["x"], ["a"], "first"),
        helper.make_node("Conv", ["x", "a"], ["b"], "second"),
        helper.make_node("Relu", ["b"], ["y"], "third"),
    ]
    faults = list(CoreMlWriter().faults(OnnxModel(graph(nodes, []))))
    assert [fault.split(";")[0] for fault in faults] == [
        "first: Erf has no form in MIL here",
        "second: Conv with weights that are computed",
    ]


def test_a_free_size_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="input 'x' has a free size, and a phone's file is made for one"):
        written(graph(*one("Relu")(), sizes=(4, "high", 9)), tmp_path)


def test_grids_that_mil_cannot_hold_are_refused(tmp_path: Path) -> None:
    held = [GridKind(8, 64, bits, group, symmetric) for bits in (4, 8) for group in (None, 32) for symmetric in (0, 1)]
    assert not [reason for kind in held if (reason := CoreMlWriter().holds(kind))]
    assert "no integers of 3 bits" in str(CoreMlWriter().holds(GridKind(8, 64, 3, None, True)))
    assert "order: group_aware would do" in str(CoreMlWriter().holds(GridKind(8, 64, 4, 32, True, ordered=True)))
    model = graph(*chain(), opset=21)
    node = next(node for node in model.graph if node.op_type == "Conv")
    store_grid(node, quantize_symmetric(weight_matrix(node), 4, 12))
    with pytest.raises(ModelError, match="conv: groups of 12 do not hold whole windows of 9; group_size: null would"):
        written(model, tmp_path)


def test_integers_of_another_kind_than_a_grid_are_named(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], "weight"),
        helper.make_node("Conv", ["x", "w"], ["y"], "conv"),
    ]
    weights = [
        stored("q", random.integers(0, 255, (8, 4, 3, 3)), np.uint8),
        stored("s", 0.1),
        stored("z", 128, np.uint8),
    ]
    with pytest.raises(ModelError, match="conv: integers of a kind that is not known here"):
        written(graph(nodes, weights), tmp_path)


def test_a_grid_is_taken_from_the_graph_as_it_was_stored() -> None:
    model, grids = with_grid(4, 2, False)
    assert all(torch.equal(taken.q, grids[name].q) for name, taken in take_grids(model.graph).items())


def test_coremltools_is_imported_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    level = logging.getLogger("coremltools").level
    assert coremltools().__version__.startswith("9.")
    assert logging.getLogger("coremltools").level == level
    assert caplog.records == []
