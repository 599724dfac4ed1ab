"""Texts that are copies with words changed: between the changes three words in a row survive, in the same order.

Each text is cut into pieces of 64 words. Runs of three words that are rare in the other texts vote for the place where
they stand there; a piece is a copy where more than an eighth of its words, at least three, vote for one place. With
every fourth word replaced a quarter of them do. How often pieces of unrelated prose do, ``benchmarks/overlap.py``
prints. A text that the others hold three times or more is missed, and so are pieces of fewer than 12 words.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from squeeze.data.grams import Joined, Texts

RUN = 3  # words in a row
PIECE = 64  # words that are looked for together
FEWEST = 12  # fewest words of a piece that can be judged
SHARE = 8  # one word in so many must vote for the same place
COMMON = 2  # runs more frequent than this in the other texts are ignored
DRIFT = 32  # words by which places may differ: changes may be longer or shorter than what they replace


def similar_texts(mine: Sequence[Texts], theirs: Texts) -> np.ndarray:
    """``[n]`` bool: which of my examples (hashed words) are copies of parts of their texts with words changed."""
    texts = [text for example in mine for text in example]
    one, other = Joined(texts), Joined(theirs)
    example = np.repeat(np.arange(len(mine)), [len(part) for part in mine])
    piece, first = _pieces(one)
    sizes = np.bincount(piece)
    needed = np.maximum(RUN, sizes // SHARE + 1)
    votes = _votes(piece, _matches(one, other), len(sizes))
    copied = (votes >= needed) & (sizes >= FEWEST)
    similar = np.zeros(len(mine), dtype=bool)
    similar[example[one.text[first[copied]]]] = True
    return similar


def _pieces(texts: Joined) -> tuple[np.ndarray, np.ndarray]:
    """Per word, the number of its piece; per piece, the place of its first word."""
    place = np.arange(len(texts.tokens)) - np.repeat(texts.starts, texts.lengths)
    begins = place % PIECE == 0
    return np.cumsum(begins) - 1, np.nonzero(begins)[0]


def _matches(one: Joined, other: Joined) -> np.ndarray:
    """``[matches, 2]``: places where runs of mine begin, and where the same runs begin in the other texts."""
    mine, theirs = one.within(RUN), other.within(RUN)
    hashes, known = (next(islice(texts.runs(RUN), RUN - 1, None), np.empty(0, np.uint64)) for texts in (one, other))
    theirs = theirs[np.argsort(known[theirs], kind="stable")]
    ordered = known[theirs]
    start = np.searchsorted(ordered, hashes[mine], "left")
    count = np.searchsorted(ordered, hashes[mine], "right") - start
    pairs = []
    for number in range(COMMON):
        has = (count > number) & (count <= COMMON)
        pairs.append(np.stack([mine[has], theirs[start[has] + number]], axis=1))
    return np.concatenate(pairs)


def _votes(piece: np.ndarray, matches: np.ndarray, pieces: int) -> np.ndarray:
    """Per piece, how many of its runs agree on one place in the other texts."""
    votes = np.zeros(pieces, dtype=np.int64)
    offsets = matches[:, 1] - matches[:, 0]
    for offset in (0, DRIFT // 2):  # two offset grids of bins: a cluster split by one is whole in the other
        bins = np.stack([piece[matches[:, 0]], (offsets + offset) // DRIFT], axis=1)
        agreeing = np.unique(np.column_stack([bins, matches[:, 0]]), axis=0)  # a run votes once for a place
        places, counts = np.unique(agreeing[:, :2], axis=0, return_counts=True)
        np.maximum.at(votes, places[:, 0], counts)
    return votes
