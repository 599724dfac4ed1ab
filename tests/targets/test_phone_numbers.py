"""A phone's package holds examples and a script that measures; what the phone prints comes back as numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from package_script import unpacked

from squeeze.errors import VerifyError
from squeeze.models.onnx_model import OnnxModel
from squeeze.targets.apps.phone import TOOLS
from squeeze.targets.base import Packed
from squeeze.targets.mobile import Mobile
from squeeze.targets.package import PackageInputs
from squeeze.targets.verify import open_package, verify

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
