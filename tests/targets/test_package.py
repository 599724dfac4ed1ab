"""A package is the same bytes for the same contents, and holds what its manifest says."""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from package_script import unpacked

from squeeze.errors import UsageError, VerifyError
from squeeze.models.base import Batch
from squeeze.models.facts import FLOAT_TOLERANCE
from squeeze.models.onnx_model import OnnxModel
from squeeze.targets.archive import write_zip
from squeeze.targets.base import Packed
from squeeze.targets.card import model_card
from squeeze.targets.cpu import Cpu
from squeeze.targets.golden import Golden, largest_difference
from squeeze.targets.package import PackageInputs
from squeeze.targets.verify import open_package, verify
from squeeze.work import work_within


def test_the_same_contents_give_the_same_bytes(model: OnnxModel, pieces: PackageInputs, packed: Packed, tmp_path: Path):
    again = Cpu().pack(model, pieces, tmp_path / "again.zip")
    assert again.path.read_bytes() == packed.path.read_bytes()


def test_other_timings_change_the_zip_and_not_the_digest(
    model: OnnxModel, pieces: PackageInputs, packed: Packed, tmp_path: Path
):
    later = Cpu().pack(model, replace(pieces, measurements={"date": "2026-02-02"}), tmp_path / "later.zip")
    assert later.digest == packed.digest
    assert later.path.read_bytes() != packed.path.read_bytes()


@pytest.mark.parametrize(
    "change",
    [{"labels": ["a", "b", "c", "d", "e"]}, {"ledger": {"rows": []}}, {"preprocessing": {"scale": 1.0}}],
    ids=["labels", "ledger", "preprocessing"],
)
def test_the_digest_covers_what_the_manifest_says(model, pieces, packed, tmp_path, change):
    assert Cpu().pack(model, replace(pieces, **change), tmp_path / "other.zip").digest != packed.digest


def test_the_zip_holds_everything_and_no_date(packed: Packed):
    with zipfile.ZipFile(packed.path) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    assert names == sorted(names)
    beside = {"README.md", "golden.npz", "ledger.json", "manifest.json", "measurements.json", "plan.yaml", "run.py"}
    assert set(names) == {"model.onnx", *beside}
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}


def test_the_manifest_names_inputs_outputs_and_runtime(packed: Packed, model: OnnxModel):
    manifest = open_package(packed.path).manifest
    assert (manifest.inputs[0].name, manifest.inputs[0].shape) == ("image", ("n", 3, 8, 8))
    assert (manifest.outputs[0].name, manifest.outputs[0].dtype) == ("logits", "float32")
    assert manifest.digest == packed.digest
    assert (manifest.parameters, manifest.macs) == (model.parameters(), model.macs())
    assert manifest.tolerance == FLOAT_TOLERANCE


def test_the_card_tells_scores_with_their_interval(packed: Packed):
    with zipfile.ZipFile(packed.path) as archive:
        card = archive.read("README.md").decode()
    assert "| top-1 | 80.4 % | 80.7 % | -0.3 [-0.7, +0.1] | not told apart |" in card
    assert "python run.py --golden" in card
    assert "versions: squeeze 0.1.0" in card


def test_a_name_in_the_card_ends_no_table_and_no_code(packed: Packed):
    """Inputs are named by whoever exported the model, licences by whoever published it."""
    manifest = open_package(packed.path).manifest
    spec = manifest.inputs[0].model_copy(update={"name": "im`a|ge\n# heading\x1b[2J"})
    manifest = manifest.model_copy(update={"inputs": (spec,), "provenance": {"licence": "<b>a\nb"}})
    card = model_card(manifest, 100, [], ["tiny.onnx"], ["numpy>=1"])
    assert "| input | `im'a\\|ge # heading\ufffd[2J` float32" in card
    assert "- licence: &lt;b&gt;a b" in card
    assert "pip install numpy>=1" in card


def test_the_packed_artifact_answers_as_the_model_did(packed: Packed, model: OnnxModel, batch: Batch):
    assert packed.verification.bit_equal
    assert np.array_equal(packed.artifact.predict(batch), model.predict(batch))
    assert packed.artifact.nbytes() == model.nbytes()


def test_nothing_stays_unpacked_once_a_package_has_verified(model: OnnxModel, pieces: PackageInputs, tmp_path: Path):
    (tmp_path / "work").mkdir()
    with work_within(tmp_path / "work"):
        packed = Cpu().pack(model, pieces, tmp_path / "one.zip")
        assert not list((tmp_path / "work").iterdir())
        assert packed.artifact.nbytes() == model.nbytes()
        assert [path.name for path in (tmp_path / "work").rglob("model.onnx")] == ["model.onnx"]


def test_a_package_that_is_another_one_by_now_gives_no_model(model, pieces: PackageInputs, tmp_path: Path):
    packed = Cpu().pack(model, pieces, tmp_path / "one.zip")
    Cpu().pack(model, replace(pieces, labels=["a", "b", "c", "d", "e"]), tmp_path / "one.zip")
    with pytest.raises(VerifyError, match="not the package that was written here any more"):
        _ = packed.artifact


def test_a_model_with_a_fixed_batch_is_packed(tiny_onnx, pieces: PackageInputs, tmp_path: Path):
    (tmp_path / "two.onnx").write_bytes(tiny_onnx(batch=2).SerializeToString())
    packed = Cpu().pack(OnnxModel.from_file(tmp_path / "two.onnx"), pieces, tmp_path / "two.zip")
    assert open_package(packed.path).golden().inputs["image"].shape == (2, 3, 8, 8)


def test_a_model_of_another_form_is_refused_by_name(pieces: PackageInputs, tmp_path: Path):
    class Other:
        form = "torch"

    with pytest.raises(UsageError, match="target cpu takes onnx or language artifact, not torch"):
        Cpu().pack(Other(), pieces, tmp_path / "x.zip")


def test_a_package_that_does_not_verify_never_replaces_a_good_one(model, pieces, packed, tmp_path, monkeypatch):
    good = tmp_path / "good.zip"
    good.write_bytes(packed.path.read_bytes())

    def fail(_: object) -> None:
        raise VerifyError("golden output differs")

    monkeypatch.setattr("squeeze.targets.base.verify", fail)
    with pytest.raises(VerifyError, match="golden output differs"):
        Cpu().pack(model, replace(pieces, labels=None), good)
    assert good.read_bytes() == packed.path.read_bytes()
    assert list(tmp_path.iterdir()) == [good]


def test_weights_and_texts_are_each_compressed_the_way_that_makes_them_smaller(tmp_path: Path):
    """Where no bytes repeat, the search for repetitions takes most of the time and makes the file no smaller."""
    weights = np.random.default_rng(0).normal(128, 12, 1 << 18).clip(0, 255).astype(np.uint8).tobytes()
    text = b"".join(b'{"token": %d, "score": 0.5}\n' % number for number in range(5000))
    write_zip({"weights": weights, "text": text}, tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        sizes = {entry.filename: entry.compress_size for entry in archive.infolist()}
        assert (archive.read("weights"), archive.read("text")) == (weights, text)
    ways = {way: zlib.compressobj(6, zlib.DEFLATED, -15, 8, way) for way in (zlib.Z_HUFFMAN_ONLY, 0)}
    assert sizes["weights"] == len(ways[zlib.Z_HUFFMAN_ONLY].compress(weights) + ways[zlib.Z_HUFFMAN_ONLY].flush())
    assert sizes["text"] == len(ways[0].compress(text) + ways[0].flush())


def test_a_write_that_breaks_off_leaves_nothing(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        write_zip({"a": b"x", "b": tmp_path / "absent"}, tmp_path / "out.zip")
    assert not list(tmp_path.iterdir())


def test_golden_arrays_come_back_and_their_bytes_are_fixed():
    golden = Golden({"x": np.arange(6, dtype=np.float32).reshape(2, 3)}, {"y": np.ones((2, 1), np.int64)})
    again = Golden.from_npz(golden.npz(), "golden.npz")
    assert again.npz() == golden.npz()
    assert largest_difference(golden.outputs, again.outputs) == 0.0


def test_a_nan_or_another_shape_is_no_small_difference():
    ones = {"y": np.ones(3, np.float32)}
    assert largest_difference(ones, {"y": np.full(3, np.nan, np.float32)}) == float("inf")
    assert largest_difference(ones, {"y": np.ones(4, np.float32)}) == float("inf")
    assert largest_difference(ones, {"y": np.full(3, 1.5, np.float32)}) == 0.5


def test_an_unpacked_folder_verifies_as_the_zip_does(packed: Packed, tmp_path: Path):
    assert verify(open_package(unpacked(packed.path, tmp_path))) == verify(open_package(packed.path))


def test_another_runtime_version_is_a_note_and_no_error(packed: Packed, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("squeeze.targets.verify.runtime_version", lambda package: "9.9.9")
    notes = verify(open_package(packed.path)).notes
    assert any("run with 9.9.9" in note for note in notes)


def test_the_ledger_and_the_plan_are_inside_as_given(packed: Packed, pieces: PackageInputs):
    package = open_package(packed.path)
    assert json.loads((package.folder / "ledger.json").read_text()) == pieces.ledger
    assert "targets:" in (package.folder / "plan.yaml").read_text()
