"""Lists of ascending numbers as their differences, each in as few bytes as it needs (LEB128: seven bits a byte).

The high bit of a byte says that the number goes on. Of 300 tokens out of 4,096 nearly every one takes one byte.
"""

from __future__ import annotations

import numpy as np

BITS, MORE = 7, 1 << 7
MOST_BYTES = 4  # of one number: below 2**28


def pack_ascending(numbers: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """uint8, one list after the other.

    Args:
        numbers: ``[n]`` from 0 on, in each list none smaller than the one before it.
        lengths: How many numbers each list has.
    """
    gaps = numbers.astype(np.int64)
    gaps[1:] -= numbers[:-1]
    first = (np.cumsum(lengths) - lengths)[lengths > 0]
    gaps[first] = numbers[first]
    assert gaps.min(initial=0) >= 0, "numbers of a list ascend"
    assert gaps.max(initial=0) < 1 << BITS * MOST_BYTES, "no vocabulary is as large"
    sizes = np.stack([gaps >= (1 << BITS * place if place else 0) for place in range(MOST_BYTES)]).sum(0)
    starts, packed = np.cumsum(sizes) - sizes, np.zeros(sizes.sum(), np.uint8)
    for place in range(MOST_BYTES):
        some = sizes > place
        more = np.where(sizes[some] > place + 1, MORE, 0)
        packed[starts[some] + place] = (gaps[some] >> BITS * place) % MORE + more
    return packed


def unpack_ascending(packed: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers of :func:`pack_ascending`, int64."""
    if not len(packed):
        return np.zeros(0, np.int64)
    starts = np.concatenate([[0], np.flatnonzero(packed < MORE)[:-1] + 1])
    sizes = np.diff(starts, append=len(packed))
    places = np.arange(len(packed)) - np.repeat(starts, sizes)
    gaps = np.add.reduceat((packed % MORE).astype(np.int64) << BITS * places, starts)
    sums, first = np.cumsum(gaps), (np.cumsum(lengths) - lengths)[lengths > 0]
    numbers: np.ndarray = sums - np.repeat(sums[first] - gaps[first], lengths[lengths > 0])
    return numbers


def most_packed_bytes(numbers: int, below: int) -> float:
    """Of a list of so many numbers below ``below``, at most: only so many of its gaps can be wide."""
    return numbers + sum(min(numbers, below / (1 << BITS * place)) for place in range(1, MOST_BYTES))
