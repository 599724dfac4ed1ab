"""The ``.ort`` package: same bytes from every process, no path inside, the same answers."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnxruntime.quantization import QuantType
from pydantic import ValidationError

from squeeze.errors import ModelError, VerifyError
from squeeze.formats.ort_canonical import sorted_resolver
from squeeze.models.base import Batch
from squeeze.models.facts import NARROW_TOLERANCE
from squeeze.models.onnx_model import OnnxModel
from squeeze.targets.base import Packed
from squeeze.targets.mobile import Mobile
from squeeze.targets.package import PackageInputs
from squeeze.targets.verify import OVERFLOW, open_package, verify
from squeeze.writers.ort import write_ort


@pytest.fixture(scope="module")
def mobile(model: OnnxModel, pieces: PackageInputs, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return Mobile().pack(model, pieces, tmp_path_factory.mktemp("mobile") / "tiny-mobile.zip")


@pytest.fixture(scope="module")
def quantized(quantized_by_onnxruntime: Callable[..., OnnxModel]) -> OnnxModel:
    return quantized_by_onnxruntime()


def test_the_package_holds_the_ort_file_and_its_operators(mobile: Packed):
    package = open_package(mobile.path)
    assert {"model.ort", "required_operators.config"} < set(package.manifest.files)
    operators = (package.folder / "required_operators.config").read_text().splitlines()
    assert operators[0] == "# operators of model.ort"
    assert any(line.startswith("ai.onnx;13;") and "Gemm" in line for line in operators)


def test_the_ort_file_answers_as_the_onnx_file_does(mobile: Packed, model: OnnxModel, batch: Batch):
    assert torch.allclose(mobile.artifact.predict(batch), model.predict(batch), atol=1e-5)
    assert verify(open_package(mobile.path)).bit_equal


def test_the_ort_file_keeps_the_counts_of_its_graph(mobile: Packed, model: OnnxModel):
    assert mobile.artifact.layers() == []
    assert (mobile.artifact.parameters(), mobile.artifact.macs()) == (model.parameters(), model.macs())


def test_the_operator_list_does_not_count_as_model_bytes(mobile: Packed):
    assert mobile.artifact.nbytes() == open_package(mobile.path).manifest.files["model.ort"].size


@pytest.mark.parametrize("kind", ["model", "quantized"])
def test_another_process_in_another_folder_writes_the_same_bytes(kind, request, tmp_path):
    model = request.getfixturevalue(kind)
    (tmp_path / "in.onnx").write_bytes(model.data)
    write_ort(model.data, tmp_path / "here.ort")
    code = (
        "import sys; from pathlib import Path; from squeeze.writers.ort import write_ort;"
        "write_ort(Path('in.onnx').read_bytes(), Path('there.ort'))"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env={"PYTHONPATH": str(root), "PATH": ""})
    here, there = (tmp_path / "here.ort").read_bytes(), (tmp_path / "there.ort").read_bytes()
    assert hashlib.sha256(here).hexdigest() == hashlib.sha256(there).hexdigest()
    assert str(tmp_path).encode() not in here


def test_putting_the_file_in_order_twice_changes_nothing_more(mobile: Packed):
    data = mobile.artifact.file.read_bytes()
    assert sorted_resolver(data) == data


def test_reading_the_file_leaves_logging_alone(mobile: Packed):
    code = (
        "import logging, sys; from pathlib import Path; from squeeze.formats.ort_canonical import required_operators;"
        "required_operators(Path(sys.argv[1]).read_bytes()); print(logging.root.handlers)"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""}
    command = [sys.executable, "-c", code, str(mobile.artifact.file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_int8_graph_runs_as_integers_and_gets_the_wider_tolerance(quantized, pieces, batch, tmp_path):
    packed = Mobile().pack(quantized, pieces, tmp_path / "int8.zip")
    assert quantized.facts.tolerance == NARROW_TOLERANCE
    assert "QLinearConv" in (open_package(packed.path).folder / "required_operators.config").read_text()
    fast = ort.InferenceSession(
        quantized.data, providers=["CPUExecutionProvider"]
    )  # products as the .ort file has them
    result = torch.from_numpy(fast.run(None, {"image": batch.image.numpy()})[0])
    assert (packed.artifact.predict(batch) - result).abs().max() < NARROW_TOLERANCE * result.abs().max()


@pytest.mark.parametrize("overflow", [False, True])
def test_an_ort_file_on_a_cpu_whose_products_overflow_is_told(
    quantized: OnnxModel,
    mobile: Packed,
    pieces: PackageInputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overflow: bool,
) -> None:
    """Its weights were put in order when it was built: no option of a session changes them any more."""
    monkeypatch.setattr("squeeze.targets.verify.products_overflow", lambda: overflow)
    packed = Mobile().pack(quantized, pieces, tmp_path / "int8.zip")
    assert (OVERFLOW in packed.verification.notes) == overflow
    assert OVERFLOW not in verify(open_package(mobile.path)).notes  # float: no such products


def test_products_of_signed_activations_are_exact_everywhere(
    quantized_by_onnxruntime: Callable[..., OnnxModel],
    pieces: PackageInputs,
    tmp_path: Path,
    batch: Batch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("squeeze.targets.verify.products_overflow", lambda: True)
    signed = quantized_by_onnxruntime(activation_type=QuantType.QInt8)
    packed = Mobile().pack(signed, pieces, tmp_path / "int8.zip")
    assert "QLinearConv" in (open_package(packed.path).folder / "required_operators.config").read_text()
    assert OVERFLOW not in packed.verification.notes
    exact = signed.predict(batch)
    assert (packed.artifact.predict(batch) - exact).abs().max() < NARROW_TOLERANCE * exact.abs().max()


def test_what_was_optimized_away_leaves_nothing_behind(quantized: OnnxModel, tmp_path: Path) -> None:
    """Descriptions of removed values took a tenth of a small file."""
    assert b"_DequantizeLinear_Output" in quantized.data
    write_ort(quantized.data, tmp_path / "model.ort")
    assert b"_DequantizeLinear_Output" not in (tmp_path / "model.ort").read_bytes()


def test_an_input_that_is_called_as_inner_values_are_keeps_its_name(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Abs", ["v2"], ["a"]), onnx.helper.make_node("Sin", ["a"], ["b"])]
    nodes.append(onnx.helper.make_node("Add", ["b", "v2"], ["v0"]))
    ends = [[onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2])] for name in ("v2", "v0")]
    graph = onnx.helper.make_graph(nodes, "g", *ends)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    write_ort(model.SerializeToString(), tmp_path / "model.ort")
    session = ort.InferenceSession(str(tmp_path / "model.ort"), providers=["CPUExecutionProvider"])
    x = np.array([2.0, -3.0], np.float32)
    np.testing.assert_allclose(session.run(None, {"v2": x})[0], np.sin(np.abs(x)) + x, rtol=1e-6)


def test_values_that_a_branch_reads_by_name_keep_their_names(tmp_path: Path) -> None:
    nothing, twice = (
        onnx.helper.make_graph(
            [onnx.helper.make_node("Mul", [source, source], [f"{source}_out"])],
            source,
            [],
            [onnx.helper.make_tensor_value_info(f"{source}_out", onnx.TensorProto.FLOAT, [2])],
        )
        for source in ("square", "root")
    )
    nodes = [
        onnx.helper.make_node("Mul", ["x", "x"], ["square"]),
        onnx.helper.make_node("Abs", ["x"], ["root"]),
        onnx.helper.make_node("If", ["flag"], ["y"], then_branch=nothing, else_branch=twice),
    ]
    values = [("x", onnx.TensorProto.FLOAT, [2]), ("flag", onnx.TensorProto.BOOL, [])]
    inputs = [onnx.helper.make_tensor_value_info(*value) for value in values]
    graph = onnx.helper.make_graph(
        nodes, "g", inputs, [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    write_ort(model.SerializeToString(), tmp_path / "model.ort")
    session = ort.InferenceSession(str(tmp_path / "model.ort"), providers=["CPUExecutionProvider"])
    x = np.array([2.0, -3.0], np.float32)
    for flag, y in ((True, x**4), (False, x**2)):
        np.testing.assert_allclose(session.run(None, {"x": x, "flag": np.array(flag)})[0], y)


def test_a_damaged_ort_file_is_refused_by_its_runtime(mobile: Packed):
    package = open_package(mobile.path)
    file = package.folder / "model.ort"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(VerifyError, match="ONNX Runtime refuses the model"):
        verify(package)


def test_a_graph_that_does_not_convert_is_one_line(tmp_path: Path):
    with pytest.raises(ModelError, match=r"x\.ort: ONNX Runtime cannot convert the model"):
        write_ort(b"nonsense", tmp_path / "x.ort")


def test_an_unknown_runtime_is_refused():
    with pytest.raises(ValidationError, match="Input should be 'ort'"):
        Mobile(runtime="abacus")
