"""``store prune`` in one process while another carries a plan out: what the run uses, or will come to, stays."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import PLAN, squeeze, write_plan, write_world

from squeeze.store import Store

TWO_PASSES = PLAN.replace('"tiny:Scale"', '"tiny:Wait"') + '  - {pass: "tiny:Scale", factor: 3.0}\n'
RUN = ("run", "plan.yaml", "--out", "out", "--store", "store")
PRUNE = ("store", "prune", "--older-than", "0m", "--store", "store")


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run, last used in 1970, whose first pass has to be made again; and an entry that nobody uses."""
    monkeypatch.chdir(write_world(tmp_path))
    write_plan(tmp_path, TWO_PASSES)
    assert squeeze(*RUN) == 0
    Store(Path("store")).make("k", "another plan's", {"before": "0" * 64}, lambda folder: None)
    for entry in Store(Path("store")).entries():
        if entry.what == "wait":
            shutil.rmtree(entry.folder)
        else:
            os.utime(entry.folder / "entry.json", (0, 0))


def whats() -> list[str]:
    return sorted(entry.what for entry in Store(Path("store")).entries())


def start() -> subprocess.Popen[str]:
    """The same run in another process, which waits in its first pass."""
    environment = os.environ | {"WAIT": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "squeeze.cli", *RUN, "--verbose"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, text=True, stdin=pipe, stdout=pipe, stderr=pipe)


def test_what_a_run_will_only_come_to_is_left_alone() -> None:
    before = whats()
    with start() as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "waiting\n"
        assert squeeze(*PRUNE) == 0
        pruned = whats()
        _, output = other.communicate("go on\n")
    assert other.returncode == 0, output
    assert pruned == [what for what in before if what != "another plan's"]
    assert "(line 7): wait" in output
    assert "(line 9): scale" not in output  # found, not made again
    assert squeeze(*PRUNE) == 0
    assert whats() == []  # the run is over


def test_a_run_that_was_killed_holds_nothing() -> None:
    with start() as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "waiting\n"
        other.kill()
        other.communicate()
    assert squeeze(*PRUNE) == 0
    assert whats() == []
    assert squeeze(*RUN) == 0
