"""A count that nobody knows is unknown in every report: never 0, never left out, and never a budget that is kept."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from language_world import write_folder, write_tokenizer
from onnx import TensorProto, helper, numpy_helper
from tiny import faults, squeeze

from squeeze.evaluate.counts import Macs, Parameters
from squeeze.models.artifact import Artifact
from squeeze.models.facts import Facts
from squeeze.models.onnx_model import OnnxModel
from squeeze.passes.base import Context, Pass
from squeeze.runtimes.onnx_decoder import OnnxDecoder
from squeeze.writers.ort import write_ort

PLAN = """\
model: {onnx: plain.onnx}
data: {evaluate: {npz: data.npz}}
metrics: [kl, size, parameters, macs]
budget: {macs: "<= 50 %", parameters: "<= 50 %"}
passes: [{pass: "test_unknown_macs:Hide"}]
targets: [{target: cpu}]
"""
UNKNOWN = "unknown: it cannot be counted of this model, or of the original: unproven"


class Hide(Pass[OnnxModel, OnnxModel]):
    """Put the graph's product into a branch: how often it runs is known to nobody."""

    def run(self, model: OnnxModel, context: Context) -> OnnxModel:
        return OnnxModel(ir.from_proto(network(hidden=True)))


def network(hidden: bool = False) -> onnx.ModelProto:
    """Images ``[n, 1, 2, 2]`` to three logits, by one matrix."""
    initializers = [numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(4, 3), "w")]
    product = helper.make_node("MatMul", ["rows", "w"], ["product"], "product")
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])
    nodes = [helper.make_node("Flatten", ["image"], ["rows"], "flatten")]
    if hidden:
        initializers.append(numpy_helper.from_array(np.float32(-1), "least"))
        nodes.append(helper.make_node("ReduceSum", ["image"], ["sum"], "sum", keepdims=0))
        nodes.append(helper.make_node("Greater", ["sum", "least"], ["yes"], "compare"))
        end = helper.make_tensor_value_info("product", TensorProto.FLOAT, ["n", 3])
        branches = {f"{name}_branch": helper.make_graph([product], name, [], [end]) for name in ("then", "else")}
        nodes.append(helper.make_node("If", ["yes"], ["logits"], "choice", **branches))
    else:
        nodes += [product, helper.make_node("Relu", ["product"], ["logits"], "relu")]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 2, 2])
    graph = helper.make_graph(nodes, "g", [image], [logits], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    onnx.save(network(), tmp_path / "plain.onnx")
    onnx.save(network(hidden=True), tmp_path / "hidden.onnx")
    random = np.random.default_rng(0)
    np.savez(
        tmp_path / "data.npz", images=random.integers(0, 256, (12, 2, 2, 1), dtype=np.uint8), labels=np.arange(12) % 3
    )
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path


def test_what_became_unknown_breaks_the_budget_and_is_said_in_every_report(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert squeeze("run", world / "plan.yaml", "--out", world / "out", "--store", world / "store") == 3
    captured = capsys.readouterr()
    text, written = captured.out, {path.name: path for path in (world / "out").iterdir()}
    assert re.search(r"unknown +unknown", text), text
    assert f"macs: <= 50 % of the original: {UNKNOWN}" in " ".join(text.split())  # whatever the terminal's width
    report = json.loads(written["report.json"].read_text())
    last = report["ledger"]["rows"][-1]["scores"]
    assert (last["macs"]["value"], last["parameters"]["value"]) == (None, None)
    assert [(j["metric"], j["outcome"], j["unknown"]) for j in report["judgements"]] == [
        ("macs", "unproven", True),
        ("parameters", "unproven", True),
    ]
    for name in ("report.md", "report.html", "junit.xml"):
        page = written[name].read_text()
        assert UNKNOWN.removesuffix(": unproven") in page, name
        assert re.search(r"MACs\W+unknown|>unknown|\| *unknown", page), name
    assert '<failure message="cpu' not in written["junit.xml"].read_text()
    assert written["junit.xml"].read_text().count("<failure") == 2
    with zipfile.ZipFile(written["plan-cpu.zip"]) as package:
        card = package.read("README.md").decode()
    assert "| parameters | unknown |" in card
    assert "| multiply-accumulates | unknown |" in card
    assert squeeze("verify", written["plan-cpu.zip"], "--data", world / "plan.yaml") == 0
    assert "macs: unknown" in capsys.readouterr().out


def test_a_bound_on_what_can_never_be_known_is_a_fault_of_the_plan(world: Path) -> None:
    macs, parameters = faults(world / "plan.yaml", "model.onnx=hidden.onnx")
    assert macs.startswith("4: budget: macs of this model are unknown: an operator without a rule, a size known at")
    assert parameters.startswith("4: budget: parameters of this model are unknown: an operator that is not known")
    assert faults(world / "plan.yaml", "model.onnx=hidden.onnx", "budget=null") == []
    assert faults(world / "plan.yaml") == []


def test_the_same_of_a_language_model_with_a_router(tmp_path: Path) -> None:
    write_tokenizer(write_folder(tmp_path, "Mixtral", num_local_experts=4))
    (tmp_path / "text.txt").write_text("the fox. " * 40)
    plan = "model: {hf: .}\ndata: {evaluate: {text: text.txt, length: 16}}\nmetrics: [perplexity, macs, parameters]\n"
    (tmp_path / "plan.yaml").write_text(
        plan + 'budget: {macs: "<= 90 %", parameters: "<= 90 %"}\npasses: [{pass: write}]\n'
    )
    (fault,) = faults(tmp_path / "plan.yaml")
    assert fault.startswith("4: budget: macs of this model are unknown: ")


def test_a_file_that_does_not_show_its_graph_has_unknown_counts(tmp_path: Path) -> None:
    write_ort(network().SerializeToString(), tmp_path / "model.ort")
    shut = Artifact(tmp_path / "model.ort")
    assert (shut.macs(), shut.parameters()) == (None, None)
    onnx.save(network(), tmp_path / "model.onnx")
    text = Artifact(tmp_path / "model.onnx")
    assert (text.macs(), text.parameters()) == (12, 12)


def test_a_language_artifact_says_the_counts_of_the_model_it_was_made_from(tmp_path: Path) -> None:
    model = object.__new__(OnnxDecoder)
    model.folder, model.facts = tmp_path, Facts(7, 0.1, 9)
    assert (Macs().value(model), Parameters().value(model)) == (9, 7)
    model.facts = Facts(None, 0.1)
    assert (Macs().value(model), Parameters().value(model)) == (None, None)
