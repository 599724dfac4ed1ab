"""How surprised a language model is by each window or document of a text, and what that is divided by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from squeeze.data.windows import WindowDataset
from squeeze.evaluate.arrays import SavedArrays
from squeeze.evaluate.endings import EndingScores
from squeeze.evaluate.tokens import TokenScores

Per = Literal["token", "word", "byte"]


@dataclass(frozen=True)
class WindowScores(SavedArrays):
    """Per example ``[n]``.

    Args:
        nll: Negative log-probability of all tokens that are scored, in nats.
        tokens: How many they are.
        words, size_bytes: Of their text; -1: unknown.
    """

    nll: np.ndarray
    tokens: np.ndarray
    words: np.ndarray
    size_bytes: np.ndarray

    def __len__(self) -> int:
        return len(self.nll)

    @classmethod
    def of(cls, scores: EndingScores, data: WindowDataset) -> WindowScores:
        """Add up the windows of each example."""
        nll = -np.add.reduceat(scores.log_probability, data.bounds[:-1])
        rows = [(one.scored, one.words, one.size_bytes) for one in data.windows]
        columns = [np.array([-1 if value is None else value for value in column]) for column in zip(*rows, strict=True)]
        return cls(nll, *columns)

    @classmethod
    def of_tokens(cls, scores: TokenScores) -> WindowScores:
        """Sequences of one length."""
        unknown, sizes = np.full(len(scores), -1), scores.size_bytes
        tokens = np.full(len(scores), scores.nll.shape[1])
        nll = scores.nll.astype(np.float64).sum(1)
        return cls(nll, tokens, unknown, unknown if sizes is None else sizes)

    def divisor(self, per: Per) -> np.ndarray | None:
        """``[n]`` tokens, words or bytes; None: unknown."""
        counts = {"token": self.tokens, "word": self.words, "byte": self.size_bytes}[per]
        return None if (counts < 0).any() or not counts.sum() else counts


def rates(nll: np.ndarray, divisor: np.ndarray) -> np.ndarray:
    """``[n]`` values whose mean is ``sum(nll) / sum(divisor)``, and which vary as that ratio does.

    The ratio is linearized: examples with more tokens weigh more, and their size alone adds no spread.
    """
    rate, mean = nll.sum() / divisor.sum(), divisor.mean()
    return np.asarray(rate + (nll - rate * divisor) / mean)
