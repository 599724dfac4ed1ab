"""Every way in which a package can lie is met by one clear line."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from squeeze.errors import VerifyError
from squeeze.targets.archive import Limits
from squeeze.targets.base import Packed
from squeeze.targets.golden import Golden
from squeeze.targets.manifest import Manifest, readable_json
from squeeze.targets.package import file_sum
from squeeze.targets.verify import open_package, verify

Files = dict[str, bytes]


@pytest.fixture
def files(packed: Packed) -> Files:
    with zipfile.ZipFile(packed.path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(path: Path, files: Files, also: Callable[[zipfile.ZipFile], None] = lambda _: None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        also(archive)
    return path


def resealed(files: Files, **changes: object) -> Files:
    """The files with a manifest that fits them: what an attacker who knows the format would write."""
    listed = {n: file_sum(d) for n, d in files.items() if n not in ("manifest.json", "measurements.json")}
    old = json.loads(files["manifest.json"]) | {"files": {n: s.model_dump() for n, s in listed.items()}} | changes
    manifest = Manifest.model_validate(old).sealed()
    return {**files, "manifest.json": readable_json(manifest.model_dump(mode="json"))}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil.txt", r"'\.\./evil\.txt': a path that leaves its folder"),
        ("a/../../evil.txt", "a path that leaves its folder"),
        ("/etc/evil", "an absolute or empty path"),
        ("C:/evil", "a drive letter"),
        ("a\\..\\evil", "a backslash"),
        ("a\nb", "control characters"),
    ],
)
def test_a_path_that_leaves_the_folder_is_refused(files: Files, tmp_path: Path, name: str, reason: str):
    package = zipped(tmp_path / "p.zip", {**files, name: b"x"})
    with pytest.raises(VerifyError, match=reason):
        open_package(package)
    assert [path.name for path in tmp_path.iterdir()] == ["p.zip"]


def test_a_changed_byte_is_found_by_its_sum(files: Files, tmp_path: Path):
    data = bytearray(files["model.onnx"])
    data[len(data) // 2] ^= 1
    with pytest.raises(VerifyError, match=r"p\.zip: model\.onnx: sha256 is .*; the manifest says"):
        open_package(zipped(tmp_path / "p.zip", {**files, "model.onnx": bytes(data)}))


def test_a_changed_byte_anywhere_in_the_zip_is_one_line_or_harmless(packed: Packed, tmp_path: Path):
    whole = packed.path.read_bytes()
    for position in range(0, len(whole), 97):
        damaged = bytearray(whole)
        damaged[position] ^= 0x55
        (tmp_path / "p.zip").write_bytes(damaged)
        assert "\n" not in fault(tmp_path / "p.zip")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_zip_is_refused(packed: Packed, tmp_path: Path, share: float):
    whole = packed.path.read_bytes()
    (tmp_path / "p.zip").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(VerifyError, match=r"p\.zip: cannot be unpacked \(File is not a zip file\)"):
        open_package(tmp_path / "p.zip")


def test_an_absent_package_is_named(tmp_path: Path):
    with pytest.raises(VerifyError, match=r"p\.zip: no such package"):
        open_package(tmp_path / "p.zip")


def test_a_pipe_is_no_package_and_nobody_waits_for_one(tmp_path: Path):
    os.mkfifo(tmp_path / "p.zip")
    with pytest.raises(VerifyError, match="is a pipe"):
        open_package(tmp_path / "p.zip")


def test_an_extra_file_is_refused(files: Files, tmp_path: Path):
    with pytest.raises(VerifyError, match=r"extra\.txt: is not in the manifest"):
        open_package(zipped(tmp_path / "p.zip", {**files, "extra.txt": b"x"}))


def test_a_missing_file_is_refused(files: Files, tmp_path: Path):
    del files["ledger.json"]
    with pytest.raises(VerifyError, match=r"ledger\.json: is missing; the manifest lists it"):
        open_package(zipped(tmp_path / "p.zip", files))


def test_a_wrong_size_is_refused(files: Files, tmp_path: Path):
    with pytest.raises(VerifyError, match=r"ledger\.json: has \d+ bytes; the manifest says \d+"):
        open_package(zipped(tmp_path / "p.zip", {**files, "ledger.json": files["ledger.json"] + b"\n"}))


def test_two_names_that_differ_in_case_are_refused(files: Files, tmp_path: Path):
    with pytest.raises(VerifyError, match=r"LEDGER\.json: there is also 'ledger\.json'"):
        open_package(zipped(tmp_path / "p.zip", {**files, "LEDGER.json": b"{}"}))


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # zipfile warns of what this test is about
def test_a_name_that_occurs_twice_is_refused(files: Files, tmp_path: Path):
    package = zipped(tmp_path / "p.zip", files, lambda archive: archive.writestr("run.py", "print('other')"))
    with pytest.raises(VerifyError, match=r"run\.py: there is also 'run\.py'"):
        open_package(package)


@pytest.mark.parametrize(("kind", "word"), [(stat.S_IFLNK, "symbolic link"), (stat.S_IFIFO, "device or a pipe")])
def test_a_link_or_a_pipe_is_refused(files: Files, tmp_path: Path, kind: int, word: str):
    entry = zipfile.ZipInfo("link")
    entry.create_system, entry.external_attr = 3, (kind | 0o777) << 16
    package = zipped(tmp_path / "p.zip", files, lambda archive: archive.writestr(entry, "/etc/passwd"))
    with pytest.raises(VerifyError, match=f"link: is a {word}"):
        open_package(package)


def test_a_link_in_an_unpacked_folder_is_refused(files: Files, tmp_path: Path):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "run.py").unlink()
    (tmp_path / "run.py").symlink_to("/etc/passwd")
    with pytest.raises(VerifyError, match=r"run\.py: is a link or a device"):
        open_package(tmp_path)


def test_an_encrypted_entry_is_refused(files: Files, tmp_path: Path):
    package = zipped(tmp_path / "p.zip", files)
    patch_directory(package, "ledger.json", offset=8, value=struct.pack("<H", 1))
    with pytest.raises(VerifyError, match=r"ledger\.json: is encrypted"):
        open_package(package)


def test_another_compression_is_refused(files: Files, tmp_path: Path):
    def lzma(archive: zipfile.ZipFile) -> None:
        archive.writestr("odd", b"x", compress_type=zipfile.ZIP_LZMA)

    with pytest.raises(VerifyError, match="odd: is compressed by method 14"):
        open_package(zipped(tmp_path / "p.zip", files, lzma))


def test_a_claim_over_the_limit_is_refused_before_anything_is_unpacked(files: Files, tmp_path: Path):
    package = zipped(tmp_path / "p.zip", files)
    patch_directory(package, "model.onnx", offset=24, value=struct.pack("<I", 0xFFFFFFF0))
    with pytest.raises(VerifyError, match=r"model\.onnx: claims 4294967280 bytes.* holds at most 1000000"):
        open_package(package, Limits(total_bytes=1_000_000))


def test_a_bomb_that_claims_its_size_is_refused_by_its_ratio(files: Files, tmp_path: Path):
    package = zipped(tmp_path / "p.zip", {**files, "zeros": bytes(20_000_000)})
    with pytest.raises(VerifyError, match="more than 200 times is refused as a bomb"):
        open_package(package, Limits(free_bytes=1_000_000))


def test_a_bomb_that_claims_less_than_it_holds_is_stopped_at_its_claim(files: Files, tmp_path: Path):
    package = zipped(tmp_path / "p.zip", {**files, "zeros": bytes(20_000_000)})
    patch_directory(package, "zeros", offset=24, value=struct.pack("<I", 1000))
    with pytest.raises(VerifyError, match="zeros: claims 1000 bytes and unpacks to more"):
        open_package(package)


def test_an_entry_that_holds_less_than_it_claims_is_refused(files: Files, tmp_path: Path):
    package = zipped(tmp_path / "p.zip", files)
    patch_directory(package, "ledger.json", offset=24, value=struct.pack("<I", 5000))
    with pytest.raises(VerifyError, match=r"ledger\.json: claims 5000 bytes and unpacks to \d+"):
        open_package(package)


def test_too_many_files_are_refused(files: Files, tmp_path: Path):
    with pytest.raises(VerifyError, match="8 files; a package holds at most 5"):
        open_package(zipped(tmp_path / "p.zip", files), Limits(files=5))


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


def fault(package: Path) -> str:
    """What is said of a package; nothing where it verifies."""
    try:
        verify(open_package(package))
    except VerifyError as error:
        return str(error)
    return ""


def patch_directory(package: Path, name: str, offset: int, value: bytes) -> None:
    """Overwrite a field of a name's entry in the zip's central directory."""
    data = bytearray(package.read_bytes())
    start = data.rindex(b"PK\x01\x02", 0, data.rindex(name.encode()))
    data[start + offset : start + offset + len(value)] = value
    package.write_bytes(data)
