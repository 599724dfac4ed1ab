"""Two finished runs against each other: paired where examples are the same, named where data or convention differ."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import PLAN, squeeze, write_npz, write_plan, write_world

from squeeze.errors import SqueezeError
from squeeze.report.examples import FILE
from squeeze.run.compare import Finished, Pair, compare

MANY = 60  # examples


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of runs: the classifier's weights times 2 and 5, and once more on other data."""
    world = write_world(tmp_path_factory.mktemp("runs"))
    write_npz(world / "evaluate.npz", MANY, seed=1)
    write_npz(world / "other.npz", MANY, seed=9)
    plan = write_plan(world, PLAN, ("[top1, kl, size]", "[loss, kl, size]"))
    for name, changes in {
        "two": (),
        "five": ("passes.0.factor=5.0",),
        "other": ("data.evaluate.npz=other.npz",),
    }.items():
        options = [part for change in changes for part in ("--set", change)]
        assert squeeze("run", plan, "--out", world / name, "--store", world / "store", "--quiet", *options) == 0
    return world


def by_metric(result: list[Pair], row: str = "result") -> dict[str, Pair]:
    return {pair.metric: pair for pair in result if pair.row == row}


def test_the_change_between_two_runs_is_paired_and_as_large_as_their_values_say(runs: Path) -> None:
    comparison = compare(Finished.read(runs / "two"), Finished.read(runs / "five"))
    loss = by_metric(comparison.pairs)["loss"]
    assert loss.change is not None
    assert loss.first is not None
    assert loss.second is not None
    assert loss.change.difference == pytest.approx(loss.second - loss.first)
    assert loss.change.units == MANY
    low, high = loss.change.difference_interval or (0, 0)
    assert low < loss.change.difference < high
    assert loss.change.verdict == ("worse" if low > 0 else "better" if high < 0 else "not told apart")
    assert by_metric(comparison.pairs)["kl"].change is not None, "both are distances from one original"
    assert by_metric(comparison.pairs)["size_bytes"].change.verdict == "same"  # type: ignore[union-attr]
    assert all(pair.change.verdict == "same" for pair in comparison.pairs if pair.row == "original" and pair.change)
    assert not comparison.notes


def test_a_run_beside_itself_is_the_same(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert squeeze("compare", runs / "two", runs / "two", "--json") == 0
    output = json.loads(capsys.readouterr().out)
    assert {pair["change"]["verdict"] for pair in output["pairs"]} == {"same"}
    assert squeeze("compare", runs / "two", runs / "five") == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("loss", "KL", "size", "verdict"))


def test_other_data_is_named_and_not_compared(runs: Path) -> None:
    comparison = compare(Finished.read(runs / "two"), Finished.read(runs / "other"))
    pair = by_metric(comparison.pairs)["loss"]
    assert pair.change is None
    (line,) = comparison.notes
    assert line.startswith("loss, kl: not compared: ")
    assert "two is scored on npz" in line
    assert "other on npz" in line
    assert by_metric(comparison.pairs)["size_bytes"].change is not None


def edited(runs: Path, folder: Path, change: Callable[[Path], object]) -> Path:
    """A copy of a run with something wrong."""
    folder.mkdir(exist_ok=True)
    for name in ("report.json", FILE):
        (folder / name).write_bytes((runs / "two" / name).read_bytes())
    change(folder)
    return folder


def other_convention(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    report["plan"]["metrics"][1] = {"kl": {"no_such": 1}}
    (folder / "report.json").write_text(json.dumps(report))


def test_another_convention_is_named_and_not_compared(runs: Path, tmp_path: Path) -> None:
    comparison = compare(Finished.read(runs / "five"), Finished.read(edited(runs, tmp_path / "run", other_convention)))
    assert "kl: not compared: its metric is not registered here" in comparison.notes


def no_rows(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    report["ledger"]["rows"] = []
    (folder / "report.json").write_text(json.dumps(report))


def cut_short(folder: Path) -> None:
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-30])


def no_array(folder: Path) -> None:
    with zipfile.ZipFile(folder / FILE, "w") as archive:
        archive.writestr("1/loss.npy", b"a pickle is no array")


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no report": (lambda folder: (folder / "report.json").unlink(), "no report.json there; squeeze run PLAN --out"),
    "no examples": (lambda folder: (folder / FILE).unlink(), "no examples.npz there; squeeze run again writes one"),
    "cut short": (cut_short, "examples.npz: not whole"),
    "no array": (no_array, "examples.npz: 1/loss is no array; one number per example would do"),
    "no rows": (no_rows, "its ledger has no row; run the plan to its end"),
    "no JSON": (lambda folder: (folder / "report.json").write_text("{"), "report.json: not a whole report"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_finished_run_is_one_line(runs: Path, tmp_path: Path, name: str) -> None:
    change, line = BAD[name]
    with pytest.raises(SqueezeError, match=line) as error:
        Finished.read(edited(runs, tmp_path / "run", change))
    assert "\n" not in str(error.value)
