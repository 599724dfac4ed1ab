"""Whatever the system refuses to write: one line, exit code 1, and the same command goes on when it may."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from small_disks import LANGUAGE, leftovers
from small_disks import write_world as write_finished
from tiny import PLAN, squeeze, write_plan, write_world

PROGRESS = re.compile(
    r"[a-z_0-9: ]+ \((torch|onnx|artifact|language|language artifact)\): |passes\.0 \(line \d\): |packed and|warning: "
)
ONE_LINE = r": .+; .+ would do$|name another with --store$|cannot be read \(Too many open files\)$"
OWNER_ONLY_ROOT = 1 << 1  # CAP_DAC_OVERRIDE: what lets root write where nobody may


@contextmanager
def limited(kind: int, most: int) -> Iterator[None]:
    """A limit of this process's, taken back afterwards."""
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


def free() -> int:
    """The lowest number that no open file has."""
    number = os.dup(0)
    os.close(number)
    return number


@contextmanager
def closed(folder: str) -> Iterator[None]:
    """A folder that nobody may write to, root included."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder).chmod(0o555)
    header, before = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None)
    libc.capget(header, before)
    less = (ctypes.c_uint32 * 6)(*before)
    less[0] &= ~OWNER_ONLY_ROOT
    libc.capset(header, less)
    try:
        yield
    finally:
        libc.capset(header, before)
        Path(folder).chmod(0o755)


@contextmanager
def in_the_way(path: str, folder: bool = False) -> Iterator[None]:
    """A file where a folder belongs, or a folder where a file belongs."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).mkdir() if folder else Path(path).write_text("")
    yield
    Path(path).rmdir() if folder else Path(path).unlink()


FILE_BYTES, FILES = resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE
CASES: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "no byte more": lambda: limited(FILE_BYTES, 0),
    "files of 1,000 bytes": lambda: limited(FILE_BYTES, 1000),
    "files of 3,000 bytes": lambda: limited(FILE_BYTES, 3000),
    "no file more": lambda: limited(FILES, free()),
    "one file more": lambda: limited(FILES, free() + 1),
    "two files more": lambda: limited(FILES, free() + 2),
    "entries closed": lambda: closed("store/entries"),
    "locks closed": lambda: closed("store/locks"),
    "out closed": lambda: closed("out"),
    "work is a file": lambda: in_the_way("store/work"),
    "out is a file": lambda: in_the_way("out"),
    "report.json is a folder": lambda: in_the_way("out/report.json", folder=True),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_written_is_one_line_and_the_next_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    monkeypatch.chdir(write_world(tmp_path))
    write_plan(tmp_path)
    command = ("run", "plan.yaml", "--out", "out", "--store", "store")
    with CASES[case]():
        code = squeeze(*command)
        out, err = capsys.readouterr()
    assert (code, out) in ((1, ""), (2, ""))
    (line,) = [line for line in err.splitlines() if not PROGRESS.match(line)]
    assert re.search(ONE_LINE, line), line
    assert squeeze(*command) == 0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plans, what they read, and what a run of the first has left."""
    return write_finished(tmp_path_factory.mktemp("finished") / "world")


def until(name: str, more: int) -> AbstractContextManager[None]:
    """Files may be as long as the package is up to so many bytes of one of its files."""
    with zipfile.ZipFile("p.zip") as package:
        return limited(FILE_BYTES, package.getinfo(name).header_offset + more)


WARM_STORE = ("run", "plan.yaml", "--out", "out", "--store", "warm-store")
PIPES = "the pipes of the confined process"
WRITES: dict[str, tuple[Callable[[], AbstractContextManager[None]], tuple[str, ...]]] = {
    "the golden arrays of a package": (lambda: until("golden.npz", 60), WARM_STORE),
    "measurements.json of a package": (lambda: until("measurements.json", 60), WARM_STORE),
    "the model of a package": (lambda: until("model.onnx", 1000), WARM_STORE),
    "the report": (lambda: limited(FILE_BYTES, Path("p.zip").stat().st_size + 500), WARM_STORE),
    "what verify unpacks": (lambda: limited(FILE_BYTES, 3000), ("verify", "p.zip")),
    "the original's shard": (lambda: limited(FILE_BYTES, 8000), LANGUAGE),
    "a shard in the journal": (lambda: limited(FILE_BYTES, 20_000), LANGUAGE),
    PIPES: (lambda: limited(FILES, free() + 7), WARM_STORE),
    "a starter plan": (lambda: closed("new"), ("init", "new/plan.yaml")),
}


@pytest.mark.parametrize("case", WRITES)
def test_a_write_that_is_cut_short_is_one_line_and_leaves_nothing(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    limit, command = WRITES[case]
    monkeypatch.chdir(shutil.copytree(world, tmp_path / "world"))
    with limit():
        code = squeeze(*command)
    _, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if not PROGRESS.match(line)]
    assert code == (2 if command[0] == "init" else 1)
    assert re.search(ONE_LINE + r"|cannot be written", line), line
    assert case == PIPES or leftovers() == []  # without a free file number no folder can be removed either
    assert squeeze(*command) == 0
    assert leftovers() == []


@pytest.mark.parametrize("command", [WARM_STORE, LANGUAGE], ids=["packing", "language model"])
def test_24_open_files_are_enough(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(shutil.copytree(world, tmp_path / "world"))
    with limited(FILES, free() + 24 - 5):  # five are open where a process begins and has loaded everything
        assert squeeze(*command) == 0


@pytest.mark.parametrize("what", ["the store", "a folder of the store"])
def test_a_store_that_vanishes_while_it_is_in_use_is_one_line_and_the_next_run_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    monkeypatch.chdir(write_world(tmp_path))
    folder = tmp_path / ("store" if what == "the store" else "store/entries")
    write_plan(tmp_path, PLAN, ("tiny:Scale", "tiny:Remove"), ("factor: 2.0", f"folder: {folder}"))
    command = ("run", "plan.yaml", "--out", "out", "--store", "store")
    assert squeeze(*command) == 1
    _, err = capsys.readouterr()
    assert re.search(r"^store: was removed while it was in use; the same command begins anew, ", err, re.MULTILINE)
    assert len([line for line in err.splitlines() if not PROGRESS.match(line)]) == 1
    write_plan(tmp_path)
    assert squeeze(*command) == 0


def test_standard_output_on_a_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "squeeze.cli", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"squeeze: the disk is full; .* would do\n", done.stderr)
