"""``squeeze bench``: how fast is a package on this host?"""

from __future__ import annotations

from pathlib import Path

import click

from squeeze.cli.options import existing, json_option, show_json

EPILOG = """\b
Example:
  squeeze bench result/digits-cpu.zip --threads 2 --batch 1 --batch 32"""


@click.command("bench", epilog=EPILOG)
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, default=(1, 8, 32), show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1), default=2.0, show_default=True, help="Per batch size.")
@json_option
def command(package: Path, threads: int, batches: tuple[int, ...], seconds: float, as_json: bool) -> None:
    """Measure PACKAGE: latency (median, p10, p90), throughput, load time, peak memory."""
    from squeeze.cli.show import show_bench
    from squeeze.progress import progress_for_terminal
    from squeeze.targets.bench import bench
    from squeeze.targets.verify import open_package

    found = bench(open_package(existing(package)), threads, batches, seconds, progress_for_terminal())
    if as_json:
        show_json({"package": str(package)} | found)
    else:
        show_bench(package, found)
