"""``squeeze verify``: is a package what it claims to be?"""

from __future__ import annotations

from dataclasses import asdict, replace
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
  squeeze verify result/digits-cpu.zip
  squeeze verify result/digits-cpu.zip --data plans/digits.yaml"""


@click.command("verify", epilog=EPILOG)
@click.argument("package", type=PATH)
@click.option("--data", type=PATH, help="A plan whose data.evaluate and metrics to score it on.")
@var_option
@store_option
@limit_options
@json_option
def command(
    package: Path, data: Path | None, variables: tuple[str, ...], store: Path, limits: dict[str, Any], as_json: bool
) -> None:
    """Check PACKAGE (zip or unpacked folder): sums, paths, sizes, the golden output in its runtime.

    Its model runs in a process of its own, without network, with limits on time and memory. With --data, every metric
    of that plan that the package can be scored by is scored again, and must equal the ledger's up to rounding where the
    data is the same (on a processor that gives other golden outputs: up to what these allow, which is shown); --store
    saves scoring the original once more.

    Exit code 4 when it does not verify.
    """
    from squeeze.cli.show import show_verified
    from squeeze.cli.terminal import progress_for_terminal
    from squeeze.run.rescore import rescore
    from squeeze.store import Store
    from squeeze.targets.confined import SCORING, Limits
    from squeeze.targets.verify import open_package, verify

    opened = open_package(existing(package))
    verification = verify(opened, Limits(**limits))
    progress, scored = progress_for_terminal(), None
    if data is not None:
        cache = Store(store, progress) if store.is_dir() else None
        scored = rescore(opened, load_plan(data, (), variables), progress, cache, replace(SCORING, **limits))
    if as_json:
        result = {"package": str(package), "digest": opened.manifest.digest, "verified": True}
        show_json(result | asdict(verification) | {"rescored": scored})
    else:
        show_verified(package, opened.manifest.digest, verification, scored)
