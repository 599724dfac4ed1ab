"""Texts that have tokens in a row in common: what two texts do not share by chance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

GRAM = 13  # tokens in a row that two texts do not share by chance

Texts = Sequence[np.ndarray]  # int64, one text each


def sharing(mine: Sequence[Texts], theirs: Texts) -> np.ndarray:
    """``[n]`` bool: which of my examples share 13 tokens in a row with any of their texts (all, where one has fewer).

    Args:
        mine: Per example, its texts.
    """
    known = _Grams(theirs)
    return np.array([any(known.touches(text) for text in texts) for texts in mine], dtype=bool)


class _Grams:
    """Every 13 tokens in a row of some texts, and the whole of those that are shorter."""

    def __init__(self, texts: Texts) -> None:
        self.by_size: dict[int, list[np.ndarray]] = {}
        for text in texts:
            if len(text):
                self.by_size.setdefault(min(GRAM, len(text)), []).append(text)
        self.sets: dict[tuple[int, bool], set[bytes]] = {}

    def touches(self, text: np.ndarray) -> bool:
        size = min(GRAM, len(text))
        if size and not self._set(size, longer=True).isdisjoint(grams(text, size)):
            return True
        return any(
            not self._set(shorter, longer=False).isdisjoint(grams(text, shorter))
            for shorter in self.by_size
            if shorter < size
        )

    def _set(self, size: int, longer: bool) -> set[bytes]:
        """Grams of that size: of texts as short as that, or of all that are at least as long."""
        if (size, longer) not in self.sets:
            sizes = [s for s in self.by_size if s == size or (longer and s > size)]
            self.sets[size, longer] = {gram for s in sizes for text in self.by_size[s] for gram in grams(text, size)}
        return self.sets[size, longer]


def grams(text: np.ndarray, tokens: int) -> Iterator[bytes]:
    """Every run of that many tokens."""
    raw, size = np.ascontiguousarray(text).tobytes(), text.itemsize
    for start in range(len(text) - tokens + 1):
        yield raw[start * size : (start + tokens) * size]
