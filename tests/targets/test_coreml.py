"""The Core ML package on a system without Core ML: what is verified of it, and that nobody takes it for run."""

from __future__ import annotations

import platform
import zipfile
from pathlib import Path

import numpy as np
import pytest
from package_script import assert_without_squeeze, run_script, unpacked
from tiny import squeeze

from squeeze.errors import ModelError, UsageError, VerifyError
from squeeze.formats.mlpackage import MODEL, PACKAGE, WEIGHTS
from squeeze.models.base import Batch
from squeeze.models.onnx_model import OnnxModel
from squeeze.runtimes.coreml import CoreMl
from squeeze.targets.arm64.root import Arm64Root
from squeeze.targets.base import Packed
from squeeze.targets.bench import bench
from squeeze.targets.mobile import Mobile
from squeeze.targets.package import PackageInputs
from squeeze.targets.verify import open_package, verify

pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'squeeze[coreml]'")
pytestmark = pytest.mark.skipif(platform.system() == "Darwin", reason="Core ML is here, and runs the package")
TARGET = Mobile(runtime="coreml")
REASON = "Core ML runs on macOS only"
NAMES = ("model.mlmodel", "weight.bin", "Manifest.json")


@pytest.fixture(scope="module")
def packed(quantized: OnnxModel, pieces: PackageInputs, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return TARGET.pack(quantized, pieces, tmp_path_factory.mktemp("coreml") / "tiny-coreml.zip")


def test_the_package_verifies_by_what_is_read_back_and_says_that_it_was_not_run(packed: Packed) -> None:
    assert packed.verification.not_run == REASON
    assert packed.verification.difference < 1e-3
    (note,) = packed.verification.notes
    assert note.startswith(
        f"not run: {REASON}; what the file says to compute, read back from it, gives the golden outp"
    )
    manifest = open_package(packed.path).manifest
    assert manifest.not_run == REASON
    assert f"**The model file was not run when the package was made: {REASON}.**" in card(packed)
    assert [(spec.name, spec.shape) for spec in (*manifest.inputs, *manifest.outputs)] == [
        ("image", (1, 3, 8, 8)),
        ("logits", (1, 5)),
    ]


def card(packed: Packed) -> str:
    with zipfile.ZipFile(packed.path) as archive:
        return archive.read("README.md").decode()


def test_the_golden_output_is_that_of_the_graph(packed: Packed, quantized: OnnxModel, batch: Batch) -> None:
    expected = quantized.predict(Batch({"image": batch.image[:1]})).numpy()
    assert np.array_equal(open_package(packed.path).golden().outputs["logits"], expected)


def test_every_file_of_it_counts(packed: Packed) -> None:
    package = open_package(packed.path)
    sizes = {name: file.size for name, file in package.manifest.files.items() if name.startswith(f"{PACKAGE}/")}
    assert sorted(Path(name).name for name in sizes) == sorted(NAMES)
    assert packed.artifact.nbytes() == package.loaded_bytes() == sum(sizes.values())


def test_nobody_gets_an_answer_of_it(packed: Packed, batch: Batch) -> None:
    assert packed.artifact.cannot_run() == REASON
    with pytest.raises(ModelError, match=f"{REASON}; it does not run here"):
        packed.artifact.predict(batch)
    with pytest.raises(ModelError, match=rf"tiny-coreml\.zip: {REASON}; it does not run here"):
        bench(open_package(packed.path))
    with pytest.raises(UsageError, match=f"an emulated Linux, and {REASON}; leave --arm64 out"):
        Arm64Root(Path("absent")).require(CoreMl)


def test_its_script_says_so_in_one_line(packed: Packed, tmp_path: Path) -> None:
    done = run_script(unpacked(packed.path, tmp_path), "--golden")
    assert done.returncode == 1
    assert done.stderr == f"run.py: {REASON}: the model is not run on this system\n"
    assert_without_squeeze(tmp_path)


@pytest.mark.usefixtures("in_this_process")
def test_another_weight_is_not_verified(packed: Packed) -> None:
    package = open_package(packed.path)
    file = package.folder / PACKAGE / WEIGHTS
    data = np.frombuffer(file.read_bytes(), np.uint8).copy()
    data[-64:] ^= 0x55
    file.write_bytes(data.tobytes())
    with pytest.raises(VerifyError, match=r"golden output differs by .* of its largest value"):
        verify(package)


@pytest.mark.slow  # a process that imports coremltools takes seconds; the readings of damage are tests/models' business
def test_a_damaged_package_is_refused_in_its_confined_process(packed: Packed) -> None:
    package = open_package(packed.path)
    file = package.folder / PACKAGE / MODEL
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(VerifyError, match="not a Core ML package that can be read"):
        verify(package)


@pytest.mark.usefixtures("in_this_process")
def test_verify_says_it_on_the_command_line(packed: Packed, capsys: pytest.CaptureFixture[str]) -> None:
    assert squeeze("verify", packed.path) == 0
    shown = " ".join(capsys.readouterr().out.split())  # wrapped where the terminal ends
    assert "verified: every file as listed, program and integers read back, not run" in shown
    assert squeeze("bench", packed.path) == 1
