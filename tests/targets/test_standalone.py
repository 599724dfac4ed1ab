"""``run.py`` works in an unpacked folder with an isolated Python and says what is wrong in one line."""

from __future__ import annotations

import builtins
import json
import subprocess
import symtable
import sys
from pathlib import Path

import numpy as np
import pytest
from package_script import run_script, unpacked
from PIL import Image

from squeeze import registry
from squeeze.data.preprocess import Preprocess
from squeeze.models.base import Batch
from squeeze.models.onnx_model import OnnxModel
from squeeze.runtimes.base import Call
from squeeze.runtimes.ort import OnnxRuntimeSession
from squeeze.targets.base import Packed
from squeeze.targets.package import PackageInputs
from squeeze.targets.script import script
from squeeze.targets.scripts import rows
from squeeze.targets.scripts.classes import Classes
from squeeze.targets.scripts.pictures import read_input
from squeeze.targets.scripts.shared import Fault


@pytest.fixture(scope="module")
def folder(packed: Packed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(packed.path, tmp_path_factory.mktemp("unpacked"))


def main(arguments: list[str]) -> int:
    """As the package's ``run.py`` would, in this process."""
    return rows.main(OnnxRuntimeSession, Classes, arguments)


def test_it_imports_only_onnxruntime_and_numpy(folder: Path):
    blocked = "import sys; sys.modules.update(dict.fromkeys(['torch', 'squeeze', 'onnx', 'PIL', 'pydantic', 'yaml']));"
    script = str(folder / "run.py")
    code = f"{blocked} sys.argv = ['run.py', '--golden']; import runpy; runpy.run_path({script!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("golden output agrees: difference 0, tolerance 0.001")


def test_an_array_gives_the_top_classes_by_name(folder: Path, model: OnnxModel, batch: Batch, tmp_path: Path):
    np.save(tmp_path / "x.npy", batch.image.numpy()[0])
    done = run_script(folder, str(tmp_path / "x.npy"), "--json", "--top", "3")
    (classes,) = json.loads(done.stdout)["examples"]
    logits = model.predict(batch)[0]
    assert [entry["class"] for entry in classes] == logits.argsort(descending=True)[:3].tolist()
    assert [entry["label"] for entry in classes] == [["ant", "bee", "cat", "dog", "elk"][e["class"]] for e in classes]
    assert classes[0]["probability"] == pytest.approx(float(logits.softmax(0).max()), rel=1e-5)


def test_people_read_one_line_per_class(folder: Path, batch: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    np.save(tmp_path / "x.npy", batch.image.numpy())
    assert main([str(tmp_path / "x.npy"), "--folder", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 * (1 + 5)
    assert lines[0] == "example 0"
    assert lines[1].split()[1:] in [["%", name] for name in ("ant", "bee", "cat", "dog", "elk")]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_picture_is_prepared_as_the_evaluation_data_was(pieces: PackageInputs, tmp_path: Path, mode: str):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 14, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / "x.png")
    spec = {"shape": ["n", 3, 8, 8], "dtype": "float32"}
    result = read_input(tmp_path / "x.png", spec, dict(pieces.preprocessing))
    assert np.array_equal(result[0], Preprocess.model_validate(pieces.preprocessing)(np.asarray(image)))


def test_a_changed_golden_output_is_exit_code_4(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    arrays = dict(np.load(tmp_path / "golden.npz"))
    np.savez(tmp_path / "golden.npz", **{**arrays, "output.logits": arrays["output.logits"] * 2})
    assert main(["--golden", "--folder", str(tmp_path)]) == 4
    assert "golden output DIFFERS: difference 0.5" in capsys.readouterr().out


def test_what_onnxruntime_raises_at_a_damaged_golden_input_is_one_line(folder: Path, tmp_path: Path, capsys):
    """Its exceptions share no base with anything."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    arrays = dict(np.load(tmp_path / "golden.npz"))
    np.savez(tmp_path / "golden.npz", **{**arrays, "input.image": np.zeros((1, 3, 8, 8), np.int8)})
    assert main(["--golden", "--folder", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"run.py: {tmp_path}: not as a package should be (")


def test_a_label_cannot_act_on_the_terminal_that_shows_it(folder: Path, batch: Batch, tmp_path: Path, capsys):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"labels": ["a\x1b[2Jb"] * 5}))
    np.save(tmp_path / "x.npy", batch.inputs["image"].numpy()[0])
    assert main([str(tmp_path / "x.npy"), "--folder", str(tmp_path)]) == 0
    assert "a?[2Jb" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("x.npy", b"nonsense", "x.npy: cannot be read"),
        ("x.jpg", b"nonsense", "x.jpg: cannot be read"),
        ("absent.npy", None, "absent.npy: cannot be read"),
        ("small.npy", np.zeros((3, 9, 9), np.float32), r"small.npy: gives shape \[1, 3, 9, 9\]; the model takes"),
    ],
)
def test_a_bad_input_is_one_line(folder, tmp_path, capsys, name, data, reason):
    if isinstance(data, bytes):
        (tmp_path / name).write_bytes(data)
    elif data is not None:
        np.save(tmp_path / name, data)
    assert main([str(tmp_path / name), "--folder", str(folder)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("run.py: ")
    spec = {"shape": ["n", 3, 8, 8], "dtype": "float32"}
    with pytest.raises(Fault, match=reason):
        read_input(tmp_path / name, spec, {"channels": 3})


def test_a_folder_without_the_rest_of_the_package_is_one_line(folder: Path, tmp_path: Path):
    (tmp_path / "run.py").write_bytes((folder / "run.py").read_bytes())
    done = run_script(tmp_path, "--golden")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "unpack the whole package" in done.stderr


def test_neither_input_nor_golden_is_a_usage_error(folder: Path):
    done = run_script(folder)
    assert done.returncode == 2
    assert "give an input file, --golden or --bench" in done.stderr


def scripts() -> list[tuple[str, str, str]]:
    """Each registered runtime with each way it is called."""
    runtimes = {name: registry.load("runtimes", name) for name in registry.BUILTIN["runtimes"]}
    calls = [(call, name) for name, runtime in runtimes.items() for call in runtime.script]
    kinds = [(call, name, shows) for call, name in calls for shows in ("classes", "numbers") if call == "predict"]
    return [*kinds, *((call, name, "text") for call, name in calls if call == "generate")]


def unknown_names(table: symtable.SymbolTable, known: set[str]) -> set[str]:
    """Global names that a module's functions read and nobody defines."""
    names = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global() and symbol.is_referenced()}
    return (names - known).union(*(unknown_names(inner, known) for inner in table.get_children()))


@pytest.mark.parametrize(("call", "runtime", "shows"), scripts())
def test_every_script_is_whole_and_knows_nothing_of_squeeze(call: Call, runtime: str, shows: str):
    """Also of runtimes that are not installed here: what a runtime's class names stands in its script."""
    text = script(call, runtime, shows)
    module: dict[str, object] = {"__name__": "run", "__file__": "run.py"}
    exec(compile(text, "run.py", "exec"), module)  # imports the standard library, starts nothing
    assert unknown_names(symtable.symtable(text, "run.py", "exec"), {*module, *vars(builtins)}) == set()
    assert "import squeeze" not in text
    assert "from squeeze" not in text
    assert max(map(len, text.splitlines())) <= 120
