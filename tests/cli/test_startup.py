"""The command line as a process: it starts fast, and it leaves quietly when nobody reads on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from language_world import write_folder, write_tokenizer
from tiny import squeeze

from squeeze.cli.group import COMMANDS

HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "pydantic", "rich", "yaml")
LOOK = f"""
import sys
from squeeze.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code
print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"], ["verify", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", LOOK, *arguments], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_it_runs_as_a_module_too() -> None:
    command = [sys.executable, "-m", "squeeze", "run", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: squeeze run ")


def test_help_is_there_in_less_than_a_third_of_a_second() -> None:
    """Processor time of the fastest of three, so that a busy machine does not fail it."""
    best = min(_processor_seconds() for _ in range(3))
    assert best < 0.3


def _processor_seconds() -> float:
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "squeeze.cli", "--help"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.skipif(find_spec("torchao") is None, reason="executorch is not installed: pip install 'squeeze[mobile]'")
def test_what_the_mobile_extra_brings_writes_nothing_into_a_log(tmp_path: Path) -> None:
    """transformers imports torchao with a decoder's class, and that tells of libraries for other machines."""
    write_tokenizer(write_folder(tmp_path / "model"))
    plan = tmp_path / "plan.yaml"
    plan.write_text("model: {hf: ./model}\nmetrics: [size]\npasses: [{pass: rtn, bits: 4, group_size: 32}]\n")
    call = [sys.executable, "-m", "squeeze.cli", "check", str(plan), "--explain"]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert "rtn" in done.stdout
    assert "torchao" not in done.stderr
    assert "pytree" not in done.stderr


def test_a_confined_process_loads_no_library_that_it_may_not_use() -> None:
    """torch alone takes a second, and each of these another or half of one; scores and answers seldom need them."""
    code = (
        "import sys\nimport squeeze.run.rescore_child, squeeze.runtimes.onnx_decoder, squeeze.runtimes.ort\n"
        "print([name for name in sys.argv[1:] if name in sys.modules])"
    )
    call = [sys.executable, "-c", code, "onnx", "onnx_ir", "onnxscript", "sympy", "scipy.special", "scipy.sparse"]
    call += ["scipy.stats", "scipy.spatial", "sklearn", "transformers", "onnxruntime", "squeeze.training"]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["schema", "passes"])
def test_a_reader_that_goes_away_is_no_error_to_shout_about(command: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # before anything is written
    try:
        call = [sys.executable, "-m", "squeeze.cli", command]
        done = subprocess.run(call, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writing)
    assert (done.stderr, done.returncode) == ("", 141)  # as any tool whose reader went away


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.perf_counter()
    assert squeeze(command, "--help") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: squeeze {command}")
    assert "Example" in out
    assert time.perf_counter() - began < 5


def test_no_arguments_show_the_help_and_fail(capsys: pytest.CaptureFixture[str]) -> None:
    assert squeeze() == 2
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[0]) == ("", "Usage: squeeze [OPTIONS] COMMAND [ARGS]...")
