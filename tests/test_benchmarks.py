"""Benchmarks take any model and text, and what is not there is one line; what they measure is their own business."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from language_world import LETTERS, write_folder, write_tokenizer

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = {path.stem: path.read_text() for path in sorted(BENCHMARKS.glob("[a-z]*.py"))}
GIVEN_A_FOLDER = ('"--real"', "add_real(", "from _teaching import")
OF_ANY_MODEL = ["decode", "gptq_perplexity", "memory", "sparsity"]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks import each other as scripts do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def world(tmp_path: Path) -> Path:
    write_tokenizer(write_folder(tmp_path / "model"))
    for name, letters in (("calibrate", LETTERS), ("evaluate", LETTERS[::-1])):
        (tmp_path / f"{name}.txt").write_text(letters * 20)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> None:
    """As the command line would, in this process."""
    module: ModuleType = importlib.import_module(name)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    importlib.import_module("_inputs").run(module.main)


def fault(capsys: pytest.CaptureFixture[str], error: pytest.ExceptionInfo[SystemExit]) -> str:
    """What the user reads."""
    return str(error.value) if error.value.code not in (None, 2) else capsys.readouterr().err.rstrip("\n")


@pytest.mark.usefixtures("scripts")
@pytest.mark.parametrize("name", list(SCRIPTS))
def test_every_script_finds_what_it_imports(name: str) -> None:
    assert callable(importlib.import_module(name).main)


@pytest.mark.parametrize("name", [name for name in SCRIPTS if any(word in SCRIPTS[name] for word in GIVEN_A_FOLDER)])
def test_a_benchmark_that_is_given_a_folder_asks_whether_it_is_there(name: str) -> None:
    assert "argparse.ArgumentParser(" not in SCRIPTS[name]  # ours says faults in one line
    assert '"--real", type=Path' not in SCRIPTS[name]
    assert SCRIPTS[name].endswith("    run(main)\n")


@pytest.mark.usefixtures("scripts")
@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("sparsity", ["--length", "0"], "argument --length: 0 is none; a whole number from 1 on would do"),
        ("separable", ["--epochs", "-1"], "argument --epochs: -1 is none; a whole number from 1 on would do"),
        (
            "cached_teacher",
            ["--cached", "257"],
            "argument --cached: 257 is none; a whole number from 1 to 256 would do",
        ),
        ("peers", ["--make", "/dev/null/x"], "--make: /dev/null/x cannot be made a folder (Not a directory)"),
    ],
)
def test_a_number_or_a_place_that_cannot_be_is_one_line(
    name: str, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        run(monkeypatch, name, *arguments)
    assert fault(capsys, error) == f"{name}.py: {message}"


@pytest.mark.usefixtures("scripts")
@pytest.mark.parametrize("name", ["cached_teacher", "chosen_data", "decode", "gptq_perplexity", "synthetic_text"])
def test_a_folder_of_real_data_that_is_absent_is_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        run(monkeypatch, name, "--real", "nowhere")
    assert fault(capsys, error) == f"{name}.py: argument --real: nowhere is no folder"


@pytest.mark.usefixtures("scripts")
@pytest.mark.parametrize("name", OF_ANY_MODEL)
def test_a_model_that_is_absent_is_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        run(monkeypatch, name, "--model", "nowhere")
    message = fault(capsys, error)
    assert message == f"{name}.py: argument --model: nowhere is neither a folder with config.json nor a .gguf file"


@pytest.mark.usefixtures("scripts")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grid", "4"], "argument --grid: 4 is no grid; 4:64 would be 4 bits in groups of 64"),
        (["--calibrate", "nowhere.txt"], "argument --calibrate: nowhere.txt is no file"),
        (["--peers", "nowhere"], "argument --peers: nowhere is no folder"),
        (["--peer-python", "gptq=python"], "--peer-python gptq=python: PEER=PLACE with a place that is there; peers: "),
        (["--real", "."], "--model: .*models/prose6M is neither .*; name one, or the folder of real models"),
    ],
    ids=["no group", "no text", "no environments", "no such peer", "not the folder of real models"],
)
def test_arguments_that_cannot_be_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        run(monkeypatch, "gptq_perplexity", *arguments)
    line = fault(capsys, error)
    assert re.search(message, line), line
    assert "\n" not in line


@pytest.mark.usefixtures("scripts")
def test_a_model_that_cannot_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(SystemExit) as error:
        run(monkeypatch, "decode", "--model", tmp_path / "model.gguf")
    assert re.fullmatch(r"decode\.py: .*model\.gguf.*", fault(capsys, error))


@pytest.mark.usefixtures("scripts")
def test_perplexity_is_compared_on_any_model_and_text(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    candidates = importlib.import_module("_perplexity_candidates")

    def in_this_process(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", command[1:])
        candidates.main()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", in_this_process)  # importing torch once more would take seconds
    texts = [f"--{name}={world / name}.txt" for name in ("calibrate", "evaluate")]
    sizes = ["--samples=2", "--length=16", "--scored=8", "--grid=3:32", "--only", "rtn"]
    run(monkeypatch, "gptq_perplexity", f"--model={world / 'model'}", *texts, *sizes, "--threads=1")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("model, original perplexity ")
    assert lines[0].endswith("over 120 tokens; calibrated on 2 sequences of 16 tokens")
    assert lines[2] == "3 bits, group 32, symmetric"
    assert lines[-1].startswith("rtn ")


@pytest.mark.usefixtures("scripts")
@pytest.mark.parametrize("goal", ["1.5", "0", "half", "3:4", "nan"])
def test_a_goal_that_cannot_be_is_one_line(
    goal: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        run(monkeypatch, "sparsity", "--goals", goal)
    message = f"{goal} is no goal; a ratio between 0 and 1, 2:4 or 4:8 would be"
    assert fault(capsys, error) == f"sparsity.py: argument --goals: {message}"


@pytest.mark.usefixtures("scripts")
def test_sparse_weights_are_compared_on_any_model_and_text(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [f"--{name}={world / name}.txt" for name in ("calibrate", "evaluate")]
    sizes = ["--samples=8", "--scored=8", "--length=16", "--goals", "2:4"]
    run(monkeypatch, "sparsity", f"--model={world / 'model'}", *texts, *sizes)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("original ")
    assert [line.split()[:4] for line in lines[1:]] == [
        ["2:4", method, "zeros", "50.00"] for method in ("sparsegpt", "wanda", "magnitude")
    ]


@pytest.mark.usefixtures("scripts")
def test_speed_is_measured_on_any_model(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decode = importlib.import_module("decode")
    for other in ("genai", "built_by_genai", "llama_cpp"):  # minutes, and other packages
        monkeypatch.setattr(decode, other, absent)
    sizes = ["--rounds=2", "--prompt=16", "--new=2", "--threads=1"]
    run(monkeypatch, "decode", "--model", world / "model", "--evaluate", world / "evaluate.txt", *sizes)
    out = capsys.readouterr().out
    assert "\nmodel, 1 threads, 16 tokens read, 2 written\n" in out
    assert "\nours, int4, ONNX Runtime " in out


def absent(*_: object) -> None:
    raise ImportError("left out of this test")


@pytest.mark.usefixtures("scripts")
def test_the_peers_of_an_environment_are_those_that_are_compared() -> None:
    peers, candidates = importlib.import_module("peers"), importlib.import_module("_perplexity_candidates")
    assert peers.REQUIREMENTS.keys() == candidates.PEERS.keys() == peers.MODULES.keys()


@pytest.mark.usefixtures("scripts")
def test_an_environment_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peers = importlib.import_module("peers")
    python = peers.python_of(tmp_path, "auto-round")
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho 'no such version' >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(SystemExit, match="not made: auto-round"):
        run(monkeypatch, "peers", "--make", tmp_path, "--only", "auto-round")
    assert capsys.readouterr().out == f"{'auto-round':<19}failed: no such version\n"


@pytest.mark.usefixtures("scripts")
def test_pruned_decoders_are_compared_before_and_after_as_much_distillation(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = importlib.import_module("pruning_language")
    monkeypatch.setattr(bench, "TRAINED_LENGTH", 16)
    monkeypatch.setattr(bench, "ALIGN", 1)
    (world / "train.txt").write_text(LETTERS[1:] * 20)
    texts = [f"--{name}={world / name}.txt" for name in ("calibrate", "evaluate")]
    sizes = ["--samples=8", "--scored=8", "--length=16", "--parameters=0.9", "--only", "prune_width", "magnitude"]
    taught = ["--recover", world / "train.txt", "--steps=2"]
    run(monkeypatch, "pruning_language", f"--model={world / 'model'}", *texts, *sizes, *taught)
    lines, steps = capsys.readouterr().out.splitlines(), "+ 2 steps"
    assert [line[:14].strip() for line in lines[1:]] == ["original", "prune_width", steps, "magnitude", steps]
    assert ["x " in line for line in lines[1:]] == [False, False, False, True, True]


@pytest.mark.usefixtures("scripts")
def test_blocks_replaced_by_maps_are_those_that_were_skipped_before_and_are_measured_once(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    depth = importlib.import_module("squeeze.passes.prune.prune_depth")
    measured, measure = list[frozenset[int]](), depth.loss_without

    def noted(*arguments: Any) -> float:
        measured.append(arguments[2])
        return float(measure(*arguments))

    monkeypatch.setattr(depth, "loss_without", noted)
    texts = [f"--{name}={world / name}.txt" for name in ("calibrate", "evaluate")]
    sizes = ["--samples=8", "--depth-samples=4", "--scored=8", "--length=16", "--parameters=0.9"]
    run(
        monkeypatch,
        "pruning_language",
        f"--model={world / 'model'}",
        *texts,
        *sizes,
        "--only",
        "prune_depth",
        "depth-maps",
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line[:14].strip() for line in lines[1:]] == ["original", "prune_depth", "depth-maps"]
    assert measured.count(frozenset({0})) == 1
