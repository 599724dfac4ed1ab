"""``squeeze data``: every kind of data; with a plan, what its roles hold and what was left out of them, and why."""

from __future__ import annotations

from pathlib import Path

import click

from squeeze.cli.listing import list_all, show_one
from squeeze.cli.options import json_option, load_plan, set_option, show_json, store_option, var_option

EPILOG = """\b
Examples:
  squeeze data
  squeeze data text
  squeeze data plan.yaml"""
PLAN_SUFFIXES = (".yaml", ".yml")


@click.command("data", epilog=EPILOG)
@click.argument("name", required=False)
@set_option
@var_option
@store_option
@json_option
def command(
    name: str | None, overrides: tuple[str, ...], variables: tuple[str, ...], store: Path, as_json: bool
) -> None:
    """List every data source, built in and plugged in; with NAME, its options; with a PLAN, what its data holds.

    Of a plan, data is chosen and written as a run does it, kept in the store, and found there by the run.
    """
    if name is None:
        list_all("data", as_json)
    elif Path(name).suffix in PLAN_SUFFIXES:
        _show(Path(name), overrides, variables, store, as_json)
    else:
        show_one("data", name, as_json)


def _show(plan: Path, overrides: tuple[str, ...], variables: tuple[str, ...], store: Path, as_json: bool) -> None:
    from squeeze.cli.terminal import progress_for_terminal
    from squeeze.run.lender import data_of
    from squeeze.store import Store

    loaded = load_plan(plan, overrides, variables)
    with progress_for_terminal(quiet=as_json) as progress:
        held = data_of(loaded, Store(store, progress), progress)
    if as_json:
        show_json(held)
        return
    for role, facts in held.items():
        click.echo(f"{role}: {facts['examples']:,} examples of {facts['name']}")
        for what, count in facts["selection"].items():
            click.echo(f"  {count:>8,}  {what}" if isinstance(count, int) else f"  {what}: {count}")
