"""Whatever the system refuses to write: one line, exit code 1, and the same command goes on when it may."""

from __future__ import annotations

import ctypes
import os
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from tiny import squeeze, write_plan, write_world

PROGRESS = re.compile(r"(original|scale) \(torch\): |passes\.0 \(line 7\): scale$")
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
    assert re.search(r": .+; .+ would do$|name another with --store$|cannot be read \(Too many open files\)$", line), (
        line
    )
    assert squeeze(*command) == 0
