"""A few bytes of ONNX that claim or unfold into gigabytes are refused before anything is made of them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from squeeze.errors import ModelError
from squeeze.formats.onnx_file import read_onnx
from squeeze.models import ort_session
from squeeze.models.base import Batch
from squeeze.models.onnx_model import OnnxModel

SIDE = {"location": "side.bin", "offset": "0", "length": "40"}


def graph(nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto], **options: object) -> onnx.ModelProto:
    proto = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    return helper.make_model(proto, opset_imports=opsets, ir_version=10, **options)


def add(weight: onnx.TensorProto) -> onnx.ModelProto:
    return graph([helper.make_node("Add", ["x", "w"], ["y"])], [weight])


def claimed(dims: list[int], data_type: int = TensorProto.FLOAT, **side: str) -> onnx.TensorProto:
    weight = TensorProto(name="w", data_type=data_type, dims=dims)
    for key, value in side.items():
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key=key, value=value)
    if not side:
        weight.raw_data = b"\0" * 40
    return weight


def write(folder: Path, model: onnx.ModelProto) -> Path:
    (folder / "side.bin").write_bytes(bytes(400))
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("weight", "log_probabilities"),
    [
        (claimed([-1, 10]), r"has the shape \[-1, 10\]"),
        (claimed([-1, 10], **SIDE), r"has the shape \[-1, 10\]"),
        (claimed([10**6, 10**6]), "has 1e\\+12 values"),
        (claimed([10**6, 10**6], **SIDE), "has 1e\\+12 values"),
        (claimed([11]), r"\[11\] takes 44 bytes and holds 40; truncated"),
        (claimed([10], data_type=99), "data type 99, which ONNX does not know"),
        (claimed([10], data_type=0), "data type 0|takes 0 bytes|cannot be"),
        (claimed([10], **SIDE | {"length": "1e9"}), "length '1e9' in a side file"),
        (claimed([10], **SIDE | {"offset": "-8"}), "offset '-8' in a side file"),
        (claimed([10], **SIDE | {"length": "44"}), "takes 40 bytes and names 44"),
        (claimed([10], **SIDE | {"location": "n" * 300}), "names the side file"),
        (claimed([10], **SIDE | {"location": "a\0b"}), "names the side file"),
        (claimed([10], **SIDE | {"offset": "399"}), "ends at 439; truncated"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_tensor_that_does_not_hold_what_it_claims_is_refused(
    tmp_path: Path, weight: onnx.TensorProto, log_probabilities: str
) -> None:
    with pytest.raises(ModelError, match=log_probabilities):
        read_onnx(write(tmp_path, add(weight)))


def doubling(levels: int) -> onnx.ModelProto:
    """Each function calls the next one twice."""
    own = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    functions = [
        helper.make_function(
            "own",
            f"f{level}",
            ["a"],
            ["c"],
            [
                helper.make_node(
                    f"f{level + 1}" if level < levels else "Relu", [a], [c], domain="own" * (level < levels)
                )
                for a, c in (("a", "b"), ("b", "c"))
            ],
            own,
        )
        for level in range(levels + 1)
    ]
    return graph([helper.make_node("f0", ["x"], ["y"], domain="own")], [], functions=functions)


def test_functions_that_call_each_other_two_to_the_24_times_are_refused_at_once(tmp_path: Path) -> None:
    began = time.perf_counter()
    with pytest.raises(ModelError, match=r"nodes once its functions are written out; 1,000,000 are the most"):
        read_onnx(write(tmp_path, doubling(24)))
    assert time.perf_counter() - began < 20
    assert read_onnx(write(tmp_path, doubling(4))).graph  # what others write is read


def test_a_function_that_calls_itself_is_refused(tmp_path: Path) -> None:
    model = doubling(1)
    model.functions[1].node[0].op_type, model.functions[1].node[0].domain = "f0", "own"
    with pytest.raises(ModelError, match="calls itself"):
        read_onnx(write(tmp_path, model))


@pytest.mark.parametrize("kind", ["ConstantOfShape", "Range", "Expand"])
def test_a_constant_that_the_runtime_would_fold_into_all_memory_is_refused(tmp_path: Path, kind: str) -> None:
    shape = numpy_helper.from_array(np.array([10**6, 10**6]), "shape")
    zero, last, one = (numpy_helper.from_array(np.array(v), n) for v, n in ((0, "zero"), (10**12, "last"), (1, "one")))
    inputs = {"ConstantOfShape": ["shape"], "Range": ["zero", "last", "one"], "Expand": ["one", "shape"]}[kind]
    nodes = [helper.make_node(kind, inputs, ["big"]), helper.make_node("Shape", ["big"], ["y"])]
    with pytest.raises(ModelError, match=f"node '{kind}' makes 1e\\+12 constant values"):
        read_onnx(write(tmp_path, graph(nodes, [shape, zero, last, one])))


def endless() -> onnx.ModelProto:
    """A loop whose condition stays true."""
    values = {"go": (TensorProto.BOOL, []), "kept": (TensorProto.FLOAT, ["n", 10])}
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_in"], ["go"]), helper.make_node("Relu", ["in"], ["kept"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("in", TensorProto.FLOAT, ["n", 10]),
        ],
        [helper.make_tensor_value_info(name, *kind) for name, kind in values.items()],
    )
    true = numpy_helper.from_array(np.array(True), "true")
    return graph([helper.make_node("Loop", ["", "true", "x"], ["y"], body=body)], [true])


def test_a_loop_without_end_is_opened_at_once_and_stopped_when_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    model = OnnxModel.from_file(write(tmp_path, endless()))
    assert model.layers() == []
    monkeypatch.setattr(ort_session, "RUN_SECONDS", 0.5)
    with pytest.raises(ModelError, match="does a loop in the graph end"):
        model.predict(Batch({"x": torch.ones(2, 10)}))


def test_a_pipe_is_no_model_and_nobody_waits_for_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="is a pipe, a socket or a device"):
        read_onnx(tmp_path / "m.onnx")


def test_an_input_without_a_known_type_is_one_line(tmp_path: Path) -> None:
    model = add(claimed([10], TensorProto.FLOAT))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UNDEFINED
    with pytest.raises(ModelError, match="is of type UNDEFINED; FLOAT would do"):
        OnnxModel.from_file(write(tmp_path, model))
