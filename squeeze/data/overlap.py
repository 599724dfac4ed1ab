"""Examples that stand in two roles: a score on what was calibrated or trained on is no score."""

from __future__ import annotations

from collections.abc import Mapping

from squeeze.data.base import Dataset
from squeeze.data.choices import ChoiceDataset
from squeeze.data.grams import GRAM, Texts, sharing
from squeeze.data.text import TokenDataset
from squeeze.errors import DataError


def shared_examples(one: Dataset, other: Dataset) -> int:
    """How many examples of ``other`` stand in ``one`` too: pixel for pixel, or with 13 tokens in a row."""
    mine, theirs = texts_of(one), texts_of(other)
    if mine is not None and theirs is not None:
        return int(sharing(theirs, [text for texts in mine for text in texts]).sum())
    seen = set(one.fingerprints)
    return sum(fingerprint in seen for fingerprint in other.fingerprints)


def refuse_overlap(evaluate: Dataset, others: Mapping[str, Dataset], where: str = "data.evaluate") -> None:
    """Raise ``DataError`` where evaluation data is also calibration or training data."""
    for role, data in others.items():
        if count := shared_examples(data, evaluate):
            cure = "split with skip / samples and one seed"
            if isinstance(data, TokenDataset):
                cure = f"drop_overlap: true in data.{role} leaves out what it shares"
            raise DataError(
                f"{where}: {count} of {len(evaluate)} examples are also in data.{role}; "
                f"a score on them proves nothing: {cure}"
            )


def without_overlap(data: Dataset, evaluate: Dataset) -> Dataset:
    """Text without the sequences that share 13 tokens in a row with the evaluation text."""
    theirs = texts_of(evaluate)
    if not isinstance(data, TokenDataset) or theirs is None:
        return data
    left = data.without([text for texts in theirs for text in texts])
    if not len(left):
        raise DataError(f"{data.name}: every sequence shares {GRAM} tokens in a row with the evaluation text")
    return left


def texts_of(data: Dataset) -> list[Texts] | None:
    """The texts of each example in tokens; None where the data is no text."""
    if isinstance(data, TokenDataset):
        return [[sequence] for sequence in data.tokens]
    return [data.texts(index) for index in range(len(data))] if isinstance(data, ChoiceDataset) else None
