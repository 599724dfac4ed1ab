"""``squeeze init``: a commented plan to start from."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import click

from squeeze.cli.options import PATH, json_option, show_json
from squeeze.errors import UsageError

EPILOG = """\b
Example:
  squeeze init my-plan.yaml && squeeze check my-plan.yaml --explain"""


@click.command("init", epilog=EPILOG)
@click.argument("path", type=PATH, default=Path("plan.yaml"))
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@json_option
def command(path: Path, force: bool, as_json: bool) -> None:
    """Write a commented starter plan to PATH (plan.yaml); it runs as it is, on the digits that come along."""
    if path.is_file() and not force:
        raise UsageError(f"{path} is there already; --force overwrites it")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; {path / 'plan.yaml'} would be a plan's name")
    try:
        path.write_text(files("squeeze.cli").joinpath("starter.yaml").read_text())
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from None
    if as_json:
        show_json({"written": str(path)})
    else:
        click.echo(f"wrote {path}; next: squeeze check {path} --explain")
