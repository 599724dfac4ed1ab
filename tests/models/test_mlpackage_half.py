"""Float16 in Core ML packages: as storage, which loses nothing, and for the arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_operators import GRAPHS, IMAGE, Nodes, graph, in_onnx_runtime, one, stored

from squeeze.errors import ModelError
from squeeze.formats.mil_arithmetic import computed
from squeeze.formats.mil_program import Program
from squeeze.formats.mlpackage import WEIGHTS, read_mlpackage, root_of
from squeeze.models.onnx_model import OnnxModel
from squeeze.passes.base import Context
from squeeze.passes.quantize.float16 import Float16
from squeeze.writers.coreml import CoreMlWriter

pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'squeeze[coreml]'")


def network() -> tuple[Nodes, list[TensorProto]]:
    """A convolution, what activations have numbers of their own, a padding, a mean, a product."""
    random = np.random.default_rng(3)
    weights = [stored("w", random.normal(size=(32, 4, 3, 3))), stored("b", random.normal(size=32))]
    weights += [stored("m", random.normal(size=(32, 5))), stored("p", [0, 0, 1, 1, 0, 0, 1, 1], np.int64)]
    nodes = [
        helper.make_node("Pad", ["x", "p"], ["padded"], "pad"),
        helper.make_node("Conv", ["padded", "w", "b"], ["c"], "conv"),
        helper.make_node("HardSwish", ["c"], ["h"], "swish"),
        helper.make_node("Clip", ["h", "low", "high"], ["i"], "clip"),
        helper.make_node("GlobalAveragePool", ["i"], ["a"], "mean"),
        helper.make_node("Flatten", ["a"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "m"], ["y"], "matmul"),
    ]
    return nodes, [*weights, stored("low", -0.25), stored("high", 4.0)]


def halved(compute: str) -> OnnxModel:
    return Float16(compute=compute).run(OnnxModel(graph(*network())), Context(threads=1))  # type: ignore[arg-type]


def written(model: OnnxModel, folder: Path) -> tuple[Path, Program]:
    folder.mkdir()
    file = CoreMlWriter().write(model, folder)
    return file, read_mlpackage(root_of(file))


@pytest.mark.parametrize(("compute", "error"), [("float32", 1e-6), ("float16", 5e-3)])
def test_both_kinds_compute_what_the_graph_does_in_half_the_bytes(compute: str, error: float, tmp_path: Path) -> None:
    model = halved(compute)
    file, program = written(model, tmp_path / "half")
    (result,) = computed(program, {"x": IMAGE})
    expected = in_onnx_runtime(model.ir)
    assert np.abs(result - expected).max() < error * np.abs(expected).max()
    whole, _ = written(OnnxModel(graph(*network())), tmp_path / "whole")
    sizes = [(root_of(one) / WEIGHTS).stat().st_size for one in (file, whole)]
    assert sizes[0] < 0.6 * sizes[1]


def test_the_arithmetic_is_the_graphs(tmp_path: Path) -> None:
    """Half from the first Cast to the last; or float32 throughout, from weights that are stored as half."""
    _, half = written(halved("float16"), tmp_path / "half")
    kinds = [(one.kind, one.dtype) for one in half.operations]
    assert kinds[0] == ("cast", "FLOAT16")
    assert kinds[-1] == ("cast", "FLOAT32")
    assert {dtype for _, dtype in kinds[1:-1]} == {"FLOAT16"}
    assert [(spec.name, spec.dtype) for spec in (*half.inputs, *half.outputs)] == [("x", "float32"), ("y", "float32")]
    _, stored_half = written(halved("float32"), tmp_path / "stored")
    assert {one.dtype for one in stored_half.operations} == {"FLOAT32"}
    assert [one.kind for one in stored_half.operations].count("constexpr_cast") == 2


def test_a_weight_that_half_would_change_stays_float32(tmp_path: Path) -> None:
    _, program = written(OnnxModel(graph(*network())), tmp_path / "whole")
    assert "constexpr_cast" not in {one.kind for one in program.operations}


def test_another_cast_is_named(tmp_path: Path) -> None:
    nodes, weights = one("Cast", to=TensorProto.INT32)()
    nodes += [helper.make_node("Cast", ["y"], ["z"], "back", to=TensorProto.FLOAT)]
    model = graph(nodes, weights)
    with pytest.raises(ModelError, match="it: Cast to another type than FLOAT or FLOAT16 has no form in MIL here"):
        CoreMlWriter().write(OnnxModel(model), tmp_path)


@pytest.mark.parametrize("name", GRAPHS)
def test_every_operator_takes_half(name: str, tmp_path: Path) -> None:
    nodes, weights = GRAPHS[name]()
    if not any(weight.data_type == TensorProto.FLOAT for weight in weights):
        nodes, weights = (
            [*nodes, helper.make_node("Mul", ["y", "one"], ["z"], "times")],
            [*weights, stored("one", [1.0])],
        )
        nodes[-1].output[0], nodes[0].output[0], nodes[-1].input[0] = "y", "before", "before"
    model = Float16(compute="float16").run(OnnxModel(graph(nodes, weights)), Context(threads=1))
    _, program = written(model, tmp_path / "half")
    (result,) = computed(program, {"x": IMAGE})
    expected = in_onnx_runtime(model.ir)
    assert np.abs(result - expected).max() < 5e-3 * np.abs(expected).max()
