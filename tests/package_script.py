"""A package as whoever gets it uses it: unpacked, its script in an isolated Python that knows nothing of Squeeze."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any


def unpacked(package: Path, folder: Path) -> Path:
    """The package's files, in a folder that need not be there."""
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder)
    return folder


def run_script(folder: Path, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """``run.py`` of an unpacked package; a warning is an error."""
    command = [sys.executable, "-I", "-W", "error", str(folder / "run.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def require_golden_output(package: Path, folder: Path) -> None:
    """The script gives the golden output to the bit, without a word beside it and without Squeeze."""
    done = run_script(unpacked(package, folder), "--golden", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["difference"] == 0.0
    assert_without_squeeze(folder)


def assert_without_squeeze(folder: Path) -> None:
    """Below its docstring, the script does not name us."""
    assert "squeeze" not in (folder / "run.py").read_text().split('"""', 2)[2]
