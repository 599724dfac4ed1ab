"""What becomes of an expert that saw too few tokens for its Hessian to say something."""

from __future__ import annotations

from squeeze.algorithms.affine import QuantizedTensor, clipped_share
from squeeze.algorithms.rtn import round_to_nearest
from squeeze.blocks.watch import Weight
from squeeze.passes.quantize.work import BlockWork

FEW_TOKENS = 64  # an expert that saw fewer tokens says too little: rtn


def fallback(work: BlockWork, weight: Weight, tokens: int) -> QuantizedTensor:
    """Round an expert that saw too few tokens to nearest, and name it in the facts."""
    scheme = work.schemes[weight]
    kind = scheme.bits, scheme.group_size, scheme.symmetric
    grid = round_to_nearest(weight.of(work.block), *kind, "mse", scheme.scale_dtype)
    clipped = clipped_share(weight.of(work.block), grid)
    work.facts[str(weight)] = {"tokens": tokens, "fallback": "rtn", "clipped": clipped}
    return grid
