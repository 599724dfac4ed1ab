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
    kept = context.journal.get(TABLE) if context.journal is not None else None
    return {key: value.item() for key, value in (kept or {}).items()}


def keep_times(seconds: Mapping[str, float], context: Context) -> None:
    """Write them to the journal, and to the run's measurements."""
    if not seconds:
        return
    context.measured[TABLE] = dict(sorted(seconds.items()))
    if context.journal is not None:
        tensors = {key: torch.tensor(value, dtype=torch.float64) for key, value in sorted(seconds.items())}
        context.journal.put(TABLE, tensors)


def read_times(file: Path) -> dict[str, float]:
    """Seconds per layer shape, as ``measurements.json`` keeps them under ``latency_table``."""
    try:
        times = json.loads(file.read_text())
        return {str(key): float(value) for key, value in times.get(TABLE, times).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        raise DataError(f"{file}: no latency table; a JSON object of layer shape to seconds would be") from None
