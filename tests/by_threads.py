"""Code that must print the same whatever the number of threads, run in processes of its own."""

from __future__ import annotations

import subprocess
import sys

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def printed_by_threads(code: str) -> set[str]:
    """What the code prints with one thread and with two; one text where it is the same."""
    texts = set()
    for threads in ("1", "2"):
        environment = dict.fromkeys(VARIABLES, threads) | {"PYTHONPATH": ":".join(filter(None, sys.path))}
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        texts.add(run.stdout)
    return texts
