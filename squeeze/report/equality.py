"""Which files were proven to hold the very weights of the grid: by whose reader, how many, in which float type."""

from __future__ import annotations

from typing import Any

from squeeze.report.shape import Report, Row

COLUMNS = ("pass", "format", "read by", "compared in", "tensors", "weights", "equal")
NUMBERS = ("tensors", "weights", "differing")
WORDS = ("format", "reader", "dtype")


def equality_lines(report: Report) -> list[tuple[str, ...]]:
    """Under :data:`COLUMNS`, for every row that proved something."""
    return [(row.label, *_cells(line)) for row in report.rows for line in _proof(row)]


def equality_words(proof: list[dict[str, Any]]) -> str:
    """The same in one line."""
    parts = []
    for line in proof:
        form, reader, dtype, tensors, _, equal = _cells(line)
        parts.append(f"{form} as {reader} reads it in {dtype}: {tensors} tensors, {equal}")
    return "; ".join(parts)


def _cells(line: dict[str, Any]) -> tuple[str, ...]:
    form, reader, dtype = (str(line[name]) for name in WORDS)
    tensors, weights, differing = (int(line[name]) for name in NUMBERS)
    equal = "bit for bit" if not differing else f"all but {differing:,}"
    return form, reader, dtype, f"{tensors:,}", f"{weights:,}", equal


def _proof(row: Row) -> list[dict[str, Any]]:
    """A pass of another's may use the name for something else."""
    proof = row.facts.get("proof")
    lines = proof if isinstance(proof, list) else []
    return [line for line in lines if isinstance(line, dict) and {*WORDS, *NUMBERS} <= set(line)]
