"""Hessians of what goes into the weights of a block, and what becomes of an expert that saw too few tokens."""

from __future__ import annotations

from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.algorithms.hessian import Hessian
from squeeze.algorithms.rtn import round_to_nearest
from squeeze.passes.quantize.language.block_pass import BlockWork
from squeeze.passes.quantize.language.watch import InputWatch, Weight

FEW_TOKENS = 64  # an expert that saw fewer tokens says too little: rtn


def block_hessians(work: BlockWork, groups: list[list[Weight]]) -> dict[Weight, Hessian]:
    """One Hessian per group, by its first weight, over all calibration tokens."""
    hessians = {group[0]: Hessian(group[0].of(work.block).shape[1]) for group in groups}

    def see(weight: Weight, given: Tensor) -> None:
        hessians[weight].add(given.reshape(-1, given.shape[-1]))

    assert work.walk is not None
    with InputWatch(work.block, list(hessians), see):
        work.walk.through(work.index, keep=False)
    return hessians


def fallback(work: BlockWork, weight: Weight, tokens: int) -> QuantizedTensor:
    """An expert that hardly a token was sent to is rounded to nearest, and named."""
    scheme = work.schemes[weight]
    work.said[str(weight)] = {"tokens": tokens, "fallback": "rtn"}
    return round_to_nearest(weight.of(work.block), scheme.bits, scheme.group_size, scheme.symmetric, "mse")
