"""How long each row took, beside what was foretold of it: lines and cells for every renderer."""

from __future__ import annotations

from typing import Any

from squeeze.report.shape import Report, Row
from squeeze.report.text import duration

COLUMNS = ("pass", "took", "foretold", "scoring took", "foretold")
LEAST = 0.1
TENTHS = 10.0  # seconds below which a tenth is told


def span(low: float, high: float) -> str:
    """``3 s to 11 s``; one of both where they are worded alike."""
    ends = list(dict.fromkeys((seconds(low), seconds(high))))
    return " to ".join(ends)


def seconds(value: float) -> str:
    """``0.4 s``, ``2 min 14 s``."""
    if value < LEAST:
        return f"under {LEAST} s"
    return f"{value:.1f} s" if value < TENTHS else duration(value)


def duration_cells(report: Report) -> list[list[str]]:
    """A row of cells for each row of the ledger that was timed in this run; one from the store was not."""
    return [cells for row in report.rows if any((cells := _cells(row))[1:])]


def duration_lines(report: Report) -> list[str]:
    """``gptq: took 12 s (8.1 s to 27 s foretold), scoring 3.2 s (2.0 s to 6.8 s foretold)``."""
    return [_line(*cells) for cells in duration_cells(report)]


def _line(name: str, took: str, foretold: str, scoring: str, foretold_scoring: str) -> str:
    parts = [("took", took, foretold), ("scoring", scoring, foretold_scoring)]
    words = [f"{what} {time}" + (f" ({span} foretold)" if span else "") for what, time, span in parts if time]
    return f"{name}: {', '.join(words)}"


def _cells(row: Row) -> list[str]:
    took, foretold = _part(row, "seconds"), _part(row, "foretold_seconds")
    cells = [row.label]
    for part in ("pass", "scoring"):
        value, ends = took.get(part), foretold.get(part)
        if isinstance(value, int | float):
            cells += [seconds(value), span(*ends) if isinstance(ends, list) and any(ends) else ""]
        else:
            cells += ["", ""]
    return cells


def _part(row: Row, name: str) -> dict[str, Any]:
    """A measured mapping; a plug-in's pass may use the name for something else."""
    value = row.measured.get(name)
    return value if isinstance(value, dict) else {}
