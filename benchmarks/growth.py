"""How time and memory of passes grow with a model's layers and with tokens, and how far time is from the arithmetic.

    python benchmarks/growth.py [--only prune_width ...] [--threads 2] [--rounds 3]

A random Llama (hidden 512, intermediate 1,536, 8,192 tokens) of 4 layers and 4,096 tokens, then twice and four times
of either. Each row is a process of its own, the fastest of some rounds: seconds of the pass, what that is of the first
row, of the arithmetic's limit, and the process's peak memory. The limit counts what no implementation could leave out
(forward passes, of prune_depth as many as its ``effort`` says, the inputs' products with themselves, a solver's
updates) at the rate of one large product measured in the same run: rounded to bf16 where the pass rounds and the CPU
has units for it, else float32.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _inputs import Arguments, positive, run
from memory import make

HIDDEN, INTERMEDIATE, VOCABULARY = 512, 1536, 8192
SHAPE = {
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": VOCABULARY,
}
LAYERS, SEQUENCES, LENGTH = 4, 16, 256
EFFORT = 2  # of prune_depth: forward passes over its samples, fewer than all its losses would take at any size here
GROWTH = [(1, 1), (2, 1), (4, 1), (1, 2), (1, 4)]  # times the layers, times the tokens
BLOCK = 2 * HIDDEN * HIDDEN + HIDDEN * HIDDEN + 3 * HIDDEN * INTERMEDIATE  # MACs of a token in one block's matrices
HEAD = HIDDEN * VOCABULARY
SQUARES = 3 * HIDDEN**2 + INTERMEDIATE**2  # MACs of a token: its inputs' products with themselves, matrix by matrix
UPDATES = 3 * HIDDEN**3 + 2 * INTERMEDIATE * HIDDEN**2 + HIDDEN * INTERMEDIATE**2  # MACs of GPTQ's errors, halved


@dataclass(frozen=True)
class Case:
    """A pass, its options, and the multiply-accumulates that it cannot do without.

    Args:
        name: Of the row.
        macs: Of layers and tokens.
        rounds: Whether its products round to bf16 where the CPU can.
        of: The pass, where the row has a name of its own.
    """

    name: str
    options: dict[str, Any]
    macs: Callable[[int, int], float]
    rounds: bool
    of: str = ""


CASES = [
    Case("rtn", {"bits": 4, "group_size": 64}, lambda layers, tokens: 0, False),
    Case("gptq", {"bits": 4, "group_size": 64},
         lambda layers, tokens: layers * (tokens * (3 * BLOCK + SQUARES) + UPDATES), True),
    Case("sparsify", {"ratio": 0.5}, lambda layers, tokens: layers * (tokens * (2 * BLOCK + SQUARES) + UPDATES), True),
    Case("prune_width", {"ratio": 0.25},
         lambda layers, tokens: layers * (tokens * (3 * BLOCK + INTERMEDIATE**2) + INTERMEDIATE**3 / 3), True),
    Case("prune_depth", {"ratio": 0.25, "samples": SEQUENCES * 4, "effort": EFFORT},
         lambda layers, tokens: EFFORT * tokens * (layers * BLOCK + HEAD), True),
    Case("distill", {"epochs": 1, "batch_size": 8}, lambda layers, tokens: 4 * tokens * (layers * BLOCK + HEAD), True),
    Case("distill-disk", {"epochs": 1, "batch_size": 8, "train": "lora", "frozen": "disk"},
         lambda layers, tokens: tokens * (4 * layers * BLOCK + 3 * HEAD), True, "distill"),
]  # fmt: skip
NAMED = {case.name: case for case in CASES}


def main() -> None:
    options = arguments()
    if options.child:
        child(options)
        return
    rates = {rounds: product_rate(options.threads, rounds) for rounds in (False, True)}
    print(f"products: float32 {rates[False] / 1e9:.0f}, rounded {rates[True] / 1e9:.0f} billion a second")
    print(f"{'':<13}{'layers':>7}{'tokens':>8}{'seconds':>9}{'of the first':>14}{'of the limit':>14}{'peak MB':>9}")
    with tempfile.TemporaryDirectory() as work:
        for case in (NAMED[name] for name in options.only):
            first = 0.0
            for more_layers, more_tokens in GROWTH:
                layers, sequences = LAYERS * more_layers, SEQUENCES * more_tokens
                seconds, peak = measured(case.name, layers, sequences, options, Path(work))
                first = first or seconds
                limit = case.macs(layers, sequences * LENGTH) / rates[case.rounds]
                of_limit = f"x {seconds / limit:.1f}" if limit else "reads only"
                row = f"{case.name:<13}{layers:>7}{sequences * LENGTH:>8,}{seconds:>9.2f}"
                print(f"{row}{f'x {seconds / first:.2f}':>14}{of_limit:>14}{peak / 1e6:>9.0f}", flush=True)


def measured(name: str, layers: int, sequences: int, options: argparse.Namespace, work: Path) -> tuple[float, int]:
    """Seconds of the fastest round, and the lowest peak."""
    folder = work / f"model-{layers}"
    make(folder, {**SHAPE, "num_hidden_layers": layers})
    command = [sys.executable, __file__, "--child", str(folder), "--only", name, "--sequences", str(sequences)]
    rounds = []
    for _ in range(options.rounds):
        done = subprocess.run(
            [*command, "--threads", str(options.threads)], check=False, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
        rounds.append(json.loads(done.stdout.splitlines()[-1]))
    return min(seconds for seconds, _ in rounds), min(peak for _, peak in rounds)


def child(options: argparse.Namespace) -> None:
    """One pass on one model, and what it took."""
    import time

    import numpy as np
    import torch

    from squeeze import registry
    from squeeze.data.text import TokenDataset
    from squeeze.models.language.language_model import LanguageModel
    from squeeze.passes.base import Context
    from squeeze.peak import peak_memory_bytes
    from squeeze.store import Journal

    torch.set_num_threads(options.threads)
    (case,) = (NAMED[name] for name in options.only)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (options.sequences, LENGTH))
    data = TokenDataset("random", tokens)
    with tempfile.TemporaryDirectory() as work:
        context = Context(
            threads=options.threads, calibration_data=data, train_data=data, journal=Journal(Path(work)),
            original=lambda: LanguageModel(options.child),
        )  # fmt: skip
        model, pass_ = LanguageModel(options.child), registry.load("passes", case.of or case.name)(**case.options)
        began = time.perf_counter()
        pass_.run(model, context)
        print(json.dumps([time.perf_counter() - began, peak_memory_bytes()]))


def product_rate(threads: int, rounds: bool) -> float:
    """Multiply-accumulates a second of one large product."""
    import torch

    from squeeze.algorithms.hessian import bf16_products
    from squeeze.evaluate.latency import median_seconds

    torch.set_num_threads(threads)
    left, right = torch.ones(4096, 1024), torch.ones(1024, 1024)
    with bf16_products(rounds):
        return left.numel() * len(right) / float(median_seconds(lambda: left @ right, 1.0, 5))


def arguments() -> argparse.Namespace:
    parser = Arguments(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(NAMED), default=list(NAMED))
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sequences", type=positive, default=SEQUENCES, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
