"""``squeeze status``: where a run is, while it runs and after."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from squeeze.cli.options import json_option, show_json
from squeeze.errors import UsageError, printable

if TYPE_CHECKING:
    from squeeze.progress import Status

EPILOG = """\b
Example:
  squeeze status squeeze-out/digits"""


@click.command("status", epilog=EPILOG)
@click.argument("out", type=click.Path(path_type=Path))
@json_option
def command(out: Path, as_json: bool) -> None:
    """Say how far the run is whose --out folder is OUT: its last line, the work under way, the time gone and left."""
    from squeeze.progress import STATUS, Status

    status = Status.read(out)
    if status is None:
        raise UsageError(f"{out}: no {STATUS} of a run; the --out folder of squeeze run would have one")
    state = status.ended or ("running" if _alive(status) else "stopped: squeeze run goes on where it was")
    if as_json:
        show_json(asdict(status) | {"state": state})
        return
    for line in _lines(status, state):
        click.echo(printable(line))


def _alive(status: Status) -> bool:
    """Whether the process still runs; unknown for a process of another host."""
    try:
        if status.host == socket.gethostname():
            os.kill(status.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True


def _lines(status: Status, state: str) -> list[str]:
    from squeeze.progress import duration

    now = time.time() if state == "running" else status.written
    took = f"process {status.pid} on {status.host}, {duration(now - status.began)} since the start"
    works = [work.sentence(now) for work in status.works] if state == "running" else []
    return [f"{state} ({took})", *([f"last line: {status.line}"] if status.line else []), *works]
