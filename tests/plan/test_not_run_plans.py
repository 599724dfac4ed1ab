"""A target whose runtime is not to be had on this system: told by the check, before anything runs."""

from __future__ import annotations

import platform
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from tiny import PLAN, faults, squeeze, write_plan, write_world

from squeeze.api import load
from squeeze.plan.check import check

pytestmark = pytest.mark.skipif(platform.system() == "Darwin", reason="Core ML runs here")
INSTALLED = find_spec("coremltools") is not None
ABSENT = "target phone needs coremltools: pip install 'squeeze[coreml]'"
PASS = '  - pass: "tiny:Scale"\n    factor: 2.0\n'
PHONE = "  - pass: export_onnx\ntargets:\n  - {target: mobile, name: phone, runtime: coreml}\n"
TOLD = "Core ML runs on macOS only"


def plan(folder: Path, text: str) -> Path:
    return write_plan(write_world(folder), text, (PASS, PHONE))


def test_the_row_without_scores_is_foretold(tmp_path: Path) -> None:
    loaded = load(plan(tmp_path, PLAN))
    told = [f"{warning.line}: {warning.message}" for warning in loaded.located(check(loaded).warnings)]
    what = "its file is written, read back and not run, so that it has no score and no time here"
    assert told == [f"9: target phone: {TOLD}: {what}"]


def test_a_missing_extra_names_the_command(tmp_path: Path) -> None:
    assert faults(plan(tmp_path, PLAN)) == ([] if INSTALLED else [f"9: {ABSENT}"])


@pytest.mark.parametrize("strict", [True, False])
def test_a_bound_that_can_never_be_proven_is_a_fault_where_proof_is_wanted(strict: bool, tmp_path: Path) -> None:
    """Without ``strict`` it is unproven, as a bound is whose interval is too wide; a size is measured everywhere."""
    bounds = 'budget: {size: "<= 100 %", top1: "-3 points", kl: "<= 1"}\n'
    text = PLAN.replace("passes:", f"{bounds}strict: {str(strict).lower()}\npasses:")
    wants = (
        f"target phone: {TOLD}, and strict: true wants a proof of top1, kl; leave out strict, the target or the bound"
    )
    expected = [f"11: {wants}"] if strict else []
    assert [fault for fault in faults(plan(tmp_path, text)) if ABSENT not in fault] == expected


def test_operators_of_a_graph_that_have_no_form_are_named_with_their_layer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [helper.make_node("Erf", ["x"], ["a"], "curve"), helper.make_node("Flatten", ["a"], ["y"], "flat")]
    ends = [("x", ["n", 3, 6, 6]), ("y", ["n", 108])]
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)] for name, sizes in ends)
    graph = helper.make_graph(nodes, "made", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save_model(model, tmp_path / "curve.onnx")
    text = PLAN.replace('{module: "tiny:network", weights: tiny.safetensors}', "{onnx: curve.onnx}")
    path = write_plan(write_world(tmp_path), text, (f"passes:\n{PASS}", PHONE.replace("  - pass: export_onnx\n", "")))
    assert squeeze("check", path) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "curve:" in line]
    assert "target phone: curve: Erf has no form in MIL here; Add, AveragePool" in line


def test_widths_that_have_no_form_are_found_before_anything_runs(tmp_path: Path) -> None:
    quantizer = "  - {pass: rtn, bits: 3, group_size: null}\n"
    path = write_plan(write_world(tmp_path), PLAN, (PASS, quantizer + PHONE))
    message = "target phone: 0.weight: MIL has no integers of 3 bits with scales; bits: 4 or bits: 8 would do"
    assert [fault for fault in faults(path) if ABSENT not in fault] == [f"10: {message}"]
