"""How much memory each process of a training takes: alone, two that hold all of it, two that hold a part each.

    python benchmarks/sharded_training.py [--layers 16] [--hidden 1024] [--processes 2] [--steps 2] [--pass distill]

Makes a Llama with random weights and trains it with AdamW on sequences of 64 random tokens, ``recompute: true``, as
torchrun would start it: each process's peak resident memory, beside what ``squeeze check`` says beforehand. Measured is
``squeeze.compress`` as a user calls it, from reading the model to the new one in the store.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _inputs import Arguments, positive, run
from memory import make

SEQUENCES, LENGTH, VOCABULARY = 8, 64, 8192
WAYS = {"one process": (False, 1), "each holds all": (False, None), "each holds a part": (True, None)}


def main() -> None:
    options = arguments()
    if options.child:
        child(options)
        return
    sizes = {
        "hidden_size": options.hidden,
        "intermediate_size": options.hidden * 11 // 4,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "num_hidden_layers": options.layers,
        "vocab_size": VOCABULARY,
    }
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        make(work / "llama", sizes)
        print(f"{'':<20}{'parameters':>12}{'peak GB of each process':>28}{'foretold':>10}{'seconds':>9}")
        for words, (sharded, processes) in WAYS.items():
            measure(words, sharded, processes or options.processes, work, options)


def arguments() -> argparse.Namespace:
    parser = Arguments(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=positive, default=16)
    parser.add_argument("--hidden", type=positive, default=1024, help="hidden size, a multiple of 64")
    parser.add_argument("--processes", type=positive, default=2)
    parser.add_argument("--steps", type=positive, default=2)
    parser.add_argument("--pass", dest="pass_", choices=["finetune", "distill"], default="finetune")
    parser.add_argument("--sharded", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hidden % 64:
        parser.error(
            f"--hidden {options.hidden} does not divide into 16 heads of even width; a multiple of 64 would do"
        )
    return options


def measure(words: str, sharded: bool, processes: int, work: Path, options: argparse.Namespace) -> None:
    """One row, of processes that do nothing else."""
    command = [sys.executable, __file__, "--child", str(work), "--steps", str(options.steps), "--pass", options.pass_]
    command += ["--sharded"] * sharded
    launch = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environments = [os.environ | launch | {"RANK": str(rank)} for rank in range(processes)]
    began = time.monotonic()
    every = [subprocess.Popen(command, env=environment, **pipes) for environment in environments]
    answers = [process.communicate() for process in every]
    for process, (_, errors) in zip(every, answers, strict=True):
        if process.returncode:
            sys.exit(f"{words}: {errors.strip().splitlines()[-1]}")
    reports = [json.loads(output.splitlines()[-1]) for output, _ in answers]
    peaks = " ".join(f"{report['peak_bytes'] / 1e9:.2f}" for report in reports)
    foretold, seconds = reports[0]["foretold_bytes"] / 1e9, time.monotonic() - began
    print(f"{words:<20}{reports[0]['parameters'] / 1e9:>11.2f}B{peaks:>28}{foretold:>10.2f}{seconds:>9.0f}", flush=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def child(options: argparse.Namespace) -> None:
    """Train, and say what it took; a process that helps ends inside ``compress``."""
    import numpy as np

    import squeeze as sq
    from squeeze.data.text import TokenDataset
    from squeeze.models.language.language_model import LanguageModel
    from squeeze.peak import peak_memory_bytes

    model = LanguageModel(options.child / "llama")
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (SEQUENCES, LENGTH))
    about: dict[str, Any] = {"steps": options.steps, "batch_size": SEQUENCES, "recompute": True}
    pass_ = getattr(sq, options.pass_.capitalize())(sharded=options.sharded, **about)
    report = {"parameters": model.parameters(), "foretold_bytes": pass_.memory_bytes(model, LENGTH, None)}
    try:
        plan = sq.Plan([pass_], metrics=(), threads=1)
        data = {"train": TokenDataset("random", tokens)}
        with tempfile.TemporaryDirectory(dir=options.child) as store:
            sq.compress(plan, model=model, data=data, store=Path(store))
    finally:
        print(json.dumps(report | {"peak_bytes": peak_memory_bytes()}))


if __name__ == "__main__":
    run(main)
