"""A stranger's package runs in a process of its own: it loads no code, ends at its limits, and speaks to nobody."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hostile_world import Files, sealed
from language_world import write_folder
from onnx import TensorProto, helper
from package_script import unpacked
from silence import heard
from tiny import PLAN, squeeze, write_plan, write_world

from squeeze.errors import VerifyError
from squeeze.models.base import Batch
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.runtimes.ort import OnnxRuntime
from squeeze.targets.base import Packed
from squeeze.targets.bench import Load, bench
from squeeze.targets.check import program_kind
from squeeze.targets.confined import Limits, Stopped, run_confined
from squeeze.targets.genai import Genai
from squeeze.targets.golden import Golden
from squeeze.targets.package import PackageInputs
from squeeze.targets.verify import open_package, verify


def read(path: Path) -> Files:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def genai(tmp_path_factory: pytest.TempPathFactory) -> Files:
    pytest.importorskip("onnxruntime_genai")
    folder = tmp_path_factory.mktemp("genai")
    model = LanguageModel(write_folder(folder / "model", max_position_embeddings=64))
    pieces = PackageInputs("tiny", Batch({"input_ids": torch.tensor([[1, 5, 9, 2]])}), {"passes": []}, {"rows": []})
    (folder / "built").mkdir()
    built = Genai().build(ExportOnnx().run(model, Context()), folder / "built")
    return read(Genai().pack_built(built, pieces, folder / "tiny.zip").path)


def config_with(files: Files, *place: str, value: Any) -> Files:
    """The package with one more value in its GenAI config."""
    config = json.loads(files["model/genai_config.json"])
    inner = config
    for key in place[:-1]:
        inner = inner.setdefault(key, {})
    inner[place[-1]] = value
    return {**files, "model/genai_config.json": json.dumps(config).encode()}


OPTIONS = ("model", "decoder", "session_options")
HOSTILE = {
    "custom ops": ((*OPTIONS, "custom_ops_library"), "libevil.so"),
    "profile": ((*OPTIONS, "enable_profiling"), "/tmp/profile"),
    "another provider": ((*OPTIONS, "provider_options"), [{"cuda": {}}]),
    "any entry": ((*OPTIONS, "session.model_external_initializers_file_folder_path"), "/etc"),
    "a graph elsewhere": (("model", "encoder"), {"filename": "/etc/passwd"}),
    "endless context": (("model", "context_length"), 17_000_000_000),
    "another kind": (("model", "type"), "pipeline"),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_genai_config_says_nothing_but_what_is_allowed(genai: Files, tmp_path: Path, attack: str) -> None:
    place, value = HOSTILE[attack]
    with pytest.raises(VerifyError, match=rf"genai_config\.json: {'.'.join(place[:2])}.*refused$"):
        open_package(sealed(tmp_path / "p.zip", config_with(genai, *place, value=value)))


@pytest.mark.skipif(which("gcc") is None, reason="no gcc to make a hostile library with")
@pytest.mark.parametrize("command", ["verify", "bench"])
def test_a_library_in_a_package_is_never_loaded(genai: Files, tmp_path: Path, command: str, capsys) -> None:
    """The attack itself: a constructor that leaves a mark."""
    mark, source, library = tmp_path / "mark", tmp_path / "evil.c", tmp_path / "libevil.so"
    source.write_text(
        f'#include <stdio.h>\n__attribute__((constructor)) void run(void) {{ fclose(fopen("{mark}", "w")); }}\n'
    )
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    subprocess.run([sys.executable, "-c", f"import ctypes; ctypes.CDLL('{library}')"], check=True)
    assert mark.exists()  # the library does what it is made for
    mark.unlink()
    hostile = config_with(genai, *OPTIONS, "custom_ops_library", value="libevil.so")
    files = {**hostile, "model/libevil.so": library.read_bytes()}
    assert squeeze(command, sealed(tmp_path / "p.zip", files)) == 4
    assert "libevil.so: is no file that onnxruntime-genai reads" in capsys.readouterr().err
    named_as_data = {**genai, "model/libevil.so.data": library.read_bytes()}
    assert squeeze(command, sealed(tmp_path / "p.zip", named_as_data)) == 4
    assert "libevil.so.data: holds a program (ELF); a package holds data only" in capsys.readouterr().err
    assert not mark.exists()
    honest = genai["model/genai_config.json"]
    twice = honest.replace(
        b'"session_options": {',
        b'"session_options": {"custom_ops_library": "libevil.so.data"}, "session_options": {',
        1,
    )
    assert twice != honest
    files = {**genai, "model/genai_config.json": twice, "model/libevil.so.data": b"another kind of program"}
    assert squeeze(command, sealed(tmp_path / "p.zip", files)) == 4
    assert "a key stands twice in one object" in capsys.readouterr().err
    assert not mark.exists()


def test_a_genai_config_has_one_spelling(genai: Files, tmp_path: Path) -> None:
    """What another parser might read otherwise is refused, whatever it means."""
    other = json.dumps(json.loads(genai["model/genai_config.json"])).encode()
    with pytest.raises(VerifyError, match=r"genai_config\.json: is not written as our exports write it"):
        open_package(sealed(tmp_path / "p.zip", {**genai, "model/genai_config.json": other}))


def test_a_config_that_names_code_is_refused(packed: Packed, tmp_path: Path) -> None:
    config = json.dumps({"auto_map": {"AutoModel": "evil.Model"}}).encode()
    with pytest.raises(VerifyError, match=r"config\.json: auto_map: names code to run; a package holds data only"):
        open_package(sealed(tmp_path / "p.zip", {**read(packed.path), "config.json": config}))


@pytest.mark.parametrize("name", ["evil.py", "evil.so", "weights.bin", "weights.pkl", "model.onnx.exe"])
def test_a_kind_of_file_that_no_runtime_reads_is_refused(packed: Packed, tmp_path: Path, name: str) -> None:
    with pytest.raises(VerifyError, match="is no file that onnxruntime reads"):
        open_package(sealed(tmp_path / "p.zip", {**read(packed.path), name: b"x"}))


PE = b"MZ" + bytes(58) + (64).to_bytes(4, "little") + b"PE\0\0"
PROGRAMS = {
    "ELF": b"\x7fELF\x02\x01\x01" + bytes(57),
    "PE": PE,
    "Mach-O": bytes.fromhex("cffaedfe") + bytes(60),
    "Mach-O of several": bytes.fromhex("cafebabe00000002"),
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_program_is_refused_under_any_name_that_a_package_may_hold(packed: Packed, tmp_path: Path, kind: str) -> None:
    """A loader of libraries looks at what a file begins with; a suffix says nothing to it."""
    files = read(packed.path)
    for suffix in OnnxRuntime.beside:
        with pytest.raises(VerifyError, match=rf"lib\{suffix}: holds a program \({kind[:6].strip()}"):
            open_package(sealed(tmp_path / "p.zip", {**files, f"lib{suffix}": PROGRAMS[kind]}))
    with pytest.raises(VerifyError, match="holds a program"):
        open_package(sealed(tmp_path / "p.zip", {**files, "run.py": PROGRAMS[kind]}))


@pytest.mark.parametrize("head", [b"MZ", b"MZ" + bytes(62), b"MZ" + b"\xff" * 62, b"", b"\x7f"])
def test_weights_that_begin_as_a_program_might_are_no_program(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "weights").write_bytes(head)
    assert program_kind(tmp_path / "weights") is None


def test_a_folder_named_as_a_file_is_refused(packed: Packed, tmp_path: Path) -> None:
    package = sealed(tmp_path / "p.zip", read(packed.path))
    with zipfile.ZipFile(package, "a") as archive:
        archive.writestr("run.py/", b"")
    with pytest.raises(VerifyError, match=r"run\.py/: is a folder without files"):
        open_package(package)


def test_a_name_too_long_for_a_file_system_is_refused(packed: Packed, tmp_path: Path) -> None:
    with pytest.raises(VerifyError, match="a name of more than 255 bytes"):
        open_package(sealed(tmp_path / "p.zip", {**read(packed.path), "n" * 300 + ".json": b"{}"}))
    assert squeeze("verify", "n" * 300 + ".zip") == 2


def endless() -> bytes:
    """A loop whose condition never falls."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["x", "x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 8, 8]),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["", "true", "image"], ["logits"], body=body)],
        "endless",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [onnx.numpy_helper.from_array(np.array(True), "true")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def test_a_model_that_never_ends_is_ended(packed: Packed, tmp_path: Path) -> None:
    package = open_package(sealed(tmp_path / "p.zip", {**read(packed.path), "model.onnx": endless()}))
    with pytest.raises(VerifyError, match=r"p\.zip: gave no answer within 2 s; --time-limit would give it more"):
        verify(package, Limits(seconds=2))
    with pytest.raises(VerifyError, match=r"gave no answer within 2\.2 s"):  # 0.1 s are measured, twice at most
        bench(package, load=Load((1,), 0.1), limits=Limits(seconds=2))


def test_memory_files_and_environment_of_a_child_are_limited() -> None:
    with pytest.raises(Stopped, match=r"needs more than 300,000,000 bytes of memory; --memory-limit would"):
        run_confined([sys.executable, "-c", "x = bytearray(1 << 30)"], Limits(memory_bytes=300_000_000), 0)
    with pytest.raises(Stopped, match="ended the runtime by SIGSEGV"):
        run_confined([sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"], Limits(), 0)
    code = "import os, resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 'SECRET' in os.environ)"
    assert run_confined([sys.executable, "-c", code], Limits(), 0).out == "256 False\n"


def test_what_a_child_started_ends_with_it(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    later = f"import time; time.sleep(1.5); open('{mark}', 'w')"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {later!r}]); import time; time.sleep(9)"
    with pytest.raises(Stopped):
        run_confined([sys.executable, "-c", code], Limits(seconds=1), 0)
    subprocess.run([sys.executable, "-c", "import time; time.sleep(1.5)"], check=True)
    assert not mark.exists()


@pytest.mark.parametrize("damage", ["shape", "header", "scalar"])
def test_hostile_golden_arrays_are_one_line(packed: Packed, tmp_path: Path, damage: str, capsys) -> None:
    files = read(packed.path)
    golden = Golden.from_npz(files["golden.npz"], "here")
    if damage == "scalar":
        none = {"image": np.zeros((0, 3, 8, 8), np.float32)}
        files["golden.npz"] = Golden(none, golden.outputs).npz()
    else:
        old, new = (b"(4, 5)", b"(9, 9)") if damage == "shape" else (b"'descr'", b"'desc\xff'")
        assert old in files["golden.npz"]
        files["golden.npz"] = files["golden.npz"].replace(old, new)
    package = sealed(tmp_path / "p.zip", files)
    for command in ("verify", "bench"):
        assert squeeze(command, package) == 4
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        assert "p.zip" in line


def test_a_language_package_is_benched_within_its_limits(genai: Files, tmp_path: Path) -> None:
    package = open_package(sealed(tmp_path / "p.zip", genai))
    assert verify(package).bit_equal
    with pytest.raises(VerifyError, match=r"gave no answer within 0\.02 s"):
        bench(package, 1, Load(prompt=8, tokens=4, rounds=1), Limits(seconds=0.01))


@pytest.mark.parametrize("option", ["--time-limit 0", "--time-limit x", "--memory-limit 8", "--memory-limit -1GB"])
def test_limits_that_make_no_sense_are_the_command_lines_fault(packed: Packed, option: str) -> None:
    assert squeeze("verify", packed.path, *option.split()) == 2


ASKS = "import socket\ntry: socket.getaddrinfo('host.invalid', 80)\nexcept OSError: pass"
LOADS = """
import sys
from pathlib import Path
from squeeze import registry
from squeeze.models.facts import Facts
model = registry.load("runtimes", "onnxruntime-genai").decoder(Path(sys.argv[1]), Facts(0, 0.0))
assert len(model.log_probabilities([1, 5, 9, 2])[0]) == 3
"""
EXPORTED = (
    PLAN.replace('  - pass: "tiny:Scale"\n    factor: 2.0\n', "  - pass: export_onnx\n") + "targets: [{target: cpu}]\n"
)


def test_what_speaks_would_be_heard(tmp_path: Path) -> None:
    """A look-up of a host is counted, and a runtime that nobody silenced begins its queue when it is imported."""
    assert heard([sys.executable, "-c", ASKS], tmp_path / "asks").packets in (None, *range(1, 100))
    assert heard([sys.executable, "-c", "import onnxruntime"], tmp_path / "imports").queue


def test_loading_a_genai_model_speaks_to_nobody(genai: Files, tmp_path: Path) -> None:
    for name, data in genai.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    output = heard([sys.executable, "-c", LOADS, tmp_path / "model"], tmp_path / "home")
    assert (output.packets or 0, output.queue) == (0, [])


def test_a_whole_run_its_package_and_its_script_speak_to_nobody(tmp_path: Path) -> None:
    plan = write_plan(write_world(tmp_path), EXPORTED)
    run = [sys.executable, "-m", "squeeze.cli", "run", plan, "--store", tmp_path / "store", "--out", tmp_path / "out"]
    output = heard(run, tmp_path / "home")
    assert (output.packets or 0, output.queue) == (0, [])
    (package,) = (tmp_path / "out").glob("*.zip")
    script = unpacked(package, tmp_path / "package") / "run.py"
    output = heard([sys.executable, script, "--golden"], tmp_path / "other home")
    assert (output.packets or 0, output.queue) == (0, [])
