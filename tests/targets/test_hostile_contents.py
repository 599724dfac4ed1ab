"""What a package says of itself and holds may be a lie; one clear line meets it."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from hostile_world import Files, resealed, zipped

from squeeze.errors import VerifyError
from squeeze.targets.base import Packed
from squeeze.targets.golden import Golden
from squeeze.targets.manifest import readable_json
from squeeze.targets.verify import open_package, verify


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "content: Input should be an object"),
        (b"{}", "name: Field required; schema version 1"),
        (b'{"schema_version": 2}', "schema_version: Input should be 1"),
    ],
    ids=["cut", "binary", "deep", "list", "empty", "newer"],
)
def test_a_manifest_that_is_none_is_refused(files: Files, tmp_path: Path, text: bytes, reason: str):
    with pytest.raises(VerifyError, match=rf"p\.zip: manifest\.json: {reason}"):
        open_package(zipped(tmp_path / "p.zip", {**files, "manifest.json": text}))


def test_a_zip_that_is_no_package_is_refused(tmp_path: Path):
    with pytest.raises(VerifyError, match=r"manifest\.json: is missing; is this a package of squeeze"):
        open_package(zipped(tmp_path / "p.zip", {"holiday.txt": b"sun"}))


def test_a_changed_manifest_does_not_fit_its_digest(files: Files, tmp_path: Path):
    files["manifest.json"] = files["manifest.json"].replace(b'"ant"', b'"asp"')
    with pytest.raises(VerifyError, match=r"manifest\.json: digest is [0-9a-f]{64}; its content gives [0-9a-f]{64}"):
        open_package(zipped(tmp_path / "p.zip", files))


def test_a_tolerance_that_allows_anything_is_refused(files: Files, tmp_path: Path):
    files["manifest.json"] = files["manifest.json"].replace(b'"tolerance": 0.001', b'"tolerance": 1e9')
    with pytest.raises(VerifyError, match=r"tolerance: Input should be less than or equal to 0\.1"):
        open_package(zipped(tmp_path / "p.zip", files))


def test_a_package_of_old_or_of_a_classifier_names_no_task(files: Files, tmp_path: Path):
    assert "task_name" not in json.loads(files["manifest.json"])
    assert open_package(zipped(tmp_path / "p.zip", files)).load_model().task.name == "classify"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("embd", "unknown task 'embd'; did you mean 'embed'?"),
        ("generate", "task_name 'generate' is not run by 'predict'; 'classify' would be"),
    ],
)
def test_a_task_that_the_file_cannot_have_is_refused_by_name(files: Files, tmp_path: Path, name: str, reason: str):
    package = open_package(zipped(tmp_path / "p.zip", resealed(files, task_name=name)))
    with pytest.raises(VerifyError, match=re.escape(f"p.zip: manifest.json: {reason}")):
        package.load_model()


@pytest.mark.parametrize("name", ["os:system", "", "x" * 65, 5, ["embed"]], ids=repr)
def test_a_name_that_no_task_has_is_refused_with_the_manifest(files: Files, tmp_path: Path, name: object):
    manifest = json.loads(files["manifest.json"]) | {"task_name": name}
    with pytest.raises(VerifyError, match=r"p\.zip: manifest\.json: .*task_name"):
        open_package(zipped(tmp_path / "p.zip", {**files, "manifest.json": readable_json(manifest)}))


@pytest.mark.parametrize("name", ["../../etc/passwd", "absent.onnx", "run.py"])
def test_a_model_that_is_no_listed_model_file_is_refused(files: Files, tmp_path: Path, name: str):
    with pytest.raises(VerifyError, match=r"does not list|no \.onnx or \.ort file"):
        open_package(zipped(tmp_path / "p.zip", resealed(files, model=name)))


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("../../secret.bin", "outside the package; refused"),
        ("/etc/passwd", "outside the package; refused"),
        ("weights.bin", "which the manifest does not list"),
    ],
)
def test_weights_outside_the_package_are_refused(tiny_onnx, files: Files, tmp_path: Path, location: str, reason: str):
    proto = tiny_onnx()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    with pytest.raises(VerifyError, match=rf"model\.onnx: weights in .*{reason}"):
        open_package(zipped(tmp_path / "p.zip", resealed({**files, "model.onnx": proto.SerializeToString()})))


def test_a_model_that_is_no_model_is_refused(files: Files, tmp_path: Path):
    with pytest.raises(VerifyError, match=r"model\.onnx: not a readable ONNX file"):
        open_package(zipped(tmp_path / "p.zip", resealed({**files, "model.onnx": b"\xffnonsense"})))


def test_another_golden_output_does_not_verify(files: Files, tmp_path: Path):
    golden = Golden.from_npz(files["golden.npz"], "golden.npz")
    shifted = Golden(golden.inputs, {name: array + 1 for name, array in golden.outputs.items()})
    package = open_package(zipped(tmp_path / "p.zip", resealed({**files, "golden.npz": shifted.npz()})))
    with pytest.raises(VerifyError, match=r"golden output differs by .*; at most 0\.001 would be right"):
        verify(package)


def test_a_golden_input_that_does_not_fit_is_refused(files: Files, tmp_path: Path):
    golden = Golden({"image": np.zeros((1, 9), np.float32)}, {"logits": np.zeros((1, 5), np.float32)})
    package = open_package(zipped(tmp_path / "p.zip", resealed({**files, "golden.npz": golden.npz()})))
    with pytest.raises(VerifyError, match="does not take the golden input"):
        verify(package)


def _compressed_npz() -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **{"input.image": np.zeros(100_000)})
    return stream.getvalue()


def _pickled_npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **{"input.image": np.array([{}], dtype=object)})
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [(_compressed_npz(), "is compressed"), (_pickled_npz(), "holds object, not numbers"), (b"zip?", "not a zip file")],
    ids=["compressed", "pickle", "nonsense"],
)
def test_golden_arrays_that_could_hurt_are_refused(files: Files, tmp_path: Path, data: bytes, reason: str):
    package = open_package(zipped(tmp_path / "p.zip", resealed({**files, "golden.npz": data})))
    with pytest.raises(VerifyError, match=rf"golden\.npz: no readable golden arrays \(.*{reason}"):
        verify(package)


def test_what_was_unpacked_goes_with_the_package(packed: Packed):
    package = open_package(packed.path)
    folder = package.folder
    assert folder.is_dir()
    artifact = package.load_model()
    del package
    assert artifact.nbytes() > 0  # the model keeps its files
    del artifact
    assert not folder.exists()
