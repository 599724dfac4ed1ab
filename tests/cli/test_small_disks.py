"""Disks that are full or read-only: one line, exit code 1, nothing left behind, and the same command goes on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from small_disks import CASES
from test_write_failures import ONE_LINE, PROGRESS

pytestmark = pytest.mark.slow  # ten confined processes
PROGRAM = Path(__file__).with_name("small_disks.py")
MOUNTS = ("unshare", "--user", "--map-root-user", "--mount")  # what a user without rights may do, where users may


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By case, what came of it."""
    if which("unshare") is None:
        pytest.skip("unshare is absent: it lends this test mounts of its own")
    folder = tmp_path_factory.mktemp("disks")
    probe = subprocess.run([*MOUNTS, "mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"this host lends no mounts: {probe.stderr.decode().strip()}")
    done = subprocess.run([*MOUNTS, sys.executable, PROGRAM, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {line["case"]: line for line in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("case", CASES)
def test_a_disk_that_takes_no_more_is_one_line_and_the_next_command_goes_on(runs: dict[str, Any], case: str) -> None:
    came = runs[case]
    (line,) = [line for line in came["said"] if not PROGRESS.match(line)]
    assert re.search(ONE_LINE, line), line
    assert (came["code"], came["left"]) == (1, [])
    assert (came["again"], came["left_again"]) == (0, []), came["said_again"]
