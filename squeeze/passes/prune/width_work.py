"""How much arithmetic narrowing a decoder's blocks takes, from shapes alone."""

from __future__ import annotations

from collections.abc import Iterable

from squeeze.models.language.effort import block_macs, block_values
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.effort import WRITTEN_BLOCK, Amount, Work

FORWARDS = 1.2  # times that a block runs in each walk, looks at how its weights lie and going on included
INVERSES = 1.5  # products of a Hessian's size: two factors, an inverse, units leaving, weights solved anew
MOVES = 6  # products of a matrix with its Hessian: moved twice, two losses, what leaves made up for
ROUND_STEPS = 8  # times that the inverse is read or written in each round


def width_work(
    model: LanguageModel, readers: Iterable[tuple[int, int]], data: Amount, follows_original: bool, rounds: int
) -> Work | None:
    """Forward passes of the calibration tokens, Hessians, and the choice of units, of all blocks; None: not known.

    Args:
        readers: ``(out, in)`` of each matrix of a block whose input channels leave.
    """
    macs, tokens = block_macs(model), data.tokens
    if macs is None or not tokens:
        return None
    walks = 1 + follows_original
    forward = Work({model.skeleton.hidden_size: tokens * macs}, tokens * block_values(model, data.length))
    of_a_block = WRITTEN_BLOCK
    for out, width in readers:
        sums = tokens * width * (width / 2 + out * follows_original)
        solved = INVERSES * width**3 + MOVES * out * width * width
        of_a_block += Work({width: sums + solved}, ROUND_STEPS * rounds * width * width)
    return forward.times(FORWARDS * walks) + of_a_block.times(model.blocks)
