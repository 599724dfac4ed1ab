"""A store whose files somebody changed: a run must notice, and end in the very same ledger."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from random import Random

from benchmarks.fuzzing.door import Door, WronglyAcceptedError
from benchmarks.fuzzing.mutate import some_bytes, some_file
from benchmarks.fuzzing.packages import SHORT_PLAN
from benchmarks.fuzzing.plans import PlanDoor
from squeeze.api import load
from squeeze.cli import main as command_line
from squeeze.run import run


class StoreDoor(Door):
    """A store with the entries of a finished run, listed and used again."""

    name, share = "store", 0.5

    def write(self, folder: Path) -> None:
        PlanDoor().write(folder)
        (folder / "plan.yaml").write_text(SHORT_PLAN)
        (folder / "ledger.json").write_text(self._ledger(folder))

    def spoil(self, random: Random, folder: Path) -> bool:
        files = sorted(path for path in (folder / "store").rglob("*") if path.is_file())
        entries = [path for path in files if "entries" in path.parts]
        some_file(random, random.choice(entries if random.random() < 0.9 else files), some_bytes)
        return False

    def enter(self, folder: Path) -> object:
        out = io.StringIO()
        with suppress(SystemExit), redirect_stdout(out), redirect_stderr(out):
            command_line(["store", "list", "--store", str(folder / "store")])
        if self._ledger(folder) != (folder / "ledger.json").read_text():
            raise WronglyAcceptedError("the run used what is damaged")
        return None

    def _ledger(self, folder: Path) -> str:
        """Of a run on the store; its rows hold the keys and scores of all models."""
        result = run(load(folder / "plan.yaml"), store=folder / "store")
        return json.dumps(result.ledger.to_json(timings=False), sort_keys=True)
