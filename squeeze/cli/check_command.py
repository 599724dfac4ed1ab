"""``squeeze check``: every fault of a plan at once, without loading weights."""

from __future__ import annotations

from pathlib import Path

import click

from squeeze.cli.options import json_option, load_plan, plan_options, show_json
from squeeze.errors import PlanError

EPILOG = """\b
Example:
  squeeze check plans/digits.yaml --explain"""


@click.command("check", epilog=EPILOG)
@plan_options
@click.option("--explain", is_flag=True, help="Say what each pass will do: layers, parameters, bytes.")
@click.option("--data", "read_data", is_flag=True, help="Read all data too: does evaluation data stand in two roles?")
@json_option
def command(
    plan: Path,
    overrides: tuple[str, ...],
    variables: tuple[str, ...],
    explain: bool,
    read_data: bool,
    as_json: bool,
) -> None:
    """Check PLAN: form, order, options, selectors, data, extras, targets. Exit code 2 with every fault."""
    from squeeze.cli.explained import check_json, show_explained
    from squeeze.plan.check import check
    from squeeze.run.opened import open_all

    loaded = load_plan(plan, overrides, variables)
    result = check(loaded)
    if result.faults:
        raise PlanError(loaded.located(result.faults), str(plan))
    warnings = [fault.located(str(plan)) for fault in loaded.located(result.warnings)]
    warnings += open_all(loaded, {}).warnings if read_data else []
    if as_json:
        found = check_json(result, loaded.threads if explain else None)
        show_json({"plan": str(plan), "ok": True, "warnings": warnings, **found})
    elif explain:
        show_explained(result, loaded.threads)
    else:
        click.echo(f"{plan}: {len(list(loaded.every_step()))} passes, {len(loaded.branches)} targets: no faults")
    for line in () if as_json else result.fits:
        click.echo(line)
    for line in () if as_json else warnings:
        click.echo(f"warning: {line}")
