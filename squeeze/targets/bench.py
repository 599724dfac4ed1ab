"""How fast and how large a package is on this host, by its own script in a confined process of its own.

Absolute numbers of one model; whether one model is faster than another is asked of ``squeeze.evaluate``, which
lets the two alternate. The script is made anew here: the package's own is a stranger's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from squeeze.errors import UsageError
from squeeze.progress import Progress
from squeeze.runtimes.base import GENERATE
from squeeze.targets.confined import Limits
from squeeze.targets.host import host
from squeeze.targets.last_line import last_line
from squeeze.targets.script import script
from squeeze.targets.verify import Package
from squeeze.work import temporary_folder

TURNS = 3  # of several packages


@dataclass(frozen=True)
class Load:
    """What is measured.

    Args:
        batch_sizes, seconds: Of a model that answers in one call: examples at once, and how long to measure each.
        prompt, tokens, rounds: Of a language model: tokens that are read, tokens that are written, times that both
            are done after one that warms up.
    """

    batch_sizes: Sequence[int] = (1, 8)
    seconds: float = 1.0
    prompt: int = 128
    tokens: int = 64
    rounds: int = 5

    def arguments(self, generates: bool) -> list[str]:
        """As the script takes them."""
        if generates:
            return _words(prompt_tokens=self.prompt, tokens=self.tokens, rounds=self.rounds)
        batches = [word for size in self.batch_sizes for word in _words(batch=size)]
        return [*batches, *_words(seconds=self.seconds)]

    def limits(self, generates: bool, limits: Limits) -> Limits:
        """The same, with the time that is measured on top."""
        if generates:
            return replace(limits, seconds=limits.seconds * (self.rounds + 1))
        return replace(limits, seconds=limits.seconds + 2 * self.seconds * len(self.batch_sizes))


def bench(package: Package, threads: int = 1, load: Load | None = None, limits: Limits | None = None) -> dict[str, Any]:
    """Time per batch or tokens per second, load time and peak memory of a fresh process; JSON values.

    Args:
        limits: On time and memory of the confined process; of a language model the time is that of one round.

    Raises:
        ModelError: the package's runtime is not installed.
        VerifyError: it does not run the model.
    """
    load, manifest = load or Load(), package.manifest
    package.runtime().require_runs(str(package.path))
    package.golden()  # read whole, by a reader that refuses what is no plain array
    generates = manifest.task == GENERATE
    with temporary_folder("bench") as folder:
        file = folder / "run.py"
        file.write_text(script(manifest.task, manifest.runtime.name, "numbers"))
        place = ["--folder", str(package.folder.resolve()), "--threads", str(threads)]
        command = [sys.executable, "-I", str(file), "--bench", "--json", *load.arguments(generates), *place]
        measured = last_line(command, load.limits(generates, limits or Limits()), package, [folder])
    sizes = {"model_bytes": package.loaded_bytes(), "package_bytes": package.nbytes()}
    return {"host": host(), "threads": threads, **sizes, **measured}


def in_turns(
    packages: Sequence[Package], threads: int, load: Load, limits: Limits, progress: Progress
) -> list[list[dict[str, Any]]]:
    """Per package, what :func:`bench` says of it in each of :data:`TURNS` turns.

    One after the other again and again, so that a host that slows down slows all of them.

    Raises:
        UsageError: some answer in one call and others go on with a text.
        ModelError, VerifyError: as :func:`bench`.
    """
    if len({package.manifest.task for package in packages}) > 1:
        what = ", ".join(f"{package.path.name} ({package.manifest.task})" for package in packages)
        raise UsageError(f"no figure is of all of these: {what}; packages that do the same would do")
    found: list[list[dict[str, Any]]] = [[] for _ in packages]
    turns = [(place, package) for _ in range(TURNS) for place, package in enumerate(packages)]
    for place, package in progress.track(turns, "bench"):
        found[place].append(bench(package, threads, load, limits))
    return found


def _words(**options: float) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
