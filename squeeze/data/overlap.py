"""Examples that stand in two roles: a score on what was calibrated or trained on is no score.

Equal pictures and sentences, and texts with 13 tokens or 13 words in a row in common, are refused.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from squeeze.data.base import Dataset
from squeeze.data.choices import ChoiceDataset
from squeeze.data.grams import GRAM, Texts, sharing
from squeeze.data.text import TokenDataset
from squeeze.errors import DataError

FEWEST_WORDS = 8  # a text with fewer is compared by its tokens alone: "I agree with you" says nothing of its source


def shared_examples(one: Dataset, other: Dataset) -> int:
    """How many examples of ``other`` stand in ``one`` too: pixel for pixel, or with 13 tokens or words in a row."""
    return int(_shared(other, one).sum())


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
    """Text without the sequences that share 13 tokens or words in a row with the evaluation text."""
    if not isinstance(data, TokenDataset) or texts_of(evaluate) is None:
        return data
    left = data.only(~_shared(data, evaluate))
    if not len(left):
        raise DataError(f"{data.name}: every sequence shares {GRAM} tokens in a row with the evaluation text")
    return left


def _shared(mine: Dataset, theirs: Dataset) -> np.ndarray:
    """``[n]`` bool: which examples of ``mine`` stand in ``theirs`` too."""
    tokens, others = texts_of(mine), texts_of(theirs)
    if tokens is None or others is None:
        known = set(theirs.fingerprints)
        return np.array([fingerprint in known for fingerprint in mine.fingerprints], dtype=bool)
    shared = sharing(tokens, _flat(others))
    if mine.words is not None and theirs.words is not None:
        shared |= sharing(mine.words, _flat(theirs.words), FEWEST_WORDS)
    return shared


def texts_of(data: Dataset) -> list[Texts] | None:
    """The texts of each example in tokens; None where the data is no text."""
    if isinstance(data, TokenDataset):
        return [[sequence] for sequence in data.tokens]
    return [data.texts(index) for index in range(len(data))] if isinstance(data, ChoiceDataset) else None


def _flat(examples: list[Texts] | list[list[np.ndarray]]) -> Texts:
    return [text for texts in examples for text in texts]
