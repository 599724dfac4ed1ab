"""SLEB: which blocks a model needs least, by the loss that really follows when they are skipped.

Song et al., 2024, https://arxiv.org/abs/2402.09025: one block at a time leaves, and what the others are worth is
measured again without it. Losses grow as blocks leave, so an earlier loss bounds a later one from below, and only the
blocks that look cheapest need be measured again (Minoux, 1978: lazy greedy).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

Loss = Callable[[frozenset[int]], float]  # loss of the model with these blocks skipped


def cheapest_blocks(alone: Mapping[int, float], loss: Loss) -> Iterator[tuple[int, float]]:
    """Blocks in the order in which they leave, each with the loss without it and all before it.

    Args:
        alone: By block, the loss without it alone.
    """
    bounds, removed = dict(alone), frozenset[int]()
    measured = set(alone)  # blocks measured in this round
    while bounds:
        block = min(bounds, key=lambda each: (bounds[each], each))
        if block not in measured:
            bounds[block] = loss(removed | {block})
            measured.add(block)
            continue
        removed, measured = removed | {block}, set()
        yield block, bounds.pop(block)
