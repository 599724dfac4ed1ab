"""Does a file's own reader see the grid that it was made from? Summed up for the ledger; a difference stops."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from squeeze.errors import VerifyError
from squeeze.models.language.proof import Equality


def proven(equalities: Iterable[Equality]) -> list[dict[str, Any]]:
    """One line per format, reader and float type: tensors and weights compared, all of them equal.

    Raises:
        VerifyError: a reader sees other weights.
    """
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    for found in equalities:
        if not found.equal:
            where = f"{found.form}: {found.name}: {found.reader} reads {found.differing} of {found.weights} weights"
            raise VerifyError(f"{where} otherwise than they were written, in {found.dtype}; none would be right")
        key = (found.form, found.reader, found.dtype)
        said = {"format": found.form, "reader": found.reader, "dtype": found.dtype, "tensors": 0, "weights": 0}
        line = lines.setdefault(key, said | {"differing": 0})
        line["tensors"] += 1
        line["weights"] += found.weights
    return list(lines.values())
