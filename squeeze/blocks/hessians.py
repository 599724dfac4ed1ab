"""Inputs of a block's weights over all calibration tokens, and their drift from the original model's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from squeeze.algorithms.affine import by_token
from squeeze.algorithms.drift import Drift
from squeeze.algorithms.hessian import Hessian
from squeeze.algorithms.space import MEMORY, Space
from squeeze.blocks.end_loss import output_groups
from squeeze.blocks.inputs import Inputs as ChunkInputs
from squeeze.blocks.inputs import chunk_inputs
from squeeze.blocks.visit import Visit
from squeeze.blocks.watch import Weight

Places = Mapping[Weight, str]
Chunk = dict[Weight, ChunkInputs]


@dataclass
class Inputs:
    """What went into the weights of a group, over all calibration data.

    Args:
        hessian: Of the inputs that they are given now.
        drift: How far those are from the original's by then; None where nobody asked, or where the two models send
            other tokens to an expert.
    """

    hessian: Hessian
    drift: Drift | None = None

    @classmethod
    def of(cls, weights: list[Tensor], place: str | None, follows_original: bool, space: Space = MEMORY) -> Inputs:
        """Of nothing yet, for weights ``[out, in]``, one under the other.

        Args:
            place: Where what the weight gives is in the residual stream; None where that is not known.
            space: Where their sums lie.
        """
        drift = Drift(weights, place is not None, space) if follows_original else None
        return cls(Hessian(weights[0].shape[1], space), drift)


def block_inputs(visit: Visit, groups: list[list[Weight]], places: Places | None = None) -> dict[Weight, Inputs]:
    """The inputs of each group of weights that share theirs, by its first weight.

    Args:
        places: Of those weights that write into the stream, where; given, the original model is walked along and it
            is noted how far apart the two are.
    """
    follows = visit.original is not None and places is not None
    watched = _watched(groups, places)
    inputs_of = {}
    for group in groups:
        together = [weight.of(visit.block) for weight in group]
        space = visit.space(together[0].shape[1])
        inputs_of[group[0]] = Inputs.of(together, watched[group[0]], follows, space)
    for part, current, before in _chunks(visit, watched, follows):
        span = _tokens(visit, part)
        tokens = span.stop - span.start
        for weight, now in current.items():
            inputs_of[weight].hessian.add(now[0])
            if before is not None:
                _add_drift(inputs_of[weight], before.get(weight), now, tokens)
    return inputs_of


def weighted_inputs(
    visit: Visit, groups: list[list[Weight]], places: Places | None, token_weights: Mapping[Weight, Tensor]
) -> dict[Weight, list[Inputs]]:
    """The inputs of each weight, once for each group of its output channels, in order.

    Args:
        token_weights: float32 ``[tokens, groups]`` by weight: what a squared error of a token's output costs.
    """
    follows = visit.original is not None and places is not None
    watched = _watched(groups, places)
    inputs_of: dict[Weight, list[Inputs]] = {}
    for group in groups:
        for weight in group:
            real, parts = weight.of(visit.block), token_weights[weight].shape[1]
            rows = output_groups(len(real), parts)
            space = visit.space(real.shape[1])
            inputs_of[weight] = [Inputs.of([real[part]], watched[group[0]], follows, space) for part in rows]
    firsts = {weight: group[0] for group in groups for weight in group}
    for part, current, before in _chunks(visit, watched, follows):
        tokens = _tokens(visit, part)
        for weight, first in firsts.items():
            roots = token_weights[weight][tokens].sqrt()
            rows = output_groups(len(weight.of(visit.block)), roots.shape[1])
            for inputs, channels, root in zip(inputs_of[weight], rows, roots.unbind(1), strict=True):
                now = _scaled(current[first], root[:, None], channels)
                inputs.hessian.add(now[0])
                if before is not None:
                    _add_drift(inputs, _scaled(before[first], root[:, None], channels), now, len(root))
    return inputs_of


def _watched(groups: list[list[Weight]], places: Places | None) -> dict[Weight, str | None]:
    """The first weight of each group, and where the stream is behind it, should it be alone."""
    return {group[0]: (places or {}).get(group[0]) if len(group) == 1 else None for group in groups}


def _chunks(
    visit: Visit, watched: Mapping[Weight, str | None], follows_original: bool
) -> Iterator[tuple[slice, Chunk, Chunk | None]]:
    """Sequences, and what they put into each watched weight: as it is now, and as the original has it."""
    assert visit.walk is not None
    for part in visit.walk.chunks():
        current = chunk_inputs(visit, visit.walk, part, watched)
        if visit.inputs_rounded:
            current = {weight: _rounded(visit, weight, *inputs) for weight, inputs in current.items()}
        if not follows_original:
            yield part, current, None
            continue
        assert visit.original is not None
        with visit.with_original_weights():
            before = chunk_inputs(visit, visit.original, part, watched)
        yield part, current, before


def _rounded(visit: Visit, weight: Weight, value: Tensor, stream: Tensor | None) -> ChunkInputs:
    """What goes into a weight as a kernel rounds it, and the stream behind what the weight then gives."""
    exact = value.float()
    rounded = by_token(exact)
    if stream is not None:
        stream = stream.float() + (rounded - exact) @ weight.of(visit.block).float().t()
    return rounded, stream


def _tokens(visit: Visit, part: slice) -> slice:
    """The tokens of some sequences, counted through all of them."""
    assert visit.walk is not None
    length = visit.walk.tokens.shape[1]
    return slice(part.start * length, part.stop * length)


def _scaled(inputs: ChunkInputs, root: Tensor, channels: slice) -> ChunkInputs:
    """Inputs and stream of some output channels such that products of two tokens' values count as they weigh."""
    value, stream = inputs
    return value.float() * root, None if stream is None else stream[:, channels].float() * root


def _add_drift(inputs: Inputs, original: ChunkInputs | None, current: ChunkInputs, tokens: int) -> None:
    """Only where both models sent all tokens of the chunk: an expert's may be others."""
    if inputs.drift is None:
        return
    if original is None or not len(original[0]) == len(current[0]) == tokens:
        inputs.drift = None
    elif current[1] is not None and original[1] is not None:
        inputs.drift.add_stream(original[1].float() - current[1].float(), current[0])
    else:
        inputs.drift.add(original[0], current[0])
