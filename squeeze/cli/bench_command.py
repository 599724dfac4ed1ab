"""``squeeze bench``: how fast is a package on this host?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from squeeze.cli.options import PATH, existing, json_option, limit_options, show_json

EPILOG = """\b
Example:
  squeeze bench result/digits-cpu.zip --threads 2 --batch 1 --batch 32
  squeeze bench result/prose6m-cpu.zip --threads 2 --prompt 128 --tokens 64"""


@click.command("bench", epilog=EPILOG)
@click.argument("package", type=PATH)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, default=(1, 8, 32), show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1), default=2.0, show_default=True, help="Per batch size.")
@click.option("--prompt", type=click.IntRange(1), default=128, show_default=True, help="Tokens a language model reads.")
@click.option("--tokens", type=click.IntRange(1), default=64, show_default=True, help="Tokens it writes.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Times it does both.")
@limit_options
@json_option
def command(
    package: Path,
    threads: int,
    batches: tuple[int, ...],
    seconds: float,
    prompt: int,
    tokens: int,
    rounds: int,
    limits: dict[str, Any],
    as_json: bool,
) -> None:
    """Measure PACKAGE: latency (median, p10, p90) and throughput, load time, peak memory.

    Of a language model: tokens per second, reading and writing, and the time to the first token.
    """
    from squeeze.cli.show import show_bench
    from squeeze.cli.terminal import progress_for_terminal
    from squeeze.targets.bench import Load, bench
    from squeeze.targets.confined import Limits
    from squeeze.targets.verify import open_package

    opened, load = open_package(existing(package)), Load(batches, seconds, prompt, tokens, rounds)
    progress_for_terminal().say(f"measuring {package}")
    measured = bench(opened, threads, load, Limits(**limits))
    if as_json:
        show_json({"package": str(package)} | measured)
    else:
        show_bench(package, measured)
