"""``squeeze verify``: is a package what it claims to be?"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from squeeze.cli.arm64_root_command import DEFAULT
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

if TYPE_CHECKING:
    from squeeze.plan.plan import Plan
    from squeeze.run.on_arm64 import OnArm64
    from squeeze.targets.verify import Package

EPILOG = """\b
Examples:
  squeeze verify result/digits-cpu.zip
  squeeze verify result/digits-cpu.zip --data plans/digits.yaml
  squeeze verify result/digits-cpu.zip --data plans/digits.yaml --arm64"""


@click.command("verify", epilog=EPILOG)
@click.argument("package", type=PATH)
@click.option("--data", type=PATH, help="A plan whose data.evaluate and metrics to score it on.")
@click.option("--arm64", is_flag=True, help="Also on an emulated ARM64 processor; with --data, 64 of its examples.")
@click.option(
    "--arm64-root",
    type=PATH,
    envvar="SQUEEZE_ARM64",
    default=DEFAULT,
    show_default=True,
    help="The folder that 'squeeze arm64-root' made.",
)
@var_option
@store_option
@limit_options
@json_option
def command(
    package: Path,
    data: Path | None,
    arm64: bool,
    arm64_root: Path,
    variables: tuple[str, ...],
    store: Path,
    limits: dict[str, Any],
    as_json: bool,
) -> None:
    """Check PACKAGE (zip or unpacked folder): sums, paths, sizes, the golden output in its runtime.

    Its model runs in a process of its own, without network, with limits on time and memory. With --data, every metric
    of that plan that the package can be scored by is scored again, and must equal the ledger's up to rounding where the
    data is the same (on a processor that gives other golden outputs: up to what these allow, which is shown); --store
    saves scoring the original once more.

    With --arm64, the same file runs on an emulated ARM64 processor too, and the scores of both processors stand side by
    side; emulation says nothing of speed.

    Exit code 4 when it does not verify.
    """
    from squeeze.cli.show import show_on_arm64, show_verified
    from squeeze.run.claims import read_ledger
    from squeeze.targets.arm64.root import Arm64Root
    from squeeze.targets.confined import Limits
    from squeeze.targets.verify import open_package, verify

    opened = open_package(existing(package))
    if arm64:
        Arm64Root(arm64_root).require(opened.runtime())
    plan: Plan | None = None
    if data is not None:
        read_ledger(opened)  # it and the plan are refused before the package's model runs
        plan = load_plan(data, (), variables)
    verification = verify(opened, Limits(**limits))
    scored = _rescored(opened, plan, store, limits) if plan is not None else None
    emulated = _emulated(opened, arm64_root, plan, limits) if arm64 else None
    if as_json:
        result = {"package": str(package), "digest": opened.manifest.digest, "verified": True}
        on_other = emulated.to_json() if emulated else None
        show_json(result | asdict(verification) | {"rescored": scored, "arm64": on_other})
    else:
        show_verified(package, opened.manifest.digest, verification, scored)
        if emulated is not None:
            show_on_arm64(emulated)


def _rescored(package: Package, plan: Plan, store: Path, limits: dict[str, Any]) -> dict[str, Any]:
    from squeeze.cli.terminal import progress_for_terminal
    from squeeze.run.rescore import rescore
    from squeeze.store import Store
    from squeeze.targets.confined import SCORING

    progress = progress_for_terminal()
    cache = Store(store, progress) if store.is_dir() else None
    return rescore(package, plan, progress, cache, replace(SCORING, **limits))


def _emulated(package: Package, root: Path, plan: Plan | None, limits: dict[str, Any]) -> OnArm64:
    from squeeze.cli.terminal import progress_for_terminal
    from squeeze.run.on_arm64 import on_arm64
    from squeeze.targets.arm64.compare import EMULATED
    from squeeze.targets.arm64.root import Arm64Root

    return on_arm64(package, Arm64Root(root), plan, replace(EMULATED, **limits), progress_for_terminal())
