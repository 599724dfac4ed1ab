"""How a block's weights lie to each other, found by sending one chunk of tokens through it, once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from squeeze.blocks.kept import End, ends_seen
from squeeze.blocks.stream import find_places
from squeeze.blocks.visit import Visit
from squeeze.blocks.watch import Weight, shared_inputs


@dataclass(frozen=True)
class Layout:
    """What a pass that goes from weight to weight must know.

    Args:
        groups: Weights in the order in which they run, those with the very same input together.
        places: Where what a weight gives joins the stream.
        ends: Parts of the block that give what their last linear gives.
    """

    groups: list[list[Weight]]
    places: dict[Weight, str]
    ends: list[End]


def layout_of(visit: Visit, weights: list[Weight]) -> Layout:
    """That of a block whose ``weights`` are to be changed."""
    walk, groups = visit.walk, list[list[Weight]]()
    assert walk is not None
    hidden = walk.hidden[next(walk.chunks())]

    def run() -> Tensor:
        outputs: list[Tensor] = []
        groups.extend(shared_inputs(visit.block, weights, lambda: outputs.append(walk.block(visit.index, hidden))))
        return outputs[0]

    matrices = [Weight(name) for name, value in visit.block.named_parameters() if value.dim() == 2]
    with ends_seen(visit.block) as ends:
        places = find_places(visit.block, matrices, hidden, run)
    return Layout(groups, places, ends)
