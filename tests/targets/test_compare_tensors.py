"""``squeeze compare-tensors``: which layer leaves the original, in the runtime that shows it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny import squeeze

from squeeze.api import load
from squeeze.models.onnx_model import OnnxModel
from squeeze.run.compare_tensors import Compared, compare_tensors
from squeeze.targets.base import Target
from squeeze.targets.cpu import Cpu
from squeeze.targets.mobile import Mobile
from squeeze.targets.package import PackageInputs
from squeeze.targets.verify import open_package

HERE = pytest.mark.usefixtures("in_this_process")  # in all but one: that the command starts a process is said once
MOST = 0.05  # error of an int8 layer here


@pytest.fixture
def package(pieces: PackageInputs, tmp_path: Path) -> Callable[..., Path]:
    def pack(model: OnnxModel, target: Target) -> Path:
        return target.pack(model, pieces, tmp_path / "it.zip").path

    return pack


def changed(model: onnx.ModelProto, folder: Path) -> OnnxModel:
    onnx.save(model, folder / "changed.onnx")
    return OnnxModel.from_file(folder / "changed.onnx")


def compared(package: Path, plan: Path, **options: float) -> Compared:
    return compare_tensors(open_package(package), load(plan), **options)  # type: ignore[arg-type]


def litert() -> Target:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'squeeze[litert]'")
    return Mobile(runtime="litert")


@HERE
@pytest.mark.parametrize("target", [Cpu, litert], ids=["onnxruntime", "litert"])
def test_each_layer_of_an_int8_file_is_a_little_off(quantized, package, plan, target) -> None:
    result = compared(package(quantized, target()), plan, examples=11)  # no multiple of those that run together
    assert [layer.layer for layer in result.layers][-1] == "gemm"
    assert {layer.layer for layer in result.layers} == {"conv", "gemm"}
    assert all(0 < layer.error < MOST for layer in result.layers)
    assert result.first is None
    assert result.examples == 11


@HERE
@pytest.mark.parametrize("target", [Cpu, litert], ids=["onnxruntime", "litert"])
@pytest.mark.parametrize(("weight", "layer", "operator"), [("w1", "conv", "Relu"), ("w2", "gemm", "Gemm")])
def test_a_layer_with_other_weights_is_named(
    tiny_onnx, package, plan, tmp_path, target, weight, layer, operator
) -> None:
    broken: onnx.ModelProto = tiny_onnx()
    (tensor,) = (one for one in broken.graph.initializer if one.name == weight)
    values = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.5), weight))
    result = compared(package(changed(broken, tmp_path), target()), plan)
    assert result.first is not None
    assert result.first.layer == layer
    assert result.first.operator in (operator, "Conv")  # a file may hold both as one
    before = [one for one in result.layers[: result.layers.index(result.first)] if one.layer != layer]
    assert all(one.error < 1e-5 for one in before)


@HERE
def test_its_errors_are_those_of_the_values(quantized, package, plan, model) -> None:
    """The last layer's error, from the two models' own answers."""
    images = load(plan).open_data("evaluate").batch(np.arange(80))
    exact, narrow = model.predict(images).double(), quantized.predict(images).double()
    expected = ((narrow - exact).square().sum() / exact.square().sum()).sqrt().item()
    assert compared(package(quantized, Cpu()), plan, examples=80).layers[-1].error == pytest.approx(expected, rel=0.05)


def test_the_command_shows_a_line_for_each_layer(quantized, package, plan, capsys) -> None:
    path = package(quantized, Cpu())
    assert squeeze("compare-tensors", path, plan, "--tolerance", "0.000001") == 0
    shown = capsys.readouterr().out
    assert "first over 0.0001 %: conv" in shown
    assert "gemm" in shown
    assert squeeze("compare-tensors", path, plan, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["first"] is None
    assert result["layers"][-1]["layer"] == "gemm"


@HERE
def test_bad_input_is_one_line(quantized, model, package, plan, tmp_path, capsys) -> None:
    path = package(quantized, Cpu())
    (tmp_path / "no-data.yaml").write_text(plan.read_text().replace("data: {evaluate", "data: {calibrate"))
    for arguments, fault in [
        ((tmp_path / "none.zip", plan), "none.zip"),
        ((path, tmp_path / "none.yaml"), "none.yaml"),
        ((path, plan, "--examples", "0"), "0 is not in the range"),
        ((path, plan, "--tolerance", "0"), "0.0 is not in the range"),
        ((path, tmp_path / "no-data.yaml"), "names no data.evaluate"),
    ]:
        assert squeeze("compare-tensors", *arguments) != 0
        (line,) = capsys.readouterr().err.splitlines()
        assert fault in line
    assert squeeze("compare-tensors", package(model, Mobile()), plan) != 0
    assert "onnxruntime shows the outputs of model.ort only" in capsys.readouterr().err


@HERE
def test_many_ways_from_one_compared_value_to_the_next_are_not_walked_one_by_one(package, plan, tmp_path) -> None:
    """Of sixty residual blocks whose values are not compared, two to the power of sixty."""
    blocks = 60

    def graph(inner: str) -> onnx.ModelProto:
        nodes = [onnx.helper.make_node("GlobalAveragePool", ["image"], [f"{inner}0"], "pool")]
        for number in range(blocks):
            nodes.append(onnx.helper.make_node("Relu", [f"{inner}{number}"], [f"{inner}r{number}"], f"relu{number}"))
            add = [f"{inner}{number}", f"{inner}r{number}"], [f"{inner}{number + 1}"]
            nodes.append(onnx.helper.make_node("Add", *add, f"add{number}"))
        nodes.append(onnx.helper.make_node("Flatten", [f"{inner}{blocks}"], [f"{inner}f"], "flatten"))
        nodes.append(onnx.helper.make_node("Tanh", [f"{inner}f"], ["logits"], "tanh"))
        sizes = (("image", ["n", 3, 8, 8]), ("logits", ["n", 3]))
        ends = [[onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, size)] for name, size in sizes]
        opset = [onnx.helper.make_opsetid("", 18)]
        return onnx.helper.make_model(onnx.helper.make_graph(nodes, "deep", *ends), opset_imports=opset, ir_version=9)

    onnx.save(graph("a"), tmp_path / "deep.onnx")
    _, *rest = plan.read_text().replace("npz: data.npz", f"npz: {plan.parent / 'data.npz'}").splitlines()
    (tmp_path / "deep.yaml").write_text("\n".join([f"model: {{onnx: {tmp_path / 'deep.onnx'}}}", *rest]))
    result = compared(package(changed(graph("b"), tmp_path), Cpu()), tmp_path / "deep.yaml")
    assert [(layer.layer, layer.error) for layer in result.layers] == [("tanh", 0.0)]


@HERE
def test_a_package_of_another_model_shares_no_value(tiny_onnx, package, plan, tmp_path, capsys) -> None:
    other: onnx.ModelProto = tiny_onnx()
    for node in other.graph.node:
        for values in (node.input, node.output):
            values[:] = [name if name in ("image", "w1", "b1", "w2", "b2") else f"{name}_" for name in values]
    other.graph.output[0].name = "logits_"
    path = package(changed(other, tmp_path), Cpu())
    assert squeeze("compare-tensors", path, plan) != 0
    assert "shares no inner value with the model" in capsys.readouterr().err
