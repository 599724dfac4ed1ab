"""What goes into the weights of a block, and what becomes of an expert that saw too few tokens."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from squeeze.algorithms.affine import QuantizedTensor, clipped_share
from squeeze.algorithms.drift import Drift
from squeeze.algorithms.hessian import Hessian
from squeeze.algorithms.rtn import round_to_nearest
from squeeze.blocks.inputs import Inputs as ChunkInputs
from squeeze.blocks.inputs import chunk_inputs
from squeeze.blocks.watch import Weight
from squeeze.passes.quantize.work import BlockWork, Inputs

FEW_TOKENS = 64  # an expert that saw fewer tokens says too little: rtn


def block_hessians(work: BlockWork, groups: list[list[Weight]]) -> dict[Weight, Hessian]:
    """One Hessian per group, by its first weight, over all calibration tokens."""
    return {weight: inputs.hessian for weight, inputs in block_inputs(work, groups).items()}


def block_inputs(
    work: BlockWork, groups: list[list[Weight]], places: Mapping[Weight, str] | None = None
) -> dict[Weight, Inputs]:
    """The inputs of each group, by its first weight.

    Args:
        places: Of those weights that write into the stream, where; given, the original model is walked along and it
            is noted how far apart the two are.
    """
    walk, original = work.walk, work.original if places is not None else None
    assert walk is not None
    found = {group[0]: Inputs(Hessian(group[0].of(work.block).shape[1])) for group in groups}
    if original is not None and places is not None:
        for group in groups:
            place = places.get(group[0]) if len(group) == 1 else None
            together = torch.cat([weight.of(work.block) for weight in group])
            found[group[0]].drift, found[group[0]].place = Drift(together, place is not None), place
    watched = {weight: inputs.place for weight, inputs in found.items()}
    for part in walk.chunks():
        given = chunk_inputs(work, walk, part, watched)
        for weight, (X, _) in given.items():
            found[weight].hessian.add(X)
        if original is not None:
            with work.with_original_weights():
                before = chunk_inputs(work, original, part, watched)
            tokens = walk.hidden[part].shape[:2].numel()
            for weight, now in given.items():
                _add_drift(found[weight], before.get(weight), now, tokens)
    return found


def _add_drift(inputs: Inputs, original: ChunkInputs | None, given: ChunkInputs, tokens: int) -> None:
    """Only where both models sent all tokens of the chunk: an expert's may be others."""
    if inputs.drift is None:
        return
    if original is None or not len(original[0]) == len(given[0]) == tokens:
        inputs.drift = None
    elif given[1] is not None and original[1] is not None:
        inputs.drift.add_stream(original[1].float() - given[1].float(), given[0])
    else:
        inputs.drift.add(original[0], given[0])


def fallback(work: BlockWork, weight: Weight, tokens: int) -> QuantizedTensor:
    """An expert that hardly a token was sent to is rounded to nearest, and named."""
    scheme = work.schemes[weight]
    grid = round_to_nearest(weight.of(work.block), scheme.bits, scheme.group_size, scheme.symmetric, "mse")
    clipped = clipped_share(weight.of(work.block), grid)
    work.facts[str(weight)] = {"tokens": tokens, "fallback": "rtn", "clipped": clipped}
    return grid
