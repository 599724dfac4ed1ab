"""An artifact is run from the very files that a runtime loads."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from squeeze.errors import ModelError
from squeeze.formats.onnx_external import external_files, unsafe_location
from squeeze.models.artifact import Artifact
from squeeze.models.base import Batch
from squeeze.models.facts import Facts
from squeeze.models.onnx_model import OnnxModel


def gemm(batch: int | str = "n") -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.arange(600, dtype=np.float32).reshape(200, 3) / 600, "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "matmul")],
        "gemm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 200])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture
def batch() -> Batch:
    return Batch({"image": torch.randn(5, 200, generator=torch.Generator().manual_seed(0))})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "m.onnx").write_bytes(gemm().SerializeToString())
    return tmp_path / "m.onnx"


def test_it_answers_as_the_onnx_model_of_the_same_file(file: Path, batch: Batch):
    assert torch.equal(Artifact(file).predict(batch), OnnxModel.from_file(file).predict(batch))


def test_an_onnx_file_counts_itself(file: Path):
    artifact = Artifact(file)
    assert artifact.nbytes() == file.stat().st_size
    assert (artifact.parameters(), artifact.macs()) == (600, 600)
    assert [layer.name for layer in artifact.layers()] == ["matmul"]


def test_facts_that_came_with_it_are_believed(file: Path):
    artifact = Artifact(file, Facts(parameters=7, macs=9, tolerance=0.0))
    assert (artifact.parameters(), artifact.macs()) == (7, 9)


def test_a_fixed_batch_takes_any_number_of_examples(tmp_path: Path, file: Path, batch: Batch):
    (tmp_path / "two.onnx").write_bytes(gemm(batch=2).SerializeToString())
    assert torch.allclose(Artifact(tmp_path / "two.onnx").predict(batch), Artifact(file).predict(batch))


def test_the_stopwatch_runs_the_batch(file: Path, batch: Batch):
    (logits,) = cast("list[np.ndarray]", Artifact(file).runner(batch, threads=1)())
    assert logits.shape == (5, 3)


def test_weights_beside_the_model_are_counted_and_stored_with_it(tmp_path: Path, batch: Batch):
    place, copy = tmp_path / "place", tmp_path / "copy"
    place.mkdir()
    copy.mkdir()
    onnx.save(gemm(), place / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    (place / "note.txt").write_text("travels along")
    artifact = Artifact(place / "m.onnx", beside=(place / "note.txt",))
    assert [path.name for path in artifact.weight_files] == ["m.onnx", "m.bin"]
    assert artifact.nbytes() == sum((place / name).stat().st_size for name in ("m.onnx", "m.bin"))
    artifact.save(copy)
    again = Artifact.load(copy)
    assert (copy / "files/note.txt").exists()
    assert torch.equal(again.predict(batch), artifact.predict(batch))
    assert again.facts is None


def test_facts_are_stored_too(file: Path, tmp_path: Path):
    (tmp_path / "copy").mkdir()
    Artifact(file, Facts(1, 0.5, 2)).save(tmp_path / "copy")
    assert Artifact.load(tmp_path / "copy").facts == Facts(1, 0.5, 2)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("absent.onnx", None, "no such file"),
        ("m.tflite", b"x", r"onnxruntime loads no '\.tflite' files; \.onnx and \.ort would do"),
        ("cut.onnx", gemm().SerializeToString()[:300], "ONNX Runtime refuses the model"),
        ("cut.ort", b"\x00\x00ORTM", "ONNX Runtime refuses the model"),
    ],
)
def test_a_file_that_no_runtime_takes_is_one_line(tmp_path: Path, name: str, data: bytes | None, reason: str):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ModelError, match=reason):
        Artifact(tmp_path / name)


def test_a_folder_that_holds_no_artifact_is_named(tmp_path: Path):
    with pytest.raises(ModelError, match="not a stored artifact"):
        Artifact.load(tmp_path)


def test_weights_are_found_wherever_they_hide(tmp_path: Path):
    inner = gemm().graph
    tensor = inner.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../hidden.bin")
    model = gemm()
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=inner))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert external_files(tmp_path / "m.onnx") == ("../hidden.bin",)


@pytest.mark.parametrize(
    ("location", "unsafe"),
    [("w.bin", False), ("a/w.bin", False), ("../w", True), ("/w", True), ("C:w", True), ("a\\w", True), ("", True)],
)
def test_a_location_is_safe_only_below_the_model(location: str, unsafe: bool):
    assert unsafe_location(location) is unsafe
