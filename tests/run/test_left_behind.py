"""A run owns its work in progress: however it ends, nothing of it is left."""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tiny import PLAN, squeeze, write_plan, write_world

from squeeze import work

STORE_FOLDERS = ("work", "journals", "runs")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of this test alone."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(work, "_folder_of_process", work._folder_of_process.__wrapped__)
    return folder


@pytest.mark.parametrize(("then", "code"), [("finish", 0), ("fail", 1), ("Ctrl-C", 130), ("SIGTERM", 143)])
def test_a_run_leaves_nothing_however_it_ends(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, then: str, code: int
) -> None:
    monkeypatch.chdir(write_world(tmp_path))
    write_plan(tmp_path, PLAN, ("tiny:Scale", "tiny:Litter"), ("factor: 2.0", f"then: {then}"))
    assert squeeze("run", "plan.yaml", "--out", "out", "--store", "store") == code
    assert [path for path in temporary.iterdir() if not path.name.startswith("torchinductor")] == []  # torch's cache
    remaining = [path for name in STORE_FOLDERS for path in (tmp_path / "store" / name).rglob("*")]
    assert remaining == []


def test_work_outside_a_run_goes_with_the_process_and_after_a_kill_with_the_next(tmp_path: Path) -> None:
    """The next one may be any process that makes a work folder."""
    program = (
        "import os; from squeeze.work import work_folder\n"
        "work_folder('a')\n"
        "os.getenv('KILL') and os.kill(os.getpid(), 9)"
    )

    def process(**environment: str) -> list[Path]:
        subprocess.run([sys.executable, "-c", program], env={"TMPDIR": str(tmp_path), **environment}, check=False)
        return list(tmp_path.iterdir())

    assert process() == []
    assert len(process(KILL="9")) == 2  # the folder and its lock
    assert process() == []


def test_nobody_makes_temporary_folders_that_no_run_owns() -> None:
    """Beside what is being written is no place for a run to own: such a one names its ``dir``."""
    calls = [
        (path.name, node)
        for path in Path(work.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).split(".")[-1] in ("mkdtemp", "mkstemp", "TemporaryDirectory", "NamedTemporaryFile")
    ]
    assert len(calls) > 2
    assert [name for name, call in calls if "dir" not in [keyword.arg for keyword in call.keywords]] == []
