"""``squeeze compare-tensors``: where does a packaged model leave the original?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from squeeze.cli.options import (
    PATH,
    existing,
    json_option,
    limit_options,
    load_plan,
    show_json,
    store_option,
    var_option,
)

EPILOG = """\b
Examples:
  squeeze compare-tensors result/resnet20-cifar10-int8-cpu.zip plans/resnet20-cifar10-int8.yaml
  squeeze compare-tensors result/resnet20-cifar10-int8-cpu.zip plans/resnet20-cifar10-int8.yaml --all"""


@click.command("compare-tensors", epilog=EPILOG)
@click.argument("package", type=PATH)
@click.argument("plan", type=PATH)
@click.option(
    "--examples",
    type=click.IntRange(1, 4096),
    default=16,
    show_default=True,
    help="Of the plan's evaluation data, evenly spread.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 10, min_open=True),
    default=0.1,
    show_default=True,
    help="Root mean square error, as a share of a layer's values, from which it counts as left.",
)
@click.option("--all", "shows_all", is_flag=True, help="Every value; else one per layer, its last.")
@var_option
@store_option
@limit_options
@json_option
def command(
    package: Path,
    plan: Path,
    examples: int,
    tolerance: float,
    shows_all: bool,
    variables: tuple[str, ...],
    store: Path,
    limits: dict[str, Any],
    as_json: bool,
) -> None:
    """Compare what PACKAGE computes on the way with the original of PLAN; name the first layer that is off.

    The file runs in its own runtime, in a process of its own; ONNX Runtime shows the values of .onnx files, LiteRT
    those of .tflite files. A layer that is much further off than what it reads is where to look: its growth says how
    much.
    """
    from dataclasses import asdict, replace

    from squeeze.cli.show import show_tensors
    from squeeze.cli.terminal import progress_for_terminal
    from squeeze.run.compare_tensors import compare_tensors
    from squeeze.store import Store
    from squeeze.targets.confined import SCORING
    from squeeze.targets.verify import open_package

    opened = open_package(existing(package))
    loaded = load_plan(plan, (), variables)
    progress, confined = progress_for_terminal(), replace(SCORING, **limits)
    cache = Store(store, progress) if store.is_dir() else None
    result = compare_tensors(opened, loaded, examples, tolerance, progress, cache, confined)
    if as_json:
        first = asdict(result.first) if result.first else None
        show_json({"package": str(package)} | asdict(result) | {"first": first})
    else:
        show_tensors(package, result, shows_all)
