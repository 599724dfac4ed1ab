"""What goes into the weights of a block, and what becomes of an expert that saw too few tokens."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor, share_beyond
from squeeze.algorithms.drift import Drift
from squeeze.algorithms.hessian import Hessian
from squeeze.algorithms.rtn import round_to_nearest
from squeeze.models.language.walk import Walk
from squeeze.passes.quantize.language.block_pass import BlockWork
from squeeze.passes.quantize.language.watch import InputWatch, Weight

FEW_TOKENS = 64  # an expert that saw fewer tokens says too little: rtn


@dataclass
class Inputs:
    """What went into the weights of a group, over all calibration tokens.

    Args:
        hessian: Of the inputs that they are given now.
        drift: How those differ from the original model's; None where nobody asked, or where the two models send other
            tokens to an expert.
    """

    hessian: Hessian
    drift: Drift | None = None


class _Enough(Exception):
    """No error: everything that was to be seen has been."""


def block_hessians(work: BlockWork, groups: list[list[Weight]]) -> dict[Weight, Hessian]:
    """One Hessian per group, by its first weight, over all calibration tokens."""
    return {weight: inputs.hessian for weight, inputs in block_inputs(work, groups, follow=False).items()}


def block_inputs(work: BlockWork, groups: list[list[Weight]], follow: bool) -> dict[Weight, Inputs]:
    """The inputs of each group, by its first weight.

    Args:
        follow: Walk the original model along, and note how far its inputs have drifted apart.
    """
    walk, original = work.walk, work.original if follow else None
    assert walk is not None
    found = {group[0]: Inputs(Hessian(group[0].of(work.block).shape[1])) for group in groups}
    if original is not None:
        for group in groups:
            found[group[0]].drift = Drift(torch.cat([weight.of(work.block) for weight in group]))
    for part in walk.chunks():
        given = _given(work, walk, part, found)
        for weight, X in given.items():
            found[weight].hessian.add(X)
        if original is not None:
            with work.as_it_was():
                before = _given(work, original, part, found)
            tokens = walk.hidden[part].shape[:2].numel()
            for weight, X in given.items():
                _add_drift(found[weight], before.get(weight), X, tokens)
    return found


def _given(work: BlockWork, walk: Walk, part: slice, wanted: Iterable[Weight]) -> dict[Weight, Tensor]:
    """``[tokens, in]`` of each weight that the chunk reaches; the block is left as soon as all have been seen."""
    seen: dict[Weight, list[Tensor]] = {}
    wanted = list(wanted)

    def see(weight: Weight, given: Tensor) -> None:
        seen.setdefault(weight, []).append(given.reshape(-1, given.shape[-1]))
        if len(seen) == len(wanted) and not any(weight.expert is not None for weight in wanted):
            raise _Enough

    with InputWatch(work.block, wanted, see), suppress(_Enough):
        walk.block(work.index, walk.hidden[part])
    return {weight: torch.cat(given) for weight, given in seen.items()}


def _add_drift(inputs: Inputs, original: Tensor | None, given: Tensor, tokens: int) -> None:
    """Only where both models sent all tokens of the chunk: an expert's may be others."""
    if inputs.drift is None:
        return
    if original is None or not len(original) == len(given) == tokens:
        inputs.drift = None
    else:
        inputs.drift.add(original, given)


def fallback(work: BlockWork, weight: Weight, tokens: int) -> QuantizedTensor:
    """An expert that hardly a token was sent to is rounded to nearest, and named."""
    scheme = work.schemes[weight]
    grid = round_to_nearest(weight.of(work.block), scheme.bits, scheme.group_size, scheme.symmetric, "mse")
    clipped = share_beyond(weight.of(work.block), grid)
    work.said[str(weight)] = {"tokens": tokens, "fallback": "rtn", "clipped": clipped}
    return grid
