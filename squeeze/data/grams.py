"""Texts that share 13 tokens, or 13 words, in a row: too many for chance.

Runs are compared by 64-bit hashes: of a million runs against ten million, one in two million comparisons errs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

GRAM = 13  # tokens in a row that two texts do not share by chance
FACTOR, SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)  # multiplicative hash: 2**64 / golden ratio

Texts = Sequence[np.ndarray]  # int64, one text each


class Joined:
    """Texts end to end.

    Args:
        text: Per token, the number of its text.
        left: Per token, how many tokens of its text are left, itself included.
    """

    def __init__(self, texts: Texts) -> None:
        self.lengths = np.array([len(text) for text in texts], dtype=np.int64)
        ends = np.cumsum(self.lengths)
        self.starts = ends - self.lengths
        self.tokens = np.concatenate([np.empty(0, np.int64), *texts]).view(np.uint64)
        self.text = np.repeat(np.arange(len(texts)), self.lengths)
        self.remaining = np.repeat(ends, self.lengths) - np.arange(len(self.tokens))

    def runs(self, longest: int) -> Iterator[np.ndarray]:
        """For 1, 2, ... tokens: at each place, the hash of the run that begins there; some reach into the next text."""
        hashes = np.zeros(len(self.tokens), np.uint64)
        for size in range(longest):
            hashes = (hashes[: len(self.tokens) - size] ^ self.tokens[size:]) * FACTOR
            hashes ^= hashes >> SHIFT
            yield hashes

    def within(self, size: int) -> np.ndarray:
        """Places where a run of that size ends within its text."""
        return np.nonzero(self.remaining[: max(0, len(self.tokens) - size + 1)] >= size)[0]

    def whole(self, size: int) -> np.ndarray:
        """Places where texts of just that size begin."""
        places: np.ndarray = self.starts[self.lengths == size]
        return places


def sharing(mine: Sequence[Texts], theirs: Texts, fewest: int = 1) -> np.ndarray:
    """``[n]`` bool: which of my examples share 13 tokens in a row with any of their texts (all, where one has fewer).

    Args:
        mine: Per example, its texts.
        fewest: Texts with fewer tokens than that are not compared.
    """
    one, other = Joined([text for texts in mine for text in texts]), Joined(theirs)
    example = np.repeat(np.arange(len(mine)), [len(texts) for texts in mine])
    shared = np.zeros(len(mine), dtype=bool)
    for size, hashes in enumerate(zip(one.runs(GRAM), other.runs(GRAM), strict=True), 1):
        pairs = [(one.within(size), other.within(size))]
        if size < GRAM:
            pairs = [(one.whole(size), other.within(size)), (one.within(size), other.whole(size))]
        for places, known in pairs if size >= fewest else []:
            if len(places) and len(known):
                shared[example[one.text[places[np.isin(hashes[0][places], hashes[1][known])]]]] = True
    return shared
