"""Options that several commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

import click

from squeeze.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

JSON_STREAM = "squeeze.json_stream"


def _keep_stdout_clean(context: click.Context, _parameter: click.Parameter, wanted: bool) -> bool:
    """With ``--json``, whatever libraries and users' code print goes to standard error."""
    if wanted:
        context.meta[JSON_STREAM] = sys.stdout
        context.with_resource(redirect_stdout(sys.stderr))
    return wanted


json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    callback=_keep_stdout_clean,
    help="Print JSON on standard output and nothing else.",
)
plan_argument = click.argument("plan", type=click.Path(path_type=Path))
store_option = click.option(
    "--store",
    type=click.Path(path_type=Path),
    envvar="SQUEEZE_STORE",
    default=Path(".squeeze/store"),
    show_default=True,
    help="Where finished passes lie, so that a run goes on where it stopped.",
)
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override one value, as in passes.0.ratio=0.5."
)
var_option = click.option(
    "--var", "variables", multiple=True, metavar="NAME=VALUE", help="Fill in ${NAME}; wins over the plan's vars."
)


def plan_options(command: F) -> F:
    """``PLAN --set --var``."""
    return plan_argument(set_option(var_option(command)))


def existing(package: Path) -> Path:
    """The path of a package, if there is something: a slip of the pen is no package that fails."""
    if not package.exists():
        raise UsageError(f"{package}: no such package; a .zip or an unpacked folder would do")
    return package


def load_plan(plan: Path, overrides: tuple[str, ...], variables: tuple[str, ...]) -> Any:
    """The plan of a command line."""
    from squeeze.plan.plan import Plan

    return Plan.load(plan, overrides, _pairs(variables))


def show_json(value: Any) -> None:
    """JSON on standard output."""
    stream = click.get_current_context().meta.get(JSON_STREAM, sys.stdout)
    click.echo(json.dumps(value, indent=1, default=str), file=stream)


def _pairs(variables: tuple[str, ...]) -> dict[str, str]:
    split = [variable.partition("=") for variable in variables]
    if bad := ["".join(parts) for parts in split if not all(parts[:2])]:
        raise UsageError(f"--var {bad[0]}: not of the form NAME=VALUE")
    return {name: value for name, _, value in split}
