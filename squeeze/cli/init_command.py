"""``squeeze init``: a commented plan to start from."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import click

from squeeze.cli.options import PATH, json_option, require_new, show_json
from squeeze.errors import UsageError

PLAN_SUFFIXES = (".yaml", ".yml")
EPILOG = """\b
Examples:
  squeeze init my-plan.yaml && squeeze check my-plan.yaml --explain
  squeeze init model.gguf --out my-plan.yaml"""


@click.command("init", epilog=EPILOG)
@click.argument("path", type=PATH, default=Path("plan.yaml"))
@click.option("--out", type=PATH, default=Path("plan.yaml"), help="Where a plan for a MODEL is written.")
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@json_option
def command(path: Path, out: Path, force: bool, as_json: bool) -> None:
    """Write a commented starter plan to PATH (plan.yaml); it runs as it is, on the digits that come along.

    Where PATH is a model (a Hugging Face folder, a .gguf or .onnx file), the plan fits it and says what is to fill in.
    """
    from squeeze.plan.draft import draft, is_model

    if not is_model(path):
        if path.suffix not in PLAN_SUFFIXES and not path.is_dir():
            raise UsageError(f"{path}: no model is there, and it is no plan's name; one that ends in .yaml would be")
        _write(path, files("squeeze.cli").joinpath("starter.yaml").read_text(), force, as_json, None)
        return
    require_new(out, force, "plan.yaml", "a plan's name")
    what, text = draft(path)
    _write(out, text, force, as_json, f"{path}: {what}")


def _write(path: Path, text: str, force: bool, as_json: bool, what: str | None) -> None:
    require_new(path, force, "plan.yaml", "a plan's name")
    try:
        path.write_text(text)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from None
    if as_json:
        show_json({"written": str(path)} | ({"model": what} if what else {}))
    else:
        if what:
            click.echo(what)
        click.echo(f"wrote {path}; next: squeeze check {path} --explain")
