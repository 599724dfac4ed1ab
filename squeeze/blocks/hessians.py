"""Inputs of a block's weights over all calibration tokens, and their drift from the original model's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from squeeze.algorithms.drift import Drift
from squeeze.algorithms.hessian import Hessian
from squeeze.blocks.inputs import Inputs as ChunkInputs
from squeeze.blocks.inputs import chunk_inputs
from squeeze.blocks.visit import Visit
from squeeze.blocks.watch import Weight


@dataclass
class Inputs:
    """What went into the weights of a group, over all calibration data.

    Args:
        hessian: Of the inputs that they are given now.
        drift: How far those are from the original's by then; None where nobody asked, or where the two models send
            other tokens to an expert.
        place: Where what the weight gives is in the residual stream; None where that is not known.
    """

    hessian: Hessian
    drift: Drift | None = None
    place: str | None = None


def block_inputs(
    visit: Visit, groups: list[list[Weight]], places: Mapping[Weight, str] | None = None
) -> dict[Weight, Inputs]:
    """The inputs of each group of weights that share theirs, by its first weight.

    Args:
        places: Of those weights that write into the stream, where; given, the original model is walked along and it
            is noted how far apart the two are.
    """
    walk, original = visit.walk, visit.original if places is not None else None
    assert walk is not None
    inputs_of = {group[0]: Inputs(Hessian(group[0].of(visit.block).shape[1])) for group in groups}
    if original is not None and places is not None:
        for group in groups:
            place = places.get(group[0]) if len(group) == 1 else None
            together = torch.cat([weight.of(visit.block) for weight in group])
            inputs_of[group[0]].drift, inputs_of[group[0]].place = Drift(together, place is not None), place
    watched = {weight: inputs.place for weight, inputs in inputs_of.items()}
    for part in walk.chunks():
        current = chunk_inputs(visit, walk, part, watched)
        for weight, (X, _) in current.items():
            inputs_of[weight].hessian.add(X)
        if original is not None:
            with visit.with_original_weights():
                before = chunk_inputs(visit, original, part, watched)
            tokens = walk.hidden[part].shape[:2].numel()
            for weight, now in current.items():
                _add_drift(inputs_of[weight], before.get(weight), now, tokens)
    return inputs_of


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
