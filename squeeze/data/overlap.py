"""Examples that stand in two roles: a score on what was calibrated or trained on is no score."""

from __future__ import annotations

from squeeze.data.base import Dataset
from squeeze.data.text import GRAM, TokenDataset
from squeeze.errors import DataError


def shared_examples(one: Dataset, other: Dataset) -> int:
    """How many examples of ``other`` stand in ``one`` too: pixel for pixel, or with 13 tokens in a row."""
    if isinstance(one, TokenDataset) and isinstance(other, TokenDataset):
        return int(other.shares_with(one).sum())
    seen = set(one.fingerprints)
    return sum(fingerprint in seen for fingerprint in other.fingerprints)


def refuse_overlap(evaluate: Dataset, others: dict[str, Dataset]) -> None:
    """Raise ``DataError`` where evaluation data is also calibration or training data."""
    for role, data in others.items():
        if count := shared_examples(data, evaluate):
            cure = "split with skip / samples and one seed"
            if isinstance(data, TokenDataset):
                cure = f"drop_overlap: true in data.{role} leaves out what it shares"
            raise DataError(
                f"data.evaluate: {count} of {len(evaluate)} examples are also in data.{role}; "
                f"a score on them proves nothing: {cure}"
            )


def without_overlap(data: Dataset, evaluate: Dataset) -> Dataset:
    """Text without the sequences that share 13 tokens in a row with the evaluation text."""
    if not (isinstance(data, TokenDataset) and isinstance(evaluate, TokenDataset)):
        return data
    left = data.without(evaluate)
    if not len(left):
        raise DataError(f"{data.name}: every sequence shares {GRAM} tokens in a row with the evaluation text")
    return left
