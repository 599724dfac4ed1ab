"""A foreign .onnx with any inputs, fed by name; what no int8 pass takes is named with its share of the bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny import faults

from squeeze.api import compress, load
from squeeze.models.onnx_model import OnnxModel
from squeeze.passes.quantize.onnx_coverage import untouched

PLAN = """\
version: 1
model: {onnx: model.onnx}
data: {evaluate: {npz: data.npz, inputs: {tokens: bytes, extra: sizes}}}
metrics: [top1, kl, flips, size]
passes: [{pass: quantize_dynamic}]
"""
HIDDEN, LENGTH, EXAMPLES = 64, 12, 24


def recurrent() -> onnx.ModelProto:
    """int32 ``tokens`` [n, 12] through a table and a GRU, beside float ``extra`` [n, 3]; 4 classes."""
    random = np.random.default_rng(0)
    shapes = {"table": (256, 16), "W": (1, 3 * HIDDEN, 16), "R": (1, 3 * HIDDEN, HIDDEN), "B": (HIDDEN + 3, 4)}
    stored = [numpy_helper.from_array(random.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    stored.append(numpy_helper.from_array(np.array([0], np.int64), "first"))
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["embedded"], "embedding"),
        helper.make_node("Transpose", ["embedded"], ["steps"], "steps", perm=[1, 0, 2]),
        helper.make_node("GRU", ["steps", "W", "R"], ["", "last"], "memory", hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["last", "first"], ["state"], "state"),
        helper.make_node("Concat", ["state", "extra"], ["features"], "features", axis=1),
        helper.make_node("Gemm", ["features", "B"], ["logits"], "classifier"),
    ]
    inputs = [
        helper.make_tensor_value_info("tokens", TensorProto.INT32, ["n", LENGTH]),
        helper.make_tensor_value_info("extra", TensorProto.FLOAT, ["n", 3]),
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph(nodes, "recurrent", inputs, [output], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    onnx.save(recurrent(), tmp_path / "model.onnx")
    random = np.random.default_rng(1)
    arrays = {
        "bytes": random.integers(0, 256, (EXAMPLES, LENGTH), np.int32),
        "sizes": random.normal(size=(EXAMPLES, 3)).astype(np.float32),
        "labels": random.integers(0, 4, EXAMPLES),
        "short": np.zeros((3, 3), np.float32),
        "words": np.full((EXAMPLES, 3), "x"),
    }
    np.savez(tmp_path / "data.npz", **arrays)
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path


def test_a_model_of_several_inputs_is_quantized_and_scored(world: Path) -> None:
    run = compress(load(world / "plan.yaml"), store=world / "store")
    original, quantized = run.ledger.rows
    assert original.scores["top1"].units == EXAMPLES
    assert quantized.scores["kl"].value > 0
    assert quantized.scores["size_bytes"].value < original.scores["size_bytes"].value
    fact = quantized.facts["untouched"]
    assert [name for name, _ in fact["largest"]] == ["memory", "embedding"]
    assert fact["share"] == pytest.approx(sum(share for _, share in fact["largest"]))


def test_weights_that_stay_float_are_named_with_their_share(world: Path) -> None:
    """Of 4,096 + 3,072 + 12,288 + 268 weights a GRU holds 78 %."""
    graph = OnnxModel.from_file(world / "model.onnx").ir.graph
    assert untouched(graph) == {"memory": "the weights of GRU stay float: 78 % of all bytes of weights"}


def test_without_data_the_golden_input_is_timed_and_a_package_that_wins_nothing_is_named(world: Path) -> None:
    text = PLAN.replace("data: {evaluate: {npz: data.npz, inputs: {tokens: bytes, extra: sizes}}}\n", "")
    text = text.replace("top1, kl, flips, size", "size, {latency: {seconds: 0.02, sessions: 4}}")
    (world / "plan.yaml").write_text(text + "targets: [{target: cpu}]\n")
    run = compress(load(world / "plan.yaml"), store=world / "store", out=world / "out")
    assert all(row.timings["latency"].value > 0 for row in run.ledger.rows[1:])
    (warning,) = run.warnings
    packed, first = (world / "out" / "plan-cpu.zip").stat().st_size, run.ledger.original.scores["size_bytes"].value
    assert warning == f"cpu: the package has {packed:,} bytes and the original {first:,.0f}: nothing is won"


BAD = {
    "{tokens: bytes}": "the model takes the input 'extra'; the data has tokens",
    "{tokens: sizes, extra: sizes}": "an example of 'tokens' is 3; the model takes 12",
    "{tokens: bytes, extra: nothing}": "no array 'nothing'",
    "{tokens: bytes, extra: short}": "'bytes' has 24 examples, 'short' 3; as many would do",
    "{tokens: bytes, extra: words}": r"'words' is <U1 [24, 3]; numbers [n, ...] would do",
    "{}": "npz: inputs names none; {the model's name: the array's name} would",
    "{tokens: bytes, extra: sizes}, resize: 8": "npz: resize would change images; arrays named by inputs are fed as",
}


@pytest.mark.parametrize(("inputs", "line"), list(BAD.items()), ids=list(BAD))
def test_inputs_that_do_not_fit_are_told_before_anything_runs(world: Path, inputs: str, line: str) -> None:
    (world / "plan.yaml").write_text(PLAN.replace("{tokens: bytes, extra: sizes}", inputs))
    messages = faults(world / "plan.yaml")
    assert any(line in fault for fault in messages), messages
