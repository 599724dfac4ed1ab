"""A package on an emulated ARM64 processor: what is missing is named, both processors run the same file, and an answer
that differs is seen. The emulator itself runs where it is installed (``SQUEEZE_ARM64`` names its folder)."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from package_script import unpacked

from squeeze.api import load
from squeeze.cli import main as cli
from squeeze.errors import MissingExtra, ModelError, SqueezeError, UsageError, VerifyError
from squeeze.progress import Progress
from squeeze.run.on_arm64 import on_arm64
from squeeze.runtimes.base import Runtime
from squeeze.runtimes.coreml import CoreMl
from squeeze.runtimes.ort import OnnxRuntime, OnnxRuntimeSession
from squeeze.targets.arm64 import make, root
from squeeze.targets.arm64.make import needed
from squeeze.targets.arm64.root import PROCESSOR, Arm64Root
from squeeze.targets.base import Packed
from squeeze.targets.scripts import rows
from squeeze.targets.scripts.classes import Classes
from squeeze.targets.verify import open_package

COUNT = 19  # no multiple of the sixteen that the script takes at once


@pytest.fixture(scope="module")
def folder(packed: Packed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(packed.path, tmp_path_factory.mktemp("unpacked"))


class OtherProcessor(Arm64Root):
    """Stands for an emulator: this processor, whose answers are off by a little noise."""

    noise = 0.0

    def require(self, runtime: type[Runtime]) -> None:
        """Nothing is missing."""

    def command(self, runtime: type[Runtime], script: Path, arguments: Sequence[str]) -> list[str]:
        exact = "return self.session.run(None, feed)"
        text = script.read_text()
        noisy = f"import numpy as np; return [a + {self.noise} * np.sin(1e3 * a) for a in self.session.run(None, feed)]"
        assert text.count(exact) + text.count(noisy) == 1  # it is called twice
        script.write_text(text.replace(exact, noisy))
        return [sys.executable, "-I", str(script), *arguments]


def other_processor(noise: float) -> OtherProcessor:
    processor = OtherProcessor(Path("nowhere"))
    object.__setattr__(processor, "noise", noise)
    return processor


def test_the_script_writes_all_outputs_of_any_number_of_examples(folder: Path, tmp_path: Path):
    images = np.random.default_rng(0).normal(size=(COUNT, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "in.npz", image=images)
    arguments = [str(tmp_path / "in.npz"), "--outputs", str(tmp_path / "out.npz"), "--folder", str(folder)]
    assert rows.main(OnnxRuntimeSession, Classes, arguments) == 0
    with np.load(tmp_path / "out.npz") as written:
        assert written.files == ["logits"]
        (expected,) = OnnxRuntimeSession(folder / "model.onnx", 1).run({"image": images})
        np.testing.assert_allclose(written["logits"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "fault"),
    [
        ({"picture": np.zeros((2, 3, 8, 8))}, "an .npz file with image would do"),
        ({"image": np.float32(1)}, "the model refuses it"),
        ({"image": np.zeros((0, 3, 8, 8))}, "image hold 0 examples; as many of each would do"),
        ({"image": np.zeros((2, 3, 9, 9, 9))}, "the model refuses it"),
        (None, "an .npz file with image would do"),
    ],
    ids=["another name", "a number", "none", "another shape", "no zip"],
)
def test_arrays_that_the_script_cannot_take_are_one_line(folder, tmp_path, capsys, arrays, fault):
    file = tmp_path / "in.npz"
    file.write_bytes(b"PK\x03\x04 cut") if arrays is None else np.savez(file, **arrays)
    arguments = [str(file), "--outputs", str(tmp_path / "out.npz"), "--folder", str(folder)]
    assert rows.main(OnnxRuntimeSession, Classes, arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert fault in line
    assert not (tmp_path / "out.npz").exists()


def test_outputs_of_nothing_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        rows.main(OnnxRuntimeSession, Classes, ["--golden", "--outputs", "x.npz", "--folder", str(folder)])
    assert "--outputs goes with an input file" in capsys.readouterr().err


def test_what_is_missing_is_named_with_what_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    here = Arm64Root(tmp_path / "arm64")
    monkeypatch.setattr(root.shutil, "which", lambda name: None)
    with pytest.raises(MissingExtra, match="needs qemu-aarch64-static; 'apt install qemu-user-static'"):
        here.require(OnnxRuntime)
    monkeypatch.setattr(root.shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(MissingExtra, match=r"no ARM64 Linux here; .squeeze arm64-root \S+ --runtime onnxruntime"):
        here.require(OnnxRuntime)
    (here.folder / "usr/bin").mkdir(parents=True)
    (here.folder / root.PYTHON).touch()
    with pytest.raises(MissingExtra, match=r"onnxruntime \S+ for ARM64 is not in it; '.* adds it"):
        here.require(OnnxRuntime)
    here.packages(OnnxRuntime).mkdir(parents=True)
    here.require(OnnxRuntime)
    command = here.command(OnnxRuntime, Path("/s/run.py"), ["--golden"])
    assert command[:5] == ["/usr/bin/qemu-aarch64-static", "-cpu", PROCESSOR, "-L", str(here.folder)]
    assert command[-2:] == ["/s/run.py", "--golden"]
    assert f"PYTHONPATH={here.packages(OnnxRuntime)}" in command


def test_the_command_says_so_before_it_runs_anything(
    packed: Packed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit, match="2"):
        cli(["verify", str(packed.path), "--arm64", "--arm64-root", str(tmp_path / "none")])
    (line,) = capsys.readouterr().err.splitlines()
    assert "'apt install qemu-user-static'" in line or "no ARM64 Linux here" in line


def test_a_folder_is_made_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    commands: list[Sequence[str]] = []

    def ran(command: Sequence[str], **_options: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        place = Path(command[-1]) if command[0] == "mmdebstrap" else Path(command[command.index("--target") + 1])
        (place / "usr/bin").mkdir(parents=True)
        (place / root.PYTHON).touch()
        failed = "pip" in command
        return subprocess.CompletedProcess(command, failed, "", "noise\nERROR: no such wheel\n" if failed else "")

    monkeypatch.setattr(make.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(make.subprocess, "run", ran)
    here = Arm64Root(tmp_path / "arm64")
    with pytest.raises(SqueezeError, match=r"^pip failed: ERROR: no such wheel$"):
        make.make_root(here, [OnnxRuntime], Progress())
    assert (here.folder / "proc/cpuinfo").read_text().count("asimddp") == 1
    assert not here.packages(OnnxRuntime).exists()
    assert f"onnxruntime=={OnnxRuntime.version()}" in commands[-1]
    with pytest.raises(SqueezeError, match="pip failed"):
        make.make_root(here, [OnnxRuntime], Progress())
    assert [command[0] for command in commands].count("mmdebstrap") == 1


def test_without_the_tool_that_extracts_debian_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(make.shutil, "which", lambda name: None)
    with pytest.raises(MissingExtra, match="'apt install mmdebstrap' gives it"):
        make.make_root(Arm64Root(tmp_path / "arm64"), [], Progress())
    assert not (tmp_path / "arm64").exists()


def test_scores_of_two_processors_stand_side_by_side(packed: Packed, plan: Path):
    result = on_arm64(open_package(packed.path), other_processor(0.0), load(plan))
    assert (result.examples, result.outputs_differ_by, result.golden_difference) == (64, 0.0, 0.0)
    assert list(result.arm64) == ["top1", "kl", "flips"]
    assert list(result.not_scored) == ["size_bytes"]
    top1 = result.arm64["top1"]
    assert top1.value == result.here["top1"].value
    assert top1.to_original is not None
    assert top1.to_original.verdict == "same"
    assert json.loads(json.dumps(result.to_json()))["arm64"]["top1"]["value"] == top1.value


def test_a_processor_that_answers_otherwise_is_seen(packed: Packed, plan: Path):
    result = on_arm64(open_package(packed.path), other_processor(2e-4), load(plan))
    assert result.outputs_differ_by is not None
    assert 1e-5 < result.outputs_differ_by < 1e-3
    distance = result.arm64["kl"].value
    assert distance is not None
    assert distance > 0
    with pytest.raises(VerifyError, match=r"on an emulated cortex-a76 the golden output differs by .* at most 0\.001"):
        on_arm64(open_package(packed.path), other_processor(0.1), load(plan))


def test_a_plan_without_evaluation_data_is_refused(packed: Packed, plan: Path, tmp_path: Path):
    bare = tmp_path / "plan.yaml"
    bare.write_text("\n".join(line for line in plan.read_text().splitlines() if not line.startswith(("data", "metr"))))
    with pytest.raises(UsageError, match=r"plan\.yaml: names no data\.evaluate to score on"):
        on_arm64(open_package(packed.path), other_processor(0.0), load(bare))


@pytest.mark.slow
def test_the_emulated_processor_answers_the_same_up_to_rounding(packed: Packed, plan: Path):
    here = Arm64Root(Path(os.environ.get("SQUEEZE_ARM64", ".squeeze/arm64")))
    if shutil.which(root.EMULATOR) is None or not (here.folder / root.PYTHON).exists():
        pytest.skip(f"no emulator or no ARM64 Linux in {here.folder}: 'squeeze arm64-root' makes one")
    result = on_arm64(open_package(packed.path), here, load(plan))
    assert result.golden_difference <= 1e-5
    assert result.outputs_differ_by is not None
    assert result.outputs_differ_by <= 1e-5
    assert result.examples == 64


def test_what_a_package_needs_is_asked_for_that_processor(tmp_path: Path) -> None:
    """pip reads conditions for the processor that it runs on, and has no option for another."""
    needs = {
        "engine": [
            "numpy>=2",
            'converter; platform_machine == "x86_64"',
            'kernels; platform_machine == "aarch64"',
            "toolkit[blas]",
            'tests; extra == "dev"',
        ],
        "toolkit": ['blas; extra == "blas"', 'fft; extra == "fft"'],
    }
    for name, lines in needs.items():
        folder = tmp_path / f"{name}-1.dist-info"
        folder.mkdir()
        required = "".join(f"Requires-Dist: {line}\n" for line in lines)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{required}")
    found = needed(tmp_path, {("engine", ""), ("toolkit", ""), ("toolkit", "blas")})
    assert sorted(one.name for one in found) == ["blas", "kernels", "numpy", "toolkit"]


@pytest.mark.skipif(platform.system() == "Darwin", reason="Core ML runs there")
def test_a_runtime_of_another_system_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="arm64-root: Core ML runs on macOS only; it does not run here"):
        make.make_root(Arm64Root(tmp_path / "arm64"), [CoreMl], Progress())
    assert not (tmp_path / "arm64").exists()
