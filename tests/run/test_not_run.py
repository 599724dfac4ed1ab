"""A run with a target whose file does not run here: a row without scores, and nothing that was measured is made up."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import PLAN, squeeze, write_plan, write_world
from unconfined import work_here

pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'squeeze[coreml]'")
pytestmark = pytest.mark.skipif(platform.system() == "Darwin", reason="Core ML runs here")
REASON = "Core ML runs on macOS only"
PASSES = '  - pass: "tiny:Scale"\n    factor: 2.0\n'
PHONE = "  - pass: export_onnx\ntargets:\n  - {target: mobile, name: phone, runtime: coreml}\n"
METRICS = (
    "metrics: [top1, kl, size]",
    'metrics: [top1, kl, size, macs, latency]\nbudget: {top1: "-1 points", latency: "<= 90 %"}',
)


@pytest.fixture(scope="module", autouse=True)
def in_one_process() -> Iterator[None]:
    """A process that imports coremltools takes eight seconds; tests/targets/test_coreml.py starts one."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        work_here(monkeypatch)
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_world(tmp_path_factory.mktemp("unrun"))
    path = write_plan(folder, PLAN, (PASSES, PHONE), METRICS)
    assert squeeze("run", path, "--out", folder / "out", "--store", folder / "store") == 0
    return folder / "out"


def test_what_is_counted_has_a_score_and_nothing_else_has(out: Path) -> None:
    report = json.loads((out / "report.json").read_text())
    row = report["ledger"]["rows"][-1]
    assert (row["branch"], row["not_run"], row["timings"], row["measured"]) == ("phone", REASON, {}, {})
    assert sorted(row["scores"]) == ["macs", "size_bytes"]
    assert [line["not_run"] for line in report["ledger"]["rows"][:-1]] == ["", ""]
    assert {judged["line"] for judged in report["judgements"]} == {
        f"top1: at least -1 points: not measured: {REASON}: unproven",
        f"latency: <= 90 % of the original: not measured: {REASON}: unproven",
    }


def test_scoring_it_again_says_why_it_has_no_score(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = out.parent / "plan.yaml"
    (package,) = out.glob("*.zip")
    assert squeeze("verify", package, "--data", plan, "--store", out.parent / "store", "--json") == 0
    rescored = json.loads(capsys.readouterr().out)["rescored"]
    assert sorted(rescored["scores"]) == ["macs", "size_bytes"]
    assert rescored["not_scored"] == dict.fromkeys(("top1", "kl", "latency"), f"not run: {REASON}")


def test_two_runs_give_the_same_package_but_for_what_a_clock_said(out: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert squeeze("run", out.parent / "plan.yaml", "--out", again, "--store", tmp_path / "store") == 0
    digests = [json.loads((one / "report.json").read_text())["packages"][0]["digest"] for one in (out, again)]
    assert digests[0] == digests[1]
