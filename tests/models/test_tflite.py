"""An ONNX graph as a ``.tflite`` file in LiteRT: the same numbers, the same integers, a name for what it cannot say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
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

from squeeze.errors import EffectError, ModelError
from squeeze.formats.grid_kind import GridKind
from squeeze.models.onnx_model import OnnxModel
from squeeze.runtimes.litert import LiteRt, delegated
from squeeze.writers.litert import LiteRtWriter
from squeeze.writers.proof import proven
from squeeze.writers.tflite.file import TfliteFile

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'squeeze[litert]'")
Make = Callable[[], tuple[Nodes, list[TensorProto]]]


def with_activation(kind: str, *bounds: float) -> Make:
    """A convolution whose kernel applies the activation behind it, and an addition that does not: two read its sum."""

    def build() -> tuple[Nodes, list[TensorProto]]:
        ends = [stored(f"end{place}", bound) for place, bound in enumerate(bounds)]
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["a"], "conv", pads=[1, 1, 1, 1]),
            helper.make_node(kind, ["a", *(end.name for end in ends)], ["b"], "activation"),
            helper.make_node("Add", ["b", "x"], ["c"], "add"),
            helper.make_node(kind, ["c", *(end.name for end in ends)], ["d"], "activation2"),
            helper.make_node("Sub", ["d", "c"], ["y"], "sub"),
        ]
        return nodes, [stored("w", np.random.default_rng(6).normal(size=(4, 4, 3, 3))), *ends]

    return build


REFUSED = {
    "clip below": r"it: Clip to other bounds than 0 \.\. 6, or 0 and above, has no form in \.tflite here",
    "hard sigmoid": "it: HardSigmoid has no form in .tflite here",
    "softmax": "it: Softmax over the last axis would do",
}
MORE: dict[str, Make] = ON_PHONES | {
    "average pool that does not": one("AveragePool", kernel_shape=[3, 3], pads=[1] * 4),
    "mean that keeps axes": one("ReduceMean", stored("axes", [2, 3], np.int64), keepdims=1),
    "relu behind": with_activation("Relu"),
    "relu of 6 behind": with_activation("Clip", 0.0, 6.0),
}


def written(model: ir.Model, folder: Path) -> Path:
    return LiteRtWriter().write(OnnxModel(model), folder)


def in_litert(file: Path, image: np.ndarray = IMAGE) -> np.ndarray:
    (result,) = LiteRt.open(file, 1, "it").run({"x": image})
    return result


@pytest.mark.parametrize("name", [*(name for name in GRAPHS if name not in REFUSED), *MORE, "a chain"])
def test_litert_computes_what_onnx_runtime_computes(name: str, tmp_path: Path) -> None:
    model = graph(*({**GRAPHS, **MORE, "a chain": chain}[name]()))
    expected, actual = in_onnx_runtime(model), in_litert(written(model, tmp_path))
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(("zero_point", "dtype"), [(128, np.uint8), (7, np.uint8), (-3, np.int8)])
@pytest.mark.parametrize("groups", [1, 4], ids=["all channels", "a filter each"])
def test_integers_are_the_same_whether_the_graph_has_them_signed_or_not(
    zero_point: int, dtype: type, groups: int, tmp_path: Path
) -> None:
    """At most one step apart: LiteRT rounds a product of integers twice."""
    model = quantized(zero_point, dtype, groups)
    file = written(model, tmp_path)
    (line,) = proven(LiteRtWriter().prove(OnnxModel(model), file))
    assert (line["weights"], line["differing"]) == (8 * 4 // groups * 9, 0)
    expected, result = in_onnx_runtime(model), in_litert(file)
    steps = np.abs(result - expected) / 0.11
    assert steps.max() < 1.01
    assert (steps < 0.01).mean() > 0.98


def test_litert_reads_the_very_integers_and_a_single_other_one_is_found(tmp_path: Path) -> None:
    model = OnnxModel(quantized(128, np.uint8))
    file = LiteRtWriter().write(model, tmp_path)
    (line,) = proven(LiteRtWriter().prove(model, file))
    assert (line["tensors"], line["weights"], line["differing"]) == (1, 8 * 4 * 9, 0)
    weight = model.copy_ir().graph.initializers["q"].const_value
    assert weight is not None
    data, stored_bytes = bytearray(file.read_bytes()), weight.numpy().transpose(0, 2, 3, 1).tobytes()
    at = data.index(stored_bytes)
    assert at % 16 == 0  # where kernels expect it
    data[at] = (data[at] + 1) % 256
    file.write_bytes(data)
    with pytest.raises(EffectError, match="reads 1 of 288 weights otherwise than they were written"):
        proven(LiteRtWriter().prove(model, file))


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    model = quantized(128, np.uint8)
    for name in "ab":
        (tmp_path / name).mkdir()
    assert written(model, tmp_path / "a").read_bytes() == written(model, tmp_path / "b").read_bytes()


def test_what_xnnpack_leaves_is_named(tmp_path: Path) -> None:
    every_second = written(graph(*GRAPHS["every second pixel"]()), tmp_path)
    taken, left = delegated(every_second)
    assert (taken, left) == (0, {"y": "STRIDED_SLICE"})
    file = written(graph(*GRAPHS["conv"]()), tmp_path)
    assert delegated(file) == (3, {})  # channels last, the convolution, and back


@pytest.mark.parametrize("name", REFUSED)
def test_an_operator_without_a_form_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=REFUSED[name]):
        written(graph(*GRAPHS[name]()), tmp_path)
    assert list(tmp_path.iterdir()) == []


def clip_at_its_mean() -> tuple[Nodes, list[TensorProto]]:
    """An upper bound that is not known before the model runs."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], "mean", keepdims=0),
        helper.make_node("Clip", ["x", "low", "mean"], ["y"], "it"),
    ]
    return nodes, [stored("low", 0.0)]


@pytest.mark.parametrize(
    ("make_nodes", "message"),
    [
        (clip_at_its_mean, "it: Clip to other bounds than 0 .. 6"),
        (one("Erf"), r"it: Erf has no form in \.tflite here; .*Transpose, Unsqueeze have"),
        (convolution(auto_pad="SAME_UPPER"), "conv: auto_pad SAME_UPPER of Conv; explicit pads would do"),
        (one("MaxPool", kernel_shape=[2, 2], ceil_mode=1), "it: MaxPool over two axes, without ceil_mode"),
        (one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 0]), "it: MaxPool with such padding"),
        (one("Pad", stored("p", [0] * 4 + [1] * 4, np.int64), mode="edge"), "it: Pad with mode edge"),
        (one("Pad", stored("p", [0] * 4 + [1] * 4, np.int64), stored("v", 2.0)), "it: Pad with mode constant"),
    ],
)
def test_options_without_a_form_are_named(make_nodes: Make, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        written(graph(*make_nodes()), tmp_path)


def test_a_free_size_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="input 'x' has a free size, and a phone's file is made for one"):
        written(graph(*one("Relu")(), sizes=(4, "high", 9)), tmp_path)


def test_grids_that_its_kernels_cannot_multiply_are_refused() -> None:
    kinds = [GridKind(8, 64, 4, None, True), GridKind(8, 64, 8, 32, True), GridKind(8, 64, 8, None, False)]
    assert all(LiteRtWriter().holds(kind) for kind in kinds)
    assert LiteRtWriter().holds(GridKind(8, 64, 8, None, True)) is None


def test_zero_points_of_one_width_stand_once_in_the_file() -> None:
    import ai_edge_litert.schema_py_generated as schema

    file = TfliteFile()
    for name in ("one", "other"):
        file.constant(name, np.zeros((64, 9), np.int8), np.arange(1, 65, dtype=np.float32))
    graph = schema.Model.GetRootAs(bytearray(file.data([], [])), 0).Subgraphs(0)
    steps = [graph.Tensors(index).Quantization() for index in range(2)]
    places = {one.ZeroPointAsNumpy().__array_interface__["data"][0] for one in steps}
    assert len(places) == 1, "8 bytes a channel, for each weight and each bias, were 2 % of MobileNet's float file"
    assert [one.ZeroPointAsNumpy().tolist() for one in steps] == [[0] * 64] * 2
    assert [one.ScaleAsNumpy().tolist() for one in steps] == [list(range(1, 65))] * 2
