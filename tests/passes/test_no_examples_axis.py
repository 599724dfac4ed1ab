"""A foreign .onnx that answers one example, without an axis that counts examples: each is fed alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from package_script import run_script, unpacked
from tiny import faults, squeeze

from squeeze.api import compress, load
from squeeze.models.onnx_model import OnnxModel

LENGTH, FEATURES, HIDDEN, CLASSES, EXAMPLES = 48, 16, 256, 4, 20
INPUTS = "inputs: {bytes: files, extra: sizes}"
PLAN = f"""\
version: 1
model: {{onnx: model.onnx}}
data:
  evaluate: {{npz: data.npz, {INPUTS}}}
  calibrate: {{npz: calibrate.npz, {INPUTS}}}
metrics: [top1, kl, size, {{latency: {{seconds: 0.02, sessions: 4}}}}]
passes: [PASS]
targets: [{{target: cpu}}]
"""
PASSES = ["{pass: quantize_dynamic}", "{pass: quantize_static, bias_correction: false}"]
INT32, FLOAT = TensorProto.INT32, TensorProto.FLOAT


def file_classifier(opset: int) -> onnx.ModelProto:
    """int32 ``bytes`` [48] through a table and a maximum, beside float ``extra`` [3]; 4 classes, as a vector."""
    random = np.random.default_rng(0)
    shapes = {"table": (256, FEATURES), "A": (FEATURES + 3, HIDDEN), "B": (HIDDEN, CLASSES)}
    stored = [
        numpy_helper.from_array(random.normal(scale=0.2, size=s).astype(np.float32), n) for n, s in shapes.items()
    ]
    nodes = [
        helper.make_node("Gather", ["table", "bytes"], ["embedded"], "embedding"),
        helper.make_node("ReduceMax", ["embedded"], ["most"], "most", axes=[0], keepdims=0),
        helper.make_node("Concat", ["most", "extra"], ["features"], "features", axis=0),
        helper.make_node("MatMul", ["features", "A"], ["hidden"], "hidden"),
        helper.make_node("Relu", ["hidden"], ["positive"], "relu"),
        helper.make_node("MatMul", ["positive", "B"], ["logits"], "classifier"),
    ]
    info = helper.make_tensor_value_info
    inputs, output = [info("bytes", INT32, [LENGTH]), info("extra", FLOAT, [3])], info("logits", FLOAT, [CLASSES])
    graph = helper.make_graph(nodes, "one", inputs, [output], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def arrays(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "files": random.integers(0, 256, (EXAMPLES, LENGTH), np.int32),
        "sizes": random.normal(size=(EXAMPLES, 3)).astype(np.float32),
        "labels": random.integers(0, CLASSES, EXAMPLES),
        "short": random.integers(0, 256, (EXAMPLES, LENGTH - 1), np.int32),
        "stacked": random.integers(0, 256, (EXAMPLES, 1, LENGTH), np.int32),
        "counted": random.normal(size=(EXAMPLES, 1, 3)).astype(np.float32),
    }


@pytest.fixture
def world(tmp_path: Path) -> Path:
    onnx.save(file_classifier(opset=17), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", **arrays(1))
    np.savez(tmp_path / "calibrate.npz", **arrays(2))
    (tmp_path / "plan.yaml").write_text(PLAN.replace("PASS", PASSES[0]))
    return tmp_path


@pytest.mark.parametrize("opset", [11, 17], ids=["axes-as-attribute", "axes-as-input"])
def test_each_example_is_answered_as_the_graph_answers_it_alone(tmp_path: Path, opset: int) -> None:
    import onnxruntime as ort
    import torch

    from squeeze.models.base import Batch

    onnx.save(file_classifier(opset), tmp_path / "model.onnx")
    fed = {"bytes": arrays(1)["files"], "extra": arrays(1)["sizes"]}
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    expected = [session.run(None, {name: array[i] for name, array in fed.items()})[0] for i in range(EXAMPLES)]
    model = OnnxModel.from_file(tmp_path / "model.onnx").fed_with({"bytes": (LENGTH,), "extra": (3,)})
    answers = model.predict(Batch({name: torch.from_numpy(array) for name, array in fed.items()}))
    assert np.array_equal(answers.numpy(), np.stack(expected))
    assert [spec.shape for spec in model.inputs] == [(LENGTH,), (3,)]
    assert model.macs() == (FEATURES + 3) * HIDDEN + HIDDEN * CLASSES


def test_a_graph_whose_first_axis_counts_examples_stays_as_it_is(tmp_path: Path) -> None:
    from test_named_inputs import recurrent

    onnx.save(recurrent(), tmp_path / "model.onnx")
    model = OnnxModel.from_file(tmp_path / "model.onnx")
    assert model.fed_with({"tokens": (12,), "extra": (3,)}) is model


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("pass_", PASSES, ids=["dynamic", "static"])
def test_a_plan_takes_it_from_the_file_to_a_package(world: Path, pass_: str, capsys) -> None:
    (world / "plan.yaml").write_text(PLAN.replace("PASS", pass_))
    run = compress(load(world / "plan.yaml"), store=world / "store", out=world / "out")
    rows = run.ledger.rows
    assert [row.scores["top1"].units for row in rows] == [EXAMPLES] * 3
    assert rows[-1].scores["kl"].value < 0.5
    package = world / "out" / "plan-cpu.zip"
    assert squeeze("verify", package, "--data", world / "plan.yaml") == 0
    assert squeeze("bench", package, "--seconds", 0.02, "--json") == 0
    assert squeeze("compare-tensors", package, world / "plan.yaml") == 0
    capsys.readouterr()
    folder = unpacked(package, world / "unpacked")
    np.savez(world / "fed.npz", bytes=arrays(1)["files"], extra=arrays(1)["sizes"])
    told = run_script(folder, world / "fed.npz", "--outputs", world / "answers.npz", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["examples"] == EXAMPLES
    assert np.load(world / "answers.npz")["logits"].shape == (EXAMPLES, CLASSES)
    assert run_script(folder, "--golden").returncode == 0


def test_a_mean_over_one_example_corrects_no_bias(world: Path) -> None:
    (world / "plan.yaml").write_text(PLAN.replace("PASS", "{pass: quantize_static}"))
    run = compress(load(world / "plan.yaml"), store=world / "store")
    assert any("the graph takes one example at a time" in warning for warning in run.warnings)


BAD = {
    "{bytes: short, extra: sizes}": "an example of 'bytes' is 47; the model takes 48",
    "{bytes: stacked, extra: sizes}": "an example of 'bytes' is 1 x 48",
    "{bytes: files}": "the model takes the input 'extra'; the data has bytes",
    "{bytes: files, extra: counted}": "an example of 'extra' is 1 x 3",
    "{bytes: labels, extra: sizes}": "input 'extra' [3] takes one example of the data as it is, 'bytes' [48] has",
}


@pytest.mark.parametrize(("inputs", "line"), list(BAD.items()), ids=list(BAD))
def test_data_that_does_not_fit_is_told_before_anything_runs(world: Path, inputs: str, line: str) -> None:
    text = PLAN.replace("PASS", PASSES[0]).replace(INPUTS, f"inputs: {inputs}", 1)
    (world / "plan.yaml").write_text(text)
    messages = faults(world / "plan.yaml")
    assert any(line in fault for fault in messages), messages


def test_a_free_first_axis_is_asked_about(world: Path) -> None:
    """``[m, 16]`` beside examples of ``[5, 16]``: feeds of m examples, or one example of m rows?"""
    weight = numpy_helper.from_array(np.ones((FEATURES, CLASSES), np.float32), "B")
    nodes = [helper.make_node("MatMul", ["rows", "B"], ["logits"], "classifier")]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "rows", [info("rows", FLOAT, ["m", FEATURES])], [info("logits", FLOAT, ["m", CLASSES])], [weight]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), world / "rows.onnx")
    np.savez(world / "data.npz", rows=np.ones((EXAMPLES, 5, FEATURES), np.float32), labels=arrays(1)["labels"])
    text = PLAN.replace("PASS", PASSES[0]).replace("model.onnx", "rows.onnx").replace(INPUTS, "inputs: {rows: rows}")
    (world / "plan.yaml").write_text(text)
    line = r"input 'rows' is [m, 16], an example of the data [5, 16]: does 'm' count examples, or is it part of one?"
    messages = faults(world / "plan.yaml")
    assert any(line in fault for fault in messages), messages
