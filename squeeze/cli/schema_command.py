"""``squeeze schema``: the JSON schema of plan files."""

from __future__ import annotations

import click

from squeeze.cli.options import json_option, show_json

EPILOG = """\b
Example:
  squeeze schema > squeeze-plan.schema.json"""


@click.command("schema", epilog=EPILOG)
@json_option
def command(as_json: bool) -> None:  # the output is JSON either way
    """Print the JSON schema of plan files, for editors that complete and check YAML."""
    from squeeze.plan.schema import plan_schema

    del as_json
    show_json(plan_schema())
