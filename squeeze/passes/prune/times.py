"""Measured times that a choice went by: read from a file or from a run that was killed, kept for the next one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from squeeze.errors import DataError
from squeeze.passes.base import Context

TABLE = "latency_table"  # in journals and measurements.json


def known_times(file: str | None, context: Context) -> dict[str, float]:
    """Seconds by what was measured; nothing is known at first.

    Raises:
        DataError: the file is no such table.
    """
    if file is not None:
        return read_times(context.root / file)
    return {key: value.item() for key, value in (context.finished(TABLE) or {}).items()}


def keep_times(seconds: Mapping[str, float], context: Context) -> None:
    """Write them to the journal, and to the run's measurements."""
    if not seconds:
        return
    context.measured[TABLE] = dict(sorted(seconds.items()))
    context.keep(TABLE, {key: torch.tensor(value, dtype=torch.float64) for key, value in sorted(seconds.items())})


def read_times(file: Path) -> dict[str, float]:
    """Seconds by what was measured: from a ``measurements.json`` or ``report.json``, or from a table alone.

    Raises:
        DataError: there is no such table in it.
    """
    try:
        values = json.loads(file.read_text())
        values = values.get("ledger", values)  # of a report
        rows = [row.get("measured", {}).get(TABLE, {}) for row in values.get("rows", [])]
        tables = rows if "rows" in values else [values.get(TABLE, values)]
        times = {str(key): float(value) for table in tables for key, value in table.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        times = {}
    if not times:
        raise DataError(f"{file}: no latency table; a run's measurements.json, or seconds by layer, would do")
    return times
