"""Texts that a language model is asked about: which of several endings is likelier, or whether it finds the last word.

An ending is a few tokens behind a context; what is scored is the ending. The sources that read such texts are
``squeeze.data.choice_sources``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from squeeze.data.base import Dataset, Example
from squeeze.data.cut import decoder, encoded, opening_tokens
from squeeze.data.token_dataset import Decode
from squeeze.errors import DataError
from squeeze.models.tokenizer import read_tokenizer


@dataclass(frozen=True)
class Ending:
    """One possible continuation of a text, as text: ``context`` is given, ``text`` is scored."""

    context: str
    text: str


@dataclass(frozen=True)
class Question:
    """Endings to choose from, or a single one to be found."""

    endings: tuple[Ending, ...]
    answer: int = 0


@dataclass(frozen=True)
class CutEnding:
    """An ending in tokens: those from ``start`` on, at least the second one, are scored."""

    tokens: np.ndarray
    start: int
    size_bytes: int  # of the ending's text: what acc_norm divides by
    opening: int = 0  # tokens before the text itself


class ChoiceDataset(Dataset):
    """Questions, each with its endings in tokens.

    Args:
        sequences: All endings of all questions, in order.
        counts: ``[n]``: how many endings each question has.
        answers: ``[n]``: which of them is right.
        decode: Makes text of tokens again; None: only tokens can be compared.
    """

    def __init__(
        self,
        name: str,
        sequences: list[CutEnding],
        counts: np.ndarray,
        answers: np.ndarray,
        decode: Decode | None = None,
    ) -> None:
        self.name, self.sequences, self.counts, self.answers = name, sequences, counts, answers
        self.decode = decode
        self.bounds = np.concatenate([[0], np.cumsum(counts)])

    def __len__(self) -> int:
        return len(self.counts)

    def endings(self, index: int) -> list[CutEnding]:
        return self.sequences[self.bounds[index] : self.bounds[index + 1]]

    def example(self, index: int) -> Example:
        return Example(self.endings(index)[self.label(index)].tokens, self.label(index))

    def label(self, index: int) -> int:
        return int(self.answers[index])

    def fingerprint(self, index: int) -> bytes:
        parts = [one.tokens.tobytes() + one.start.to_bytes(8, "little") for one in self.endings(index)]
        return b"|".join([*parts, str(self.label(index)).encode()])

    def texts(self, index: int) -> list[np.ndarray]:
        """The tokens of one question's endings with their contexts, without the one that opens a text."""
        return [one.tokens[one.opening :] for one in self.endings(index)]

    def plain_texts(self) -> list[list[str]] | None:
        if self.decode is None:
            return None
        texts = self.decode([one.tokens[one.opening :] for one in self.sequences])
        return [texts[start:stop] for start, stop in pairwise(self.bounds)]


def in_tokens(name: str, questions: list[Question], tokenizer: Any) -> ChoiceDataset:
    """Cut questions into tokens.

    Every text begins as the tokenizer begins one. Where that leaves nothing before the first token that is scored, the
    token that opens a text stands there, or else the one that ends the text before it, as lm-eval does it.

    Raises:
        DataError: the tokenizer has neither, or an ending holds no token.
    """
    opening = opening_tokens(tokenizer, None, name)
    cache: dict[str, list[int]] = {}

    def cut(text: str) -> list[int]:
        if text not in cache:
            cache[text] = encoded(tokenizer, text, add_special_tokens=False, verbose=False)["input_ids"] if text else []
        return cache[text]

    def sequence(ending: Ending) -> CutEnding:
        tokens, before = _cut_behind(name, ending, cut)
        first = opening or ([] if before else [prefix_token(tokenizer, name)])
        size = len(ending.text.strip().encode())
        return CutEnding(np.array([*first, *tokens], dtype=np.int64), len(first) + before, max(size, 1), len(first))

    sequences = [sequence(ending) for question in questions for ending in question.endings]
    counts = np.array([len(question.endings) for question in questions], dtype=np.int64)
    answers = np.array([question.answer for question in questions], dtype=np.int64)
    return ChoiceDataset(name, sequences, counts, answers, decoder(tokenizer))


def prefix_token(tokenizer: Any, name: str) -> int:
    """What the first word of a text is predicted from.

    Raises:
        DataError: the tokenizer has no such token.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise DataError(f"{name}: the tokenizer has no token that opens or ends a text; the first word has no context")


def _cut_behind(name: str, ending: Ending, cut: Any) -> tuple[list[int], int]:
    """All tokens, and how many of them are the context's; both are cut as one text: what an ending's tokens are depends
    on what stands before it."""
    whole = cut(ending.context + ending.text)
    before = min(len(cut(ending.context)), len(whole) - 1)
    if before < 0:
        raise DataError(f"{name}: '{ending.text[:40]}' gives no token to score")
    return whole, before


def open_tokenizer(model: Path | None, what: str) -> Any:
    """The tokenizer of a language model's folder.

    Raises:
        DataError: there is none.
    """
    if model is None:
        raise DataError(f"{what}: text needs a language model's tokenizer; model: {{hf: folder}} has one")
    return read_tokenizer(model)
