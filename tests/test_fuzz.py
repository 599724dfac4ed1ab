"""A few bad inputs at each door, always the same ones: the short version of ``benchmarks/fuzz.py``."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from benchmarks import fuzz

INPUTS = 300  # over all doors
SLOW = {"store", "verify", "bench"}  # each input is a whole run or a process; other tests break these on purpose
DOORS = [name for name in fuzz.DOORS if name not in SLOW]


@pytest.mark.parametrize("door", DOORS)
def test_a_bad_input_is_let_in_or_refused_in_one_line(
    door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good, broken = tmp_path / "good", {}
    good.mkdir()
    fuzz.DOORS[door]().write(good)
    with warnings.catch_warnings(action="ignore"):
        for number in fuzz.numbers_by_door(DOORS, INPUTS)[door]:
            outcome = fuzz.judged(fuzz.DOORS[door](), number, 0, good, tmp_path)
            if outcome[0] in fuzz.BROKEN:
                broken[f"--only {door} --seed 0 --number {number}"] = outcome
    assert not broken


def test_what_breaks_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fuzzer that reports nothing may be blind: a door that raises, and one that lets everything in."""
    door = fuzz.DOORS["npz"]()
    door.write(tmp_path)

    def judged_with(enter: object) -> str:
        monkeypatch.setattr(type(door), "enter", enter)
        return fuzz.judged(door, 0, 0, tmp_path, tmp_path)[0]

    monkeypatch.setattr(type(door), "spoil", lambda *_: True)
    monkeypatch.chdir(tmp_path)
    assert judged_with(lambda *_: dict[str, int]()["absent"]) == "traceback"
    assert judged_with(lambda *_: None) == "accepted"
