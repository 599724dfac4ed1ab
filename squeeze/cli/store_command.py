"""``squeeze store``: what finished passes have left on disk."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from squeeze.cli.options import json_option, show_json, store_option
from squeeze.errors import UsageError

if TYPE_CHECKING:
    from squeeze.store import Entry, Store

SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}
EPILOG = """\b
Examples:
  squeeze store list
  squeeze store prune --older-than 7d"""


@click.group("store", epilog=EPILOG)
def command() -> None:
    """List or prune what finished passes have left on disk."""


@command.command("list")
@store_option
@json_option
def list_command(store: Path, as_json: bool) -> None:
    """List finished entries, most recently used first."""
    entries = _store(store).entries()
    if as_json:
        show_json([_plain(entry) for entry in entries])
        return

    def line(entry: Entry) -> str:
        age = (time.time() - entry.used) / 3600
        return f"{entry.key[:12]}  {entry.size_bytes / 1e6:9.2f} MB  {age:8.1f} h  {entry.what}"

    click.echo("\n".join([*map(line, entries), _total(entries)]))


@command.command("prune")
@click.option("--older-than", "age", required=True, metavar="AGE", help="Not used for that long: 30m, 12h, 7d, 4w.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@store_option
@json_option
def prune_command(store: Path, age: str, dry_run: bool, as_json: bool) -> None:
    """Remove entries that were not used for a while; what a living run uses or makes stays."""
    older_than_s = _seconds(age)
    entries = _store(store).prune(older_than_s, dry_run)
    if as_json:
        show_json([_plain(entry) for entry in entries])
    else:
        click.echo(f"{'would remove' if dry_run else 'removed'} {_total(entries)}")


def _store(folder: Path) -> Store:
    from squeeze.store import Store

    if not folder.is_dir():
        raise UsageError(f"{folder}: no store here; --store names one")
    return Store(folder)


def _seconds(age: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", age)
    if match is None:
        raise UsageError(f"--older-than {age}: not an age; 30m, 12h, 7d or 4w would be one")
    return float(match[1]) * SECONDS[match[2]]


def _plain(entry: Entry) -> dict[str, Any]:
    return {"key": entry.key, "what": entry.what, "size_bytes": entry.size_bytes, "used": entry.used}


def _total(entries: Sequence[Entry]) -> str:
    size = sum(entry.size_bytes for entry in entries)
    return f"{len(entries)} entries, {size / 1e6:,.2f} MB"
