"""``squeeze bench``: how fast is a package on this host, and how fast is this host?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from squeeze.cli.options import PATH, existing, json_option, limit_options, require_new, show_json
from squeeze.errors import UsageError

EPILOG = """\b
Examples:
  squeeze bench result/digits-cpu.zip --threads 2 --batch 1 --batch 32
  squeeze bench result/prose6m-cpu.zip --threads 2 --prompt 128 --tokens 64
  squeeze bench result/model-gguf.zip result/model-genai.zip
  squeeze bench --profile host.yaml --threads 1    then: target: {..., device: ./host.yaml}"""
SCREEN = "-"  # where a profile without a file's name goes
LAYER_S = 0.02


@click.command("bench", epilog=EPILOG)
@click.argument("packages", type=PATH, nargs=-1)
@click.option(
    "--profile",
    type=PATH,
    is_flag=False,
    flag_value=SCREEN,
    metavar="[FILE]",
    help="Measure this host instead, two minutes long, and write a device profile (without FILE: show it).",
)
@click.option("--force", is_flag=True, help="With --profile: overwrite a file that is there.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, default=(1, 8, 32), show_default=True)
@click.option(
    "--seconds",
    type=click.FloatRange(0.001, 3600),
    help=f"Per batch size (2 unless given); with --profile per layer ({LAYER_S}).",
)
@click.option("--prompt", type=click.IntRange(1), default=128, show_default=True, help="Tokens a language model reads.")
@click.option("--tokens", type=click.IntRange(1), default=64, show_default=True, help="Tokens it writes.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Times it does both.")
@limit_options
@json_option
def command(
    packages: tuple[Path, ...],
    profile: Path | None,
    force: bool,
    threads: int,
    batches: tuple[int, ...],
    seconds: float | None,
    prompt: int,
    tokens: int,
    rounds: int,
    limits: dict[str, Any],
    as_json: bool,
) -> None:
    """Measure PACKAGES: latency (median, p10, p90) and throughput, load time, peak memory.

    Of a language model: tokens per second, reading and writing, and the time to the first token. Several packages take
    turns, each in a process of its own, and stand side by side.

    With --profile, measure this host: what its memory and its runtimes do with layers of each kind and size, as a
    profile for device:.
    """
    if seconds is not None and math.isnan(seconds):
        raise UsageError("--seconds nan is no time; 2 would be")
    if profile is not None and packages:
        raise UsageError(f"{packages[0]} beside --profile: a package is measured, or this host; leave one of them out")
    if profile is not None:
        _profile(profile, force, threads, LAYER_S if seconds is None else seconds, as_json)
        return
    if not packages:
        raise UsageError("bench what? A package would do, or --profile for this host")
    if force:
        raise UsageError("--force goes with --profile, which writes a file")
    load = (batches, 2.0 if seconds is None else seconds, prompt, tokens, rounds)
    _measure(packages, threads, load, limits, as_json)


def _measure(
    packages: tuple[Path, ...], threads: int, load: tuple[Any, ...], limits: dict[str, Any], as_json: bool
) -> None:
    from squeeze.cli.show import show_bench, show_side_by_side
    from squeeze.cli.terminal import progress_for_terminal
    from squeeze.targets.bench import Load, bench, in_turns
    from squeeze.targets.confined import Limits
    from squeeze.targets.verify import open_package

    opened = [open_package(existing(package)) for package in packages]
    progress, confined = progress_for_terminal(), Limits(**limits)
    if len(opened) == 1:
        progress.say(f"measuring {packages[0]}")
        measured = bench(opened[0], threads, Load(*load), confined)
        if as_json:
            show_json({"package": str(packages[0])} | measured)
        else:
            show_bench(packages[0], measured)
        return
    with progress:
        turns = in_turns(opened, threads, Load(*load), confined, progress)
    if as_json:
        each = zip(packages, turns, strict=True)
        show_json({"packages": [{"package": str(package), "turns": found} for package, found in each]})
    else:
        show_side_by_side(packages, turns)


def _profile(file: Path, force: bool, threads: int, seconds: float, as_json: bool) -> None:
    """Measure this host; the file appears whole, or not at all."""
    import os

    from squeeze.cli.terminal import progress_for_terminal
    from squeeze.targets.devices import SUFFIXES
    from squeeze.targets.host_profile import as_yaml, measure_profile

    shown = file == Path(SCREEN)
    if not shown:
        if file.suffix not in SUFFIXES:
            raise UsageError(f"{file}: a plan's device would not find it; a name that ends in .yaml would do")
        require_new(file, force, "host.yaml", "a profile's name")
    if threads > (cores := os.cpu_count() or 1):
        raise UsageError(f"--threads {threads}: this host has {cores} cores; at most as many would do")
    with progress_for_terminal() as progress:
        measured = measure_profile(threads, seconds, progress=progress)
    if not shown:
        new = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            new.write_text(as_yaml(measured), encoding="utf-8")
            new.replace(file)
        except OSError as error:
            raise UsageError(f"{file}: cannot be written ({error.strerror})") from None
        finally:
            new.unlink(missing_ok=True)
    if as_json:
        show_json(measured)
    elif shown:
        click.echo(as_yaml(measured), nl=False)
    else:
        click.echo(f"wrote {file}; next: target: {{..., device: ./{file}}} in a plan, or squeeze devices ./{file}")
