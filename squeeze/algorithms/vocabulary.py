"""Which tokens of a vocabulary a text needs least: byte-pair encoding trimmed from its leaves.

A token that is no part of another one is a leaf. The leaf that a text uses least leaves, and the parts that it was
merged of take over its uses (Cognetta et al., 2024, https://arxiv.org/abs/2404.00397). So every token that stays can
still be merged, whatever the number of tokens that leave.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise

Pair = tuple[str, str]


def merged_parts(token: str, ranks: Mapping[Pair, int]) -> list[str]:
    """The parts that a token is merged of last, two of them; itself alone where no merge makes it.

    Args:
        ranks: Of the merges; the lowest goes first, of equal ones the leftmost.
    """
    pieces = list(token)
    while len(pieces) > 2:
        rank, place = min((ranks.get(pair, len(ranks)), at) for at, pair in enumerate(pairwise(pieces)))
        if rank == len(ranks):
            return [token]
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
    return pieces if len(pieces) == 2 and tuple(pieces) in ranks else [token]


def needed_tokens(
    parts: Sequence[Sequence[int]], counts: Sequence[int], required: Collection[int], size: int | None
) -> list[int]:
    """The tokens that stay, ascending.

    Args:
        parts: Of each token, those that it is merged of; none where it stands for itself.
        counts: How often the text uses each.
        required: Stay whatever the text uses.
        size: How many stay, at least as many as are required; None: all that the text uses.
    """
    uses, alive = list(counts), set(range(len(parts)))
    readers = Counter(part for own in parts for part in set(own))
    must_stay = set(required)
    leaves = [(uses[token], -token) for token in alive if not readers[token] and token not in must_stay]
    heapify(leaves)
    while leaves and (size is None or len(alive) > size):
        count, token = heappop(leaves)
        token = -token
        if size is None and count > 0:
            break
        alive.remove(token)
        for part in parts[token]:
            uses[part] += count
        for part in set(parts[token]):
            readers[part] -= 1
            if not readers[part] and part not in must_stay:
                heappush(leaves, (uses[part], -part))
    return sorted(alive)


def least_tokens(parts: Sequence[Sequence[int]], required: Collection[int]) -> set[int]:
    """Those that are required, and all that they are merged of."""
    needed: set[int] = set()
    queue = list(required)
    while queue:
        token = queue.pop()
        if token not in needed:
            needed.add(token)
            queue.extend(parts[token])
    return needed
