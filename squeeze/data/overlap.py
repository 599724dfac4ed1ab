"""Examples that stand in two roles: a score on what was calibrated or trained on is no score."""

from __future__ import annotations

from squeeze.data.base import Dataset
from squeeze.errors import DataError


def shared_examples(one: Dataset, other: Dataset) -> int:
    """How many examples of ``other`` stand, pixel for pixel, in ``one`` too."""
    seen = set(one.fingerprints)
    return sum(fingerprint in seen for fingerprint in other.fingerprints)


def refuse_overlap(evaluate: Dataset, others: dict[str, Dataset]) -> None:
    """Raise ``DataError`` where evaluation data is also calibration or training data."""
    for role, data in others.items():
        if count := shared_examples(data, evaluate):
            raise DataError(
                f"data.evaluate: {count} of {len(evaluate)} examples are also in data.{role}; "
                "a score on them proves nothing: split with skip / samples and one seed"
            )
