"""How fast a language-model package reads and writes on this host, in a fresh process of its runtime."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from squeeze.models.language.artifact import runtime_class
from squeeze.targets import standalone_language
from squeeze.targets.bench import run_script
from squeeze.targets.confined import Limits
from squeeze.targets.host import host
from squeeze.targets.verify import Package


def bench_language(
    package: Package, threads: int, prompt: int, new: int, rounds: int, limits: Limits | None = None
) -> dict[str, Any]:
    """Tokens per second and time to the first token, each with median, p10 and p90; load time, peak memory.

    Args:
        prompt: Tokens that are read, drawn at random.
        new: Tokens that are written.
        rounds: Times that both are done, after one that warms up.
        limits: On time and memory of the confined process; the time is that of one round.

    Raises:
        ModelError: the package's runtime is not installed.
        VerifyError: it does not run the model.
    """
    runtime_class(package.manifest.runtime.name).require_installed(str(package.path))
    script = [sys.executable, "-I", str(Path(standalone_language.__file__)), "--bench", "--json"]
    sizes = ["--prompt-tokens", str(prompt), "--tokens", str(new), "--rounds", str(rounds), "--threads", str(threads)]
    place = ["--folder", str(package.folder)]
    limits = limits or Limits()
    longer = replace(limits, seconds=limits.seconds * (rounds + 1))
    found = run_script([*script, *sizes, *place], longer, package)
    return {"host": host(), "threads": threads, "package_bytes": package.nbytes(), **found}
