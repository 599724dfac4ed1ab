"""What one chunk of tokens puts into the weights of a block, and the residual stream behind them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import partial

import torch
from torch import Tensor

from squeeze.blocks.stream import OUTPUT, watched_place
from squeeze.blocks.visit import Visit
from squeeze.blocks.walk import Walk
from squeeze.blocks.watch import InputWatch, Weight

Inputs = tuple[Tensor, Tensor | None]  # inputs [tokens, in]; the stream behind the weight [tokens, out]


class _Enough(Exception):
    """Stops the forward pass once all inputs are recorded; not an error."""


def head_inputs(walk: Walk, head: Weight, part: slice) -> Tensor:
    """float32 ``[tokens, channels]``, what behind the last block goes into the head; no logits are worked out.

    Args:
        head: Its name in the whole model; tied, the embedding's.
    """
    inputs: list[Tensor] = []

    def see(_: Weight, value: Tensor) -> None:
        inputs.append(value.flatten(0, -2).float())
        raise _Enough

    with suppress(_Enough), InputWatch(walk.network.module, [head], see):
        walk.behind(walk.hidden[part], walk.tokens[part])
    return inputs[0]


def chunk_inputs(visit: Visit, walk: Walk, part: slice, places: Mapping[Weight, str | None]) -> dict[Weight, Inputs]:
    """The inputs of each weight that the chunk reaches; the block is left as soon as all has been seen.

    Args:
        places: The weights to watch, each with the place where its output joins the stream; None: not asked for.
    """
    inputs: dict[Weight, list[Tensor]] = {}
    streams: dict[Weight, Tensor] = {}
    joins = {weight: place for weight, place in places.items() if place is not None}
    leave = not any(weight.expert is not None for weight in places) and OUTPUT not in joins.values()

    def leave_if_done() -> None:
        if leave and len(inputs) == len(places) and len(streams) == len(joins):
            raise _Enough

    def see(weight: Weight, tensor: Tensor) -> None:
        if walk.kept is not None:
            walk.kept.keep(weight, part, tensor, len(walk.tokens))
        inputs.setdefault(weight, []).append(tensor.reshape(-1, tensor.shape[-1]))
        leave_if_done()

    def see_stream(weight: Weight, tensor: Tensor) -> None:
        streams[weight] = tensor.reshape(-1, tensor.shape[-1])
        leave_if_done()

    with ExitStack() as open_:
        open_.enter_context(suppress(_Enough))
        open_.enter_context(InputWatch(visit.block, list(places), see))
        for weight, place in joins.items():
            if place != OUTPUT:
                open_.enter_context(watched_place(visit.block, place, partial(see_stream, weight)))
        output = walk.chunk_through(visit.index, part, places)
        streams |= {weight: output.flatten(0, 1) for weight, place in joins.items() if place == OUTPUT}
    return {weight: (torch.cat(tensors), streams.get(weight)) for weight, tensors in inputs.items()}
