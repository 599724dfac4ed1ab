"""Examples for apps: they parse as Kotlin and Swift, say what the manifest says, and a phone's numbers come back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from package_script import unpacked

from squeeze.data.preprocess import Preprocess
from squeeze.errors import VerifyError
from squeeze.formats.tensor_spec import TensorSpec
from squeeze.models.onnx_model import OnnxModel
from squeeze.targets.apps import app_files
from squeeze.targets.apps.files import kotlin, swift
from squeeze.targets.apps.phone import TOOLS
from squeeze.targets.apps.picture import picture_of
from squeeze.targets.base import Packed
from squeeze.targets.manifest import Manifest, Runtime
from squeeze.targets.mobile import Mobile
from squeeze.targets.package import PackageInputs
from squeeze.targets.verify import open_package, verify

RUNTIMES = ["onnxruntime", "litert", "executorch"]
STEPS = {"resize": 256, "crop": 224, "scale": 1 / 255, "normalize": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}}
STRANGE = 'a "quote" \\ $name ${x} \\(y)\n*/ end'
IMAGE = TensorSpec(name="image", shape=(1, 3, 224, 224), dtype="float32")
# as each tool prints them: onnxruntime's perf_test README, LiteRT on a phone, executor_runner.cpp's format string
PRINTED = {
    "onnxruntime_perf_test": """\
Session creation time cost: 0.512 s
First inference time cost: 12 ms
Total inference time cost: 5.88053 s
Total inference requests: 1000
Average inference time cost total: 5.88053 ms
Total inference run time: 5.88102 s
Number of inferences per second: 170.04
Avg CPU usage: 98 %
Peak working set size: 123456789 bytes
Min Latency: 0.00559777 s
P50 Latency: 0.00587108 s
P90 Latency: 0.00599845 s
""",
    "benchmark_model": """\
INFO: Initialized session in 5.579ms.
INFO: count=1 curr=1357602 p5=1357602 median=1357602 p95=1357602

INFO: count=50 first=1249964 curr=1240143 min=1238588 max=1252566 avg=1.24027e+06 std=2565 median=1239807 p95=1247415

INFO: Inference timings in us: Init: 5579, First inference: 135760, Warmup (avg): 1.3e+06, Inference (avg): 1.24027e+06
INFO: Memory footprint delta from the start of the tool (MB): init=6.36328 overall=109.832
""",
    "executor_runner": """\
I 00:00:00.000493 executorch:executor_runner.cpp:201] Using method forward
I 00:00:00.412345 executorch:executor_runner.cpp:313] Model executed successfully 200 time(s) in 246.913580 ms.
I 00:00:00.412400 executorch:executor_runner.cpp:319] 1 outputs:
""",
}
NUMBERS = {
    "onnxruntime_perf_test": {
        "median_ms": 5.87108,
        "p90_ms": 5.99845,
        "average_ms": 5.88053,
        "load_ms": 512.0,
        "peak_bytes": 123456789.0,
    },
    "benchmark_model": {
        "median_ms": 1239.807,
        "runs": 50.0,
        "average_ms": 1240.27,
        "load_ms": 5.579,
        "memory_bytes": 109.832e6,
    },
    "executor_runner": {"runs": 200.0, "average_ms": 1.2345679},
}
ADB = """\
#!/bin/sh
printf '%s\\n' "$*" >> "$CALLS"
case "$1" in
    get-state) exit "${STATE:-0}" ;;
    shell)
        case "$*" in
            *getprop*manufacturer) printf 'Google\\r\\n' ;;
            *getprop*product.model) printf 'Pixel 8\\r\\n' ;;
            *getprop*soc*) printf 'Tensor G3\\r\\n' ;;
            *getprop*release) printf '15\\r\\n' ;;
            *"cd /data/local/tmp"*) cat "$PRINTED"; exit "${TOOL:-0}" ;;
        esac ;;
esac
"""


def manifest_of(runtime: str, inputs: tuple[TensorSpec, ...] = (IMAGE,), **changes: Any) -> Manifest:
    endings = {"onnxruntime": "model.ort", "litert": "model.tflite", "executorch": "model.pte", "coreml": ""}
    values: dict[str, Any] = {
        "name": "tiny",
        "target": "mobile",
        "runtime": Runtime(name=runtime, version="1.2.3"),
        "model": endings[runtime],
        "inputs": inputs,
        "outputs": (TensorSpec(name="logits", shape=(1, 3), dtype="float32"),),
        "tolerance": 0.01,
        "preprocessing": STEPS,
        "labels": ("ant", "bee", "cat"),
        "parameters": 1,
        "macs": 1,
        "provenance": {},
        "files": {},
    }
    return Manifest(**(values | changes))


def shapes(runtime: str) -> Iterator[tuple[str, Manifest]]:
    """Every way in which the templates branch."""
    yield "picture", manifest_of(runtime)
    yield "two sides", manifest_of(runtime, preprocessing={**STEPS, "resize": [224, 224]})
    yield (
        "grey",
        manifest_of(
            runtime, (TensorSpec(name="image", shape=(1, 1, 28, 28), dtype="float32"),), preprocessing={"channels": 1}
        ),
    )
    yield "bare", manifest_of(runtime, preprocessing={}, labels=None)
    tokens = [TensorSpec(name=n, shape=("batch", "length"), dtype="int64") for n in ("input_ids", "attention_mask")]
    yield "tokens", manifest_of(runtime, tuple(tokens), preprocessing={"tokenizer": "tokenizer.json"}, labels=None)
    strange = TensorSpec(name=STRANGE, shape=(1, 3, 224, 224), dtype="float32")
    outputs = (TensorSpec(name=STRANGE, shape=(1, 3), dtype="float32"),)
    yield "strange", manifest_of(runtime, (strange,), name=STRANGE, outputs=outputs)


def test_core_ml_has_an_example_for_ios_alone() -> None:
    """Which names the folder that Xcode compiles, not the file that the manifest points at."""
    manifest = manifest_of("coreml", model="model.mlpackage/Data/com.apple.CoreML/model.mlmodel")
    cases: list[dict[str, Any]] = [{}, {"labels": None, "preprocessing": {}}, {"name": STRANGE}]
    for changes in cases:
        files = app_files(manifest.model_copy(update=changes))
        assert set(files) == {"app/Model.swift"}
        assert not faults_of(files["app/Model.swift"], "swift")
    text = app_files(manifest)["app/Model.swift"].decode()
    assert 'Model.resource("model.mlmodelc")' in text
    assert '"image": MLFeatureValue(shapedArray: array0)' in text
    assert 'featureValue(for: "logits")' in text


def text_manifest() -> Manifest:
    return manifest_of("executorch", task="generate", model="model/model.pte", preprocessing={}, labels=None)


CASES = [(runtime, what, manifest) for runtime in RUNTIMES for what, manifest in shapes(runtime)]
CASES.append(("executorch", "text", text_manifest()))


def faults_of(source: bytes, language: str) -> list[str]:
    """Lines that a parser cannot make sense of."""
    tree_sitter = pytest.importorskip("tree_sitter", reason="pip install 'squeeze[dev]' brings the parsers")
    grammar = pytest.importorskip(f"tree_sitter_{language}", reason="pip install 'squeeze[dev]' brings the parsers")
    tree = tree_sitter.Parser(tree_sitter.Language(grammar.language())).parse(source)
    nodes, wrong = [tree.root_node], []
    while nodes:
        node = nodes.pop()
        if node.type == "ERROR" or node.is_missing:
            wrong.append(f"line {node.start_point[0] + 1}: {node.text.decode()[:60]}")
        nodes += node.children
    return wrong


@pytest.mark.parametrize(("runtime", "what", "manifest"), CASES, ids=[f"{r} {w}" for r, w, _ in CASES])
def test_examples_are_kotlin_and_swift(runtime: str, what: str, manifest: Manifest) -> None:
    files = app_files(manifest)
    assert not faults_of(files["app/Model.kt"], "kotlin"), (runtime, what)
    assert not faults_of(files["app/Model.swift"], "swift"), (runtime, what)


@pytest.mark.parametrize(("language", "name"), [("kotlin", "app/Model.kt"), ("swift", "app/Model.swift")])
def test_the_parsers_see_a_missing_bracket(language: str, name: str) -> None:
    source = app_files(manifest_of("litert"))[name]
    assert faults_of(source.replace(b"(", b"", 1).replace(b"{", b"", 1), language)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_no_template_is_left_in_the_examples_and_lines_are_short(runtime: str) -> None:
    for name, source in app_files(manifest_of(runtime)).items():
        text = source.decode()
        assert "{%" not in text, name
        assert "{{" not in text, name
        assert max(map(len, text.splitlines())) <= 160, name


@pytest.mark.parametrize("name", ["app/Model.kt", "app/Model.swift"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_example_says_what_the_manifest_says(runtime: str, name: str) -> None:
    manifest = manifest_of(runtime)
    text = app_files(manifest)[name].decode()
    assert f'"{manifest.model}"' in text
    assert "float32 [1, 3, 224, 224]" in text
    assert "manifest.json" in text
    if runtime != "litert":  # whose buffers know their shapes
        assert "1, 3, 224, 224)" in text or "[1, 3, 224, 224])" in text
    if runtime == "onnxruntime":  # the others go by place
        assert '"image"' in text
        assert '"logits"' in text
    assert manifest.runtime.version in text or (runtime, name) in [
        ("litert", "app/Model.swift"),
        ("onnxruntime", "app/Model.swift"),
    ]


def test_the_numbers_of_a_picture_are_those_of_the_evaluation_data() -> None:
    """``pixel * factor + offset`` for each channel is what Preprocess computes."""
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    picture = picture_of(IMAGE, STEPS)
    assert picture is not None
    assert (picture.short, picture.height, picture.width) == (256, 224, 224)
    factors, offsets = (np.array(each, np.float32)[:, None, None] for each in (picture.factors, picture.offsets))
    expected = Preprocess(normalize=STEPS["normalize"])(pixels)
    assert np.allclose(pixels.transpose(2, 0, 1) * factors + offsets, expected, atol=1e-5)


def test_strings_of_strangers_stay_strings() -> None:
    assert kotlin(STRANGE) == r'"a \"quote\" \\ \$name \${x} \\(y)\n*/ end"'
    assert swift(STRANGE) == r'"a \"quote\" \\ $name ${x} \\(y)\u{a}*/ end"'


@pytest.mark.parametrize(
    "changes",
    [
        {"target": "cpu"},
        {"inputs": (TensorSpec(name="x", shape=(1, 4), dtype="float16"),)},
        {"inputs": (TensorSpec(name="x", shape=(1, "a", "b"), dtype="float32"),)},
    ],
    ids=["no phone", "no such type", "two free sizes"],
)
def test_what_no_example_can_say_has_none(changes: dict[str, Any]) -> None:
    assert app_files(manifest_of("onnxruntime", **changes)) == {}


def test_a_text_has_examples_and_no_tool_that_measures_it() -> None:
    assert set(app_files(text_manifest())) == {"app/Model.kt", "app/Model.swift"}


@pytest.fixture(scope="module")
def packed(model: OnnxModel, pieces: PackageInputs, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return Mobile().pack(model, pieces, tmp_path_factory.mktemp("apps") / "tiny.zip")


def test_a_phones_package_holds_them_with_their_sums_and_the_same_bytes(
    packed: Packed, model: OnnxModel, pieces: PackageInputs, tmp_path: Path
) -> None:
    names = {"app/Model.kt", "app/Model.swift", "app/measure.sh", "app/phone.py"}
    assert names < set(open_package(packed.path).manifest.files)
    assert Mobile().pack(model, pieces, tmp_path / "tiny.zip").digest == packed.digest
    with zipfile.ZipFile(packed.path) as archive:
        assert "`app/Model.kt`: how an Android app loads the model" in archive.read("README.md").decode()


def test_an_example_that_was_changed_is_refused(packed: Packed, tmp_path: Path) -> None:
    file = unpacked(packed.path, tmp_path) / "app/Model.kt"
    file.write_text(file.read_text().replace("model.ort", "other.ort"))
    with pytest.raises(VerifyError, match=r"app/Model\.kt: (sha256|has)"):
        open_package(tmp_path)


def test_a_script_of_another_name_is_refused(packed: Packed, tmp_path: Path) -> None:
    (unpacked(packed.path, tmp_path) / "app/more.sh").write_text("echo")
    with pytest.raises(VerifyError, match=r"app/more\.sh: is not in the manifest"):
        open_package(tmp_path)


@pytest.mark.parametrize("tool", sorted(TOOLS))
def test_numbers_are_read_as_the_tools_print_them(tool: str) -> None:
    assert TOOLS[tool](PRINTED[tool]) == pytest.approx(NUMBERS[tool])


def test_an_older_tools_lines_are_read_too() -> None:
    old = "Average inference time cost: 144.871 ms\nP50 Latency is 0.0587108 sec\n"
    assert TOOLS["onnxruntime_perf_test"](old) == pytest.approx({"average_ms": 144.871, "median_ms": 58.7108})


def test_another_method_than_the_model_is_no_measurement() -> None:
    assert TOOLS["executor_runner"](PRINTED["executor_runner"].replace("forward", "names")) == {}


class Phone:
    """An adb that answers as a phone would, and notes what it was told."""

    def __init__(self, folder: Path, package: Path, tool: str) -> None:
        self.folder, self.package, self.tool = folder, package, folder / tool
        (folder / "bin").mkdir()
        (folder / "bin/adb").write_text(ADB)
        (folder / "bin/adb").chmod(0o755)
        self.tool.write_text("a program of the phone's processor")
        (folder / "printed").write_text(PRINTED[tool].replace("\n", "\r\n"))
        self.calls = folder / "calls"
        self.calls.touch()

    def measure(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.folder / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin"
        given = {"PATH": path, "CALLS": str(self.calls), "PRINTED": str(self.folder / "printed")} | environment
        command = ["sh", str(self.package / "app/measure.sh"), *map(str, arguments)]
        return subprocess.run(command, env=os.environ | given, capture_output=True, text=True)


@pytest.fixture
def phone(packed: Packed, tmp_path: Path) -> Phone:
    return Phone(tmp_path, unpacked(packed.path, tmp_path / "package"), "onnxruntime_perf_test")


def test_a_phones_numbers_come_back_into_measurements(phone: Phone) -> None:
    done = phone.measure(phone.tool, 2, 50)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "noted in measurements.json: Google Pixel 8, 2 threads, 5.871 ms"
    noted = json.loads((phone.package / "measurements.json").read_text())
    assert noted["median_ms"] == 1.5  # what the package's maker measured stays
    (entry,) = noted["phones"]
    assert entry.pop("date").startswith("20")
    assert entry.pop("numbers") == pytest.approx(NUMBERS["onnxruntime_perf_test"])
    about = {"device": "Google Pixel 8", "chip": "Tensor G3", "android": "15"}
    assert entry == about | {"tool": "onnxruntime_perf_test", "threads": 2}
    assert verify(open_package(phone.package)).bit_equal  # the digest leaves measurements out


def test_what_is_pushed_and_run_is_the_package_and_is_cleared_away(phone: Phone) -> None:
    assert phone.measure(phone.tool, 4, 30).returncode == 0
    calls = phone.calls.read_text().splitlines()
    pushed = [call.split() for call in calls if call.startswith("push")]
    assert [Path(words[1]).name for words in pushed] == ["onnxruntime_perf_test", "model.ort"]
    (run,) = [call for call in calls if "cd /data/local/tmp" in call]
    assert "./onnxruntime_perf_test -I -s -m times -r 30 -x 4 model.ort" in run
    assert calls[-1].startswith("shell rm -rf /data/local/tmp/squeeze-")


def test_a_second_phone_is_noted_behind_the_first(phone: Phone) -> None:
    assert phone.measure(phone.tool).returncode == phone.measure(phone.tool).returncode == 0
    assert len(json.loads((phone.package / "measurements.json").read_text())["phones"]) == 2


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ([], {}, "which tool? the path of onnxruntime_perf_test"),
        (["gone"], {}, "gone: no such file"),
        (["TOOL", "two"], {}, "two threads and 200 runs are no numbers"),
        (["TOOL"], {"STATE": "1"}, "adb finds no phone, or several"),
        (["TOOL"], {"TOOL": "1"}, "onnxruntime_perf_test ended with an error"),
        (["TOOL"], {"PRINTED": "/dev/null"}, "printed no time; nothing is noted"),
    ],
    ids=["no tool", "no such tool", "no number", "no phone", "tool fails", "no numbers"],
)
def test_what_goes_wrong_is_told_and_nothing_is_noted(
    phone: Phone, arguments: list[str], environment: dict[str, str], message: str
) -> None:
    done = phone.measure(*[phone.tool if one == "TOOL" else one for one in arguments], **environment)
    assert done.returncode != 0
    assert message in done.stderr
    assert "phones" not in json.loads((phone.package / "measurements.json").read_text())


def test_no_adb_is_told(phone: Phone) -> None:
    (phone.folder / "bin/adb").unlink()
    done = phone.measure(phone.tool, PATH=f"{phone.folder / 'bin'}:{only_these(phone.folder)}")
    assert done.returncode == 1
    assert done.stderr.strip() == "measure.sh: no adb; Android's platform tools bring it"


def only_these(folder: Path) -> Path:
    """A folder with what the script needs but adb."""
    tools = folder / "tools"
    tools.mkdir()
    for name in ("sh", "dirname"):
        (tools / name).symlink_to(
            Path("/usr/bin") / name if (Path("/usr/bin") / name).exists() else Path("/bin") / name
        )
    return tools


def test_measurements_that_are_none_are_left_alone(phone: Phone) -> None:
    (phone.package / "measurements.json").write_text("[1]\n")
    done = phone.measure(phone.tool)
    assert done.returncode != 0
    assert "phone.py: " in done.stderr
    assert "is none of a package's; unpack the package again" in done.stderr
    assert (phone.package / "measurements.json").read_text() == "[1]\n"
