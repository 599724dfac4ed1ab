"""Plans and command lines."""

from __future__ import annotations

import io
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from random import Random
from typing import ClassVar

from benchmarks.fuzzing.data import NpzDoor
from benchmarks.fuzzing.door import Door
from benchmarks.fuzzing.models import OnnxDoor
from benchmarks.fuzzing.mutate import NUMBERS, TEXTS, YAML, some_bytes, some_text
from squeeze.api import check, load
from squeeze.cli import main as command_line
from squeeze.errors import PlanError

PLAN = """\
model: {onnx: m.onnx}
data:
  evaluate: {npz: a.npz, samples: 4, seed: 1}
  calibrate: {npz: a.npz, skip: 4, samples: 4, seed: 1}
metrics: [top1, kl, flips, size, {latency: {batch: 1}}]
budget: {size: "<= 30 %", top1: "-1 points"}
memory: 2GB
seed: 3
threads: 1
passes:
  - pass: quantize_static
    method: minmax
targets:
  - target: cpu
    name: cpu
"""


class PlanDoor(Door):
    name = "plan"

    def write(self, folder: Path) -> None:
        (folder / "plan.yaml").write_text(PLAN)
        OnnxDoor().write(folder)
        NpzDoor().write(folder)

    def spoil(self, random: Random, folder: Path) -> bool:
        if random.random() < 0.1:  # what is surely wrong: a number that only YAML 1.1 knows, a merge, a set
            bad = random.choice(
                ("seed: 0x10", "seed: 1:30", "seed: !!int 0b1", "seed: {<<: {a: 1}}", "seed: !!set {a}")
            )
            (folder / "plan.yaml").write_text(PLAN.replace("seed: 3", bad))
            return True
        text = some_text(random, PLAN)
        if random.random() < 0.1:
            (folder / "plan.yaml").write_bytes(some_bytes(random, text.encode(errors="surrogatepass")))
        else:
            (folder / "plan.yaml").write_text(text, errors="surrogatepass")
        return False

    def enter(self, folder: Path) -> object:
        plan = load(folder / "plan.yaml")
        if faults := check(plan):
            raise PlanError(faults)
        return plan


class CommandDoor(Door):
    name = "cli"
    commands: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("check", "plan.yaml", "--explain"),
        ("check", "plan.yaml", "--set", "passes.0.method=minmax", "--var", "real=."),
        ("inspect", "m.onnx", "--json"),
        ("inspect", "digits-cnn", "--input", "1,8,8"),
        ("passes", "gptq"),
        ("metrics", "top1", "--json"),
        ("report", "out"),
        ("store", "prune", "--older-than", "7d", "--dry-run", "--store", "store"),
        ("store", "list", "--store", "store"),
        ("init", "new.yaml"),
        ("verify", "p.zip", "--data", "plan.yaml"),
    )

    def write(self, folder: Path) -> None:
        PlanDoor().write(folder)

    def spoil(self, random: Random, folder: Path) -> bool:
        words = list(random.choice(self.commands))
        for _ in range(random.choice((1, 1, 2))):
            at = random.randrange(len(words) + 1)
            bad = str(random.choice((*TEXTS, *NUMBERS, *YAML, "--json", "--set", "--var", "--input"))).replace("\0", "")
            bad = bad.replace("\ud800", "\udcff")  # how Python reads a byte that is not UTF-8
            words[at : at + random.randrange(2)] = [words[at - 1] + bad if random.random() < 0.3 else bad]
        (folder / "words.json").write_text(json.dumps(words))
        return False

    def enter_good(self, folder: Path) -> None:
        for words in (self.commands[0], ("inspect", "m.onnx", "--json"), ("passes", "gptq")):
            (folder / "words.json").write_text(json.dumps(words))
            self.enter(folder)
        os.chdir(folder.parent)

    def enter(self, folder: Path) -> object:
        os.chdir(folder)
        out = io.StringIO()
        try:
            with redirect_stdout(out), redirect_stderr(out):
                command_line(json.loads((folder / "words.json").read_text()))
        except SystemExit as stopped:
            if stopped.code not in (0, 1, 2, 3, 4):
                raise RuntimeError(f"exit code {stopped.code!r}") from None
            if stopped.code:
                raise PlanError(out.getvalue().rstrip("\n") or "nothing was said") from None
        return None
