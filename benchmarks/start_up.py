"""How long until the command line answers.

    python benchmarks/start_up.py [--runs 7]

Whole processes, one after the other in turn, wall time; medians and their ratio to a bare Python.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "squeeze --help": [sys.executable, "-m", "squeeze.cli", "--help"],
    "squeeze check digits": [sys.executable, "-m", "squeeze.cli", "check", "plans/digits.yaml"],
    "import torch": [sys.executable, "-c", "import torch"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, command in COMMANDS.items():
            seconds[name].append(timed(command))
    bare = statistics.median(seconds["python -c pass"])
    print(f"{'command':<24}{'median s':>10}{'min':>8}{'max':>8}{'to bare Python':>16}")
    for name, value in seconds.items():
        median = statistics.median(value)
        print(f"{name:<24}{median:>10.3f}{min(value):>8.3f}{max(value):>8.3f}{median / bare:>15.1f}x")


def timed(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
