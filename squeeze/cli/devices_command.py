"""``squeeze devices``: the profiles that a target's ``device:`` may name, each figure with its source."""

from __future__ import annotations

from pathlib import Path

import click

from squeeze.cli.options import json_option, show_json

EPILOG = """\b
Examples:
  squeeze devices
  squeeze devices pi5
  squeeze devices ./board.yaml"""


@click.command("devices", epilog=EPILOG)
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List every device profile; with NAME (or a profile's .yaml file), its figures and where they come from."""
    from squeeze.report.text import size
    from squeeze.targets import devices

    names = devices.names() if name is None else [name]
    profiles = {one: devices.load(one, Path.cwd()) for one in names}
    if as_json:
        show_json({one: device.model_dump(mode="json") for one, device in profiles.items()})
        return
    width = max(map(len, profiles))
    for one, device in profiles.items():
        room = f"RAM {size(device.memory_bytes.value)}, storage {size(device.storage_bytes.value)} for an app"
        click.echo(f"{one:<{width}}  {device.title}: {room}")
        for figure, value in device if name is not None else ():
            if isinstance(value, devices.Figure):
                click.echo(f"  {figure} {value.value:,.15g}: {value.source}")
        for format_, measured in device.measured.items() if name is not None else ():
            kinds = len(measured.rates) + len(measured.elements)
            click.echo(f"  layers as {format_}, {kinds} kinds, threads {measured.threads}: {measured.source}")
