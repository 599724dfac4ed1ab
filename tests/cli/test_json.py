"""``--json``: parseable JSON on standard output and nothing else, when a command succeeds and when it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import PLAN, squeeze, write_plan, write_world

COMMANDS = [
    "check plan.yaml",
    "check plan.yaml --explain",
    "run plan.yaml --out out --store store",
    "inspect digits-cnn",
    "inspect plan.yaml",
    "inspect tiny:chatty --input 3,8,8",
    "report made",
    "report made --render",
    "init new.yaml",
    "schema",
    "passes",
    "passes prune_channels",
    "targets",
    "targets cpu",
    "metrics",
    "metrics latency",
    "devices",
    "devices pi5",
    "data",
    "data text",
    "store list --store kept",
    "store prune --older-than 4w --store kept",
    "store prune --older-than 0m --dry-run --store kept",
]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run has been."""
    folder = write_world(tmp_path_factory.mktemp("made"))
    plan = write_plan(folder)
    assert squeeze("run", plan, "--out", folder / "made", "--store", folder / "kept") == 0
    return folder


@pytest.fixture
def here(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(run_folder)
    (run_folder / "new.yaml").unlink(missing_ok=True)
    write_plan(run_folder)
    return run_folder


def only_json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_prints_json_and_nothing_else(capsys: pytest.CaptureFixture[str], line: str) -> None:
    assert squeeze(*line.split(), "--json") == 0
    assert isinstance(only_json(capsys), dict | list)


def test_what_a_users_factory_prints_does_not_get_into_the_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(here, PLAN, ("tiny:network", "tiny:chatty"))
    assert squeeze("run", "plan.yaml", "--out", "out", "--store", "store", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["name"] == "plan"
    assert "this is no JSON" in err


@pytest.mark.parametrize(
    ("line", "code", "kind"),
    [
        ("rnu", 2, "UsageError"),
        ("check gone.yaml", 2, "PlanError"),
        ("run gone.yaml", 2, "PlanError"),
        ("check plan.yaml --expalin", 2, "UsageError"),
        ("inspect gone", 2, "UsageError"),
        ("report gone", 2, "UsageError"),
        ("verify gone.zip", 2, "UsageError"),
        ("bench gone.zip", 2, "UsageError"),
        ("store list --store gone", 2, "UsageError"),
        ("passes gone", 2, "UsageError"),
        ("init gone/plan.yaml", 2, "UsageError"),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_failure_is_json_too(capsys: pytest.CaptureFixture[str], line: str, code: int, kind: str) -> None:
    assert squeeze(*line.split(), "--json") == code
    result = only_json(capsys)
    assert result["error"] == kind
    assert result["lines"]


def test_the_faults_of_a_plan_have_line_place_and_message(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(here, PLAN, ("factor", "fcator"))
    assert squeeze("check", "plan.yaml", "--json") == 2
    (fault,) = only_json(capsys)["faults"]
    assert (fault["line"], fault["place"]) == (8, ["passes", 0, "fcator"])
    assert fault["message"].startswith("tiny:Scale: unknown option 'fcator'")


def test_a_broken_budget_leaves_one_json_document(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(here, PLAN + "budget: {size: '<= 30 %'}\n")
    assert squeeze("run", "plan.yaml", "--out", "out", "--store", "store", "--json") == 3
    assert only_json(capsys)["judgements"][0]["outcome"] == "broken"


def test_an_interrupted_run_is_json_too(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(here, PLAN, ("tiny:Scale", "tiny:Interrupt"))
    assert squeeze("run", "plan.yaml", "--out", "out", "--store", "store", "--json") == 130
    assert only_json(capsys)["error"] == "Interrupted"
