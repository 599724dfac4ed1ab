"""What the README shows is true: its Python runs, its plan is the demo's, its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import squeeze as sq
from squeeze.api import check, load
from squeeze.cli.group import COMMANDS
from squeeze.run import builtin

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.S)


def blocks(language: str, containing: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language and containing in text]


def test_the_python_example_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    short = sq.Finetune(epochs=1, optimizer="sgd", learning_rate=0.05, batch_size=64)
    monkeypatch.setattr(builtin, "TRAINING", short)  # the network to compress is not what the example shows
    (example,) = blocks("python", "sq.Plan(")
    names: dict[str, object] = {}
    exec(example, names)  # the README's own code
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "original",
        "prune_channels",
        "finetune",
        "export_onnx",
        "quantize_static",
        "cpu",
    ]
    assert (tmp_path / "squeeze-out/api/plan-cpu.zip").exists()


def test_the_readmes_own_pass_runs_in_a_plan(tmp_path: Path) -> None:
    (example,) = blocks("python", "class Sharpen")
    (tmp_path / "sharpen.py").write_text(example)
    (tmp_path / "plan.yaml").write_text(
        "model: {builtin: digits-cnn}\n"
        "data: {evaluate: {builtin: digits, split: evaluate}}\n"
        "passes:\n"
        '  - {pass: "sharpen:Sharpen", factor: 2.0}\n'
    )
    plan = load(tmp_path / "plan.yaml")
    assert check(plan) == []
    assert [step.pass_.name for step in plan.steps] == ["sharpen"]


def test_the_readmes_plan_is_the_demos_plan() -> None:
    (block,) = blocks("yaml", "pass: prune_channels")
    assert yaml.safe_load(block) == yaml.safe_load((ROOT / "plans/digits.yaml").read_text())


def test_every_command_and_make_target_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`?\bmake ([a-z]+)", README)) <= targets | {"a"}
    assert set(re.findall(r"`squeeze ([a-z0-9-]+)", README)) <= set(COMMANDS)


def test_every_file_that_the_readme_links_exists() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_every_command_is_listed_with_its_line() -> None:
    (listed,) = blocks("", "Commands:\n")
    words = " ".join(listed.split())
    for name, line in COMMANDS.items():
        assert f"{name} {line}" in words
