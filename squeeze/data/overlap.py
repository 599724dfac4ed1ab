"""Examples that occur in two roles: data used in calibration or training must not be scored on.

Equal pictures and sentences, and texts with 13 tokens or 13 words in a row in common, are refused. What only looks or
reads like a copy is a warning: it may be chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from squeeze.data.base import Dataset
from squeeze.data.choices import ChoiceDataset
from squeeze.data.documents import Documents
from squeeze.data.grams import GRAM, Texts, sharing
from squeeze.data.similar_images import similar_images
from squeeze.data.similar_texts import similar_texts
from squeeze.data.token_dataset import TokenDataset
from squeeze.errors import DataError

OF_TEXT = (TokenDataset, ChoiceDataset, Documents)
ALIKE = "saved again, resized, mirrored or retouched; a score on copies proves little"
CHANGED = "changed; a score on copies proves little"
FEWEST_WORDS = 8  # fewest words compared fuzzily: "I agree with you" says nothing of its source


def shared_examples(one: Dataset, other: Dataset) -> int:
    """How many examples of ``other`` stand in ``one`` too: pixel for pixel, or with 13 tokens or words in a row."""
    return int(_shared(other.once(), one.once()).sum())


def refuse_overlap(evaluate: Dataset, others: Mapping[str, Dataset], where: str = "data.evaluate") -> None:
    """Raise ``DataError`` where evaluation data is also calibration or training data."""
    for role, data in others.items():
        if count := shared_examples(data, evaluate):
            cure = "split with skip / samples and one seed"
            if isinstance(data, TokenDataset):
                cure = f"drop_overlap: true in data.{role} leaves out what it shares"
            raise DataError(
                f"{where}: {count} of {len(evaluate.once())} examples are also in data.{role}; "
                f"a score on them proves nothing: {cure}"
            )


def without_overlap(data: Dataset, evaluate: Dataset) -> Dataset:
    """Text without the sequences that share 13 tokens or words in a row with the evaluation text."""
    if not isinstance(data, TokenDataset) or not isinstance(evaluate, OF_TEXT):
        return data
    remaining = data.only(~_shared(data, evaluate))
    if not len(remaining):
        raise DataError(f"{data.name}: every sequence shares {GRAM} tokens in a row with the evaluation text")
    return remaining


def _shared(mine: Dataset, theirs: Dataset) -> np.ndarray:
    """``[n]`` bool: which examples of ``mine`` stand in ``theirs`` too."""
    fingerprints = set(theirs.fingerprints)
    shared = np.array([fingerprint in fingerprints for fingerprint in mine.fingerprints], dtype=bool)
    tokens, others = texts_of(mine), texts_of(theirs)
    if tokens is not None and others is not None:
        shared = sharing(tokens, _flat(others))
    texts = isinstance(mine, OF_TEXT) and isinstance(theirs, OF_TEXT)
    if texts and mine.words is not None and theirs.words is not None:
        shared |= sharing(mine.words, _flat(theirs.words), FEWEST_WORDS)
    return shared


def overlap_warnings(evaluate: Dataset, others: Mapping[str, Dataset], where: str = "data.evaluate") -> Iterator[str]:
    """A line for each other role whose data holds what looks or reads like evaluation data."""
    evaluate = evaluate.once()
    for role, data in ((role, data.once()) for role, data in others.items()):
        if evaluate.sketches and data.sketches:
            twins = enumerate(similar_images(evaluate.sketches, data.sketches).tolist())
            pairs = [f"{evaluate.example_name(i)} like {data.example_name(twin)}" for i, twin in twins if twin >= 0]
            if pairs:
                yield f"{where}: {_count_and_two(pairs, evaluate)} look the same as images of data.{role}: {ALIKE}"
        elif evaluate.words is not None and data.words is not None:
            similar = np.nonzero(similar_texts(evaluate.words, _flat(data.words)))[0].tolist()
            names = [f"{evaluate.example_name(i)} {_first_letters(evaluate, i)}" for i in similar]
            if names:
                yield f"{where}: {_count_and_two(names, evaluate)} read like text of data.{role} with words {CHANGED}"


def repetition_warnings(data: Dataset, where: str = "data.evaluate") -> Iterator[str]:
    """A line where examples are copies of earlier ones, and one where pictures look the same."""
    data = data.once()
    first = data.copy_of.tolist()
    equal = [f"{data.example_name(i)} of {data.example_name(f)}" for i, f in enumerate(first) if f != i]
    if equal:
        yield f"{where}: {_count_and_two(equal, data)} are copies of earlier ones; copies count once"
    twins = similar_images(data.sketches).tolist() if data.sketches else []
    alike = [
        f"{data.example_name(i)} like {data.example_name(twin)}"
        for i, twin in enumerate(twins)
        if twin >= 0 and first[i] == i
    ]
    if alike:
        yield f"{where}: {_count_and_two(alike, data)} look the same as earlier ones; if so, intervals are too narrow"


def _count_and_two(names: list[str], data: Dataset) -> str:
    """``3 of 40 examples (example 2 like example 7; example 9 like example 1; ...)``."""
    examples = "; ".join(names[:2]) + ("; ..." if len(names) > 2 else "")
    return f"{len(names)} of {len(data)} examples ({examples})"


def _first_letters(data: Dataset, index: int) -> str:
    texts = data.plain_texts() or []
    return repr(" ".join(texts[index][0].split())[:40])


def texts_of(data: Dataset) -> list[Texts] | None:
    """The texts of each example in tokens; None where the data is no text."""
    if isinstance(data, TokenDataset):
        return [[sequence] for sequence in data.tokens]
    return [data.texts(index) for index in range(len(data))] if isinstance(data, ChoiceDataset) else None


def _flat(examples: list[Texts] | list[list[np.ndarray]]) -> Texts:
    return [text for texts in examples for text in texts]
