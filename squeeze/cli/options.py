"""Options that several commands share."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from squeeze.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes, on Linux
JSON_STREAM = "squeeze.json_stream"


class _PathName(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A path that a file system can hold; whether something is there is the command's business."""

    name = "path"

    def convert(self, value: Any, _param: click.Parameter | None, _context: click.Context | None) -> Path:
        path = Path(value)
        sizes = [len(part.encode(errors="surrogateescape")) for part in path.parts]
        if "\0" in str(path) or max(sizes, default=0) > LONGEST_NAME or len(str(path)) > LONGEST_PATH:
            raise UsageError(f"{path}: no name that a file system holds; at most {LONGEST_NAME} bytes each would do")
        return path


PATH = _PathName()


def _keep_stdout_clean(context: click.Context, _parameter: click.Parameter, as_json: bool) -> bool:
    """With ``--json``, whatever libraries and users' code print goes to standard error."""
    if as_json:
        context.meta[JSON_STREAM] = sys.stdout
        context.with_resource(redirect_stdout(sys.stderr))
    return as_json


json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    callback=_keep_stdout_clean,
    help="Print JSON on standard output and nothing else.",
)
store_option = click.option(
    "--store",
    type=PATH,
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
    return click.argument("plan", type=PATH)(set_option(var_option(command)))


def limit_options(command: F) -> F:
    """``--time-limit --memory-limit``, given to the command as ``limits``: those fields of ``Limits`` that are set."""

    @wraps(command)
    def limited(*arguments: Any, time_limit: float | None, memory_limit: str | None, **options: Any) -> Any:
        memory = None if memory_limit is None else _bytes(memory_limit)
        set_limits = {"seconds": time_limit, "memory_bytes": memory}
        limits = {name: value for name, value in set_limits.items() if value is not None}
        return command(*arguments, limits=limits, **options)

    time = click.option(
        "--time-limit",
        type=click.FloatRange(1),
        help="Seconds that the package's model may take: 60 for its golden input, 600 for each batch that is scored.",
    )
    memory = click.option(
        "--memory-limit",
        metavar="SIZE",
        help="As in 8GB; unless given, four times the model's size and 2 GiB, or 8 GiB while it is scored.",
    )
    return time(memory(limited))  # type: ignore[return-value]


def _bytes(text: str) -> int:
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,3})?)\s*([KMGT]i?)?B\s*", text)
    if match is None:
        raise UsageError(f"--memory-limit {text!r:.40} cannot be read; 8GB or 1500MB would do")
    unit = match.group(2) or ""
    factor = (1024 if unit.endswith("i") else 1000) ** " KMGT".index(unit[:1] or " ")
    return int(float(match.group(1)) * factor)


def existing(package: Path) -> Path:
    """The path of a package; a missing file is a usage error, not a failed verification."""
    if not package.exists():
        raise UsageError(f"{package}: no such package; a .zip or an unpacked folder would do")
    return package


def require_new(path: Path, force: bool, example: str, what: str) -> None:
    """Refuse a file that cannot be written, or is there already and may not be overwritten."""
    if path.is_file() and not force:
        raise UsageError(f"{path} is there already; --force overwrites it")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; {path / example} would be {what}")


def load_plan(plan: Path, overrides: tuple[str, ...], variables: tuple[str, ...]) -> Any:
    from squeeze.api import load

    return load(plan, overrides, _pairs(variables))


def show_json(value: Any) -> None:
    stream = click.get_current_context().meta.get(JSON_STREAM, sys.stdout)
    click.echo(json.dumps(value, indent=1, default=str), file=stream)


def _pairs(variables: tuple[str, ...]) -> dict[str, str]:
    split = [variable.partition("=") for variable in variables]
    if bad := ["".join(parts) for parts in split if not all(parts[:2])]:
        raise UsageError(f"--var {bad[0]}: not of the form NAME=VALUE")
    return {name: value for name, _, value in split}
