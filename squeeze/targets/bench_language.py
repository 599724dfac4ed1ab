"""How fast a language-model package reads and writes on this host, in a fresh process of its runtime."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from squeeze.errors import VerifyError
from squeeze.models.language.artifact import runtime_class
from squeeze.targets import standalone_language
from squeeze.targets.host import host
from squeeze.targets.verify import Package


def bench_language(package: Package, threads: int, prompt: int, new: int, rounds: int) -> dict[str, Any]:
    """Tokens per second and time to the first token, each with median, p10 and p90; load time, peak memory.

    Args:
        prompt: Tokens that are read, drawn at random.
        new: Tokens that are written.
        rounds: Times that both are done, after one that warms up.

    Raises:
        ModelError: the package's runtime is not installed.
        VerifyError: it does not run the model.
    """
    runtime_class(package.manifest.runtime.name).require_installed(str(package.path))
    script = [sys.executable, "-I", str(Path(standalone_language.__file__)), "--bench", "--json"]
    sizes = ["--prompt-tokens", str(prompt), "--tokens", str(new), "--rounds", str(rounds), "--threads", str(threads)]
    place = ["--folder", str(package.folder)]
    done = subprocess.run([*script, *sizes, *place], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["the bench gave no answer"])[-1]
        raise VerifyError(f"{package.path}: {last.removeprefix('run.py: ')}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"host": host(), "threads": threads, "package_bytes": package.nbytes(), **found}
