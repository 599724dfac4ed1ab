"""Every fault of a user: one line that says where, what and what would be right, and the right exit code. No traces."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import PLAN, squeeze, write_npz, write_plan, write_world

from squeeze import registry

OK, FAILED, WRONG, BROKEN, UNVERIFIED = 0, 1, 2, 3, 4


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(write_world(tmp_path))
    return tmp_path


def stderr(capsys: pytest.CaptureFixture[str]) -> str:
    """Standard error; standard output is empty and nothing looks like a trace."""
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rnu plan.yaml", "squeeze: no command 'rnu'; did you mean 'run'?"),
        ("run", "squeeze: Missing argument 'PLAN'."),
        ("check plan.yaml other.yaml", "squeeze: Got unexpected extra argument (other.yaml)"),
        ("check plan.yaml --expalin", "squeeze: No such option '--expalin'. Did you mean '--explain'?"),
        ("check gone.yaml", "gone.yaml: cannot be read (No such file or directory)"),
        ("run gone.yaml", "gone.yaml: cannot be read (No such file or directory)"),
        ("check .", ".: cannot be read (Is a directory)"),
        ("check plan.yaml --set passes.7.factor=1", "--set: passes.7.factor: no element '7'; there are 1, counted"),
        ("check plan.yaml --set passes.0.factor=[", "--set: passes.0.factor: '[' is not YAML"),
        ("check plan.yaml --var real", "--var real: not of the form NAME=VALUE"),
        ("run plan.yaml --out plan.yaml", "--out plan.yaml: cannot be made (File exists); another folder would do"),
        (
            "inspect gone.onnx",
            "gone.onnx: no such folder, .onnx or .gguf file, plan, module:factory or builtin (",
        ),
        ("inspect digit-cnn", "digit-cnn: no such folder"),
        ("inspect .", ".: "),
        ("inspect digits-cnn --input 1,x,8", "--input 1,x,8: not a shape; 3,32,32 would be one"),
        ("inspect tiny:network", "tiny:network: the shape of one example is not known; --input 3,32,32 would say it"),
        ("inspect tiny:netwrok --input 3,8,8", "tiny:netwrok: tiny:netwrok: 'tiny' has no 'netwrok'; did you mean"),
        ("inspect tiny:raises --input 3,8,8", "tiny:raises: tiny:raises raised RuntimeError: no disk (tiny.py:"),
        ("passes prune_chanels", "unknown pass 'prune_chanels'; did you mean 'prune_channels'?"),
        ("passes os:getcwd", "pass 'os:getcwd': <built-in function getcwd> is no class"),
        ("metrics top2", "unknown metric 'top2'; did you mean 'top"),
        ("targets cup", "unknown target 'cup'; did you mean 'cpu'?"),
        ("report gone", "gone: no report.json there; squeeze run PLAN --out gone would write one"),
        ("store list --store gone", "gone: no store here; --store names one"),
        ("store prune --older-than week", "--older-than week: not an age; 30m, 12h, 7d or 4w would be one"),
        ("store prune", "squeeze: Missing option '--older-than'."),
        ("init plan.yaml", "plan.yaml is there already; --force overwrites it"),
        ("init gone/plan.yaml", "gone/plan.yaml: the folder gone does not exist"),
        ("init .", ". is a folder; plan.yaml would be a plan's name"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    world: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    write_plan(world)
    assert squeeze(*line.split()) == WRONG
    err = stderr(capsys)
    assert err.startswith(message), err
    assert len(err.splitlines()) == 1


def test_a_wrong_plan_shows_every_fault_with_its_line_and_exit_code_2(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plan(world, PLAN, ("top1", "top9"), ("factor", "fcator"))
    assert squeeze("run", "plan.yaml") == WRONG
    assert [line.partition(" ")[0] for line in stderr(capsys).splitlines()] == ["plan.yaml:5:", "plan.yaml:8:"]
    assert not (world / ".squeeze").exists()


def test_calibration_that_overlaps_evaluation_is_a_fault_of_the_plan(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plan(world, PLAN, ("calibrate.npz", "evaluate.npz"))
    assert squeeze("run", "plan.yaml", "--out", "out") == WRONG
    assert stderr(capsys).startswith("plan.yaml:3: data.evaluate: 12 of 12 examples are also in data.calibrate;")


def test_calibration_that_looks_like_evaluation_is_a_warning(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with np.load(world / "evaluate.npz") as evaluate:
        write_npz(world / "calibrate.npz", 3, images=evaluate["images"][:3, :, ::-1].copy())
    write_plan(world)
    assert squeeze("check", "plan.yaml", "--data") == 0
    warning = (
        "data.evaluate: 3 of 12 examples (example 0 like example 0; example 1 like example 1; ...) look the same as"
    )
    assert warning in capsys.readouterr().out
    assert squeeze("run", "plan.yaml", "--out", "out") == 0
    assert warning in capsys.readouterr().err
    for report in ("report.json", "report.md", "report.html"):
        assert warning in (world / "out" / report).read_text()


def test_calibration_data_of_another_shape_is_a_fault_of_the_plan(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_npz(world / "calibrate.npz", 12, images=np.zeros((12, 9, 9, 3), np.uint8))
    write_plan(world)
    assert squeeze("run", "plan.yaml", "--out", "out") == WRONG
    assert stderr(capsys).startswith("plan.yaml:4: data.calibrate: an example is 3 x 9 x 9; the model takes 3 x 6 x 6")


def test_labels_that_the_model_does_not_know_are_a_fault_of_the_plan(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_npz(world / "evaluate.npz", seed=1, labels=np.arange(12))
    write_plan(world)
    assert squeeze("run", "plan.yaml", "--out", "out") == WRONG
    assert stderr(capsys).startswith("plan.yaml:3: data.evaluate: label 11 is outside the model's 4 classes, 0 to 3")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut", "tiny.safetensors: not a whole safetensors file"),
        ("nan", "tiny.safetensors: '4.bias' holds values that are not finite"),
        ("shape", "tiny.safetensors: '4.bias' has shape [5]; the model has [4]"),
    ],
)
def test_a_model_file_that_is_damaged_fails_the_run_in_one_line(
    world: Path, capsys: pytest.CaptureFixture[str], damage: str, message: str
) -> None:
    from safetensors.torch import load_file, save_file

    path = world / "tiny.safetensors"
    weights = load_file(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:200])
    else:
        bias = torch.full((4,), float("nan")) if damage == "nan" else torch.zeros(5)
        save_file(weights | {"4.bias": bias}, path)
    write_plan(world)
    assert squeeze("run", "plan.yaml", "--out", "out") == FAILED
    err = stderr(capsys)
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_useless_pass_fails_by_name_and_keeps_nothing(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(world, PLAN, ("factor: 2.0", "factor: 1.0"))
    assert squeeze("run", "plan.yaml", "--out", "out", "--store", "store") == FAILED
    assert "scale promises changed weights, but wrote the very bytes that it was given" in capsys.readouterr().err
    assert squeeze("store", "list", "--store", "store", "--json") == OK
    assert "scale" not in [entry["what"] for entry in json.loads(capsys.readouterr().out)]


def test_a_broken_budget_is_exit_code_3_and_the_report_is_written(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plan(world, PLAN + "budget: {size: '<= 30 %'}\n")
    assert squeeze("run", "plan.yaml", "--out", "out") == BROKEN
    assert "size_bytes: <= 30 % of the original: measured 100.0 %: broken" in capsys.readouterr().err
    assert (world / "out" / "report.json").is_file()


@pytest.mark.parametrize("command", ["verify", "bench"])
def test_what_is_no_package_does_not_verify(world: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    (world / "package.zip").write_text("hello")
    assert squeeze(command, "package.zip") == UNVERIFIED
    err = stderr(capsys)
    assert err.startswith("package.zip: ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(("name", "how", "code"), [("Interrupt", "interrupted", 130), ("Terminate", "terminated", 143)])
def test_a_run_that_is_stopped_says_what_is_finished_and_how_to_go_on(
    world: Path, capsys: pytest.CaptureFixture[str], name: str, how: str, code: int
) -> None:
    """Ctrl-C and SIGTERM."""
    write_plan(world, PLAN + f'  - pass: "tiny:{name}"\n')
    assert squeeze("run", "plan.yaml", "--out", "out", "--store", "store") == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == (
        f"squeeze: {how}; finished: original, scale; every finished pass is kept in the store, "
        "and the same command goes on from there"
    )
    squeeze("store", "list", "--store", "store", "--json")
    assert "scale" in [entry["what"] for entry in json.loads(capsys.readouterr().out)]


def test_an_end_of_file_inside_is_our_fault_and_no_interrupt(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import squeeze.plan.check as checking

    def broken(*_: object) -> None:
        raise EOFError("a reader of ours")

    monkeypatch.setattr(checking, "check", broken)
    write_plan(world)
    with pytest.raises(EOFError, match="a reader of ours"):
        squeeze("check", "plan.yaml")


@pytest.mark.usefixtures("world")
def test_the_starter_plan_checks(capsys: pytest.CaptureFixture[str]) -> None:
    assert squeeze("init", "new.yaml") == OK
    assert squeeze("check", "new.yaml") == OK
    assert "no faults" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(registry.BUILTIN["metrics"]))
def test_every_metric_says_its_limits(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert squeeze("metrics", name) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  Limits: ")]
    assert "its author names none" not in line


@pytest.mark.parametrize(
    "words", [("report",), ("init",), ("bench",), ("verify",), ("check",), ("run", "plan.yaml", "--out")], ids=" ".join
)
def test_a_path_that_no_file_system_holds_is_a_usage_fault(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    for path in ("x" * 300, "a\0b", "x/" * 3000):
        assert squeeze(*words, path) == WRONG
        assert "file system holds" in stderr(capsys)
