"""Choose a layer's integers on the inputs that the quantized layers before it give, towards its float outputs.

GPTQ (Frantar et al., 2022, https://arxiv.org/abs/2210.17323) on a weight that was first moved towards what the float
layer gives for its own inputs (GPTAQ, Li et al., 2025, https://arxiv.org/abs/2504.02692), part of the way; then
coordinate descent on integers and scales (QuantEase, Behdin et al., 2023, https://arxiv.org/abs/2309.01885). Inputs
without their mean: what the mean costs, the bias makes up for. Scales are positive and integers symmetric, as int8
kernels of phones take them.

Shapes: ``[out, in]`` weights, ``[tokens, in]`` inputs. Pure functions on tensors.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor, integer_range
from squeeze.algorithms.drift import Drift, moved
from squeeze.algorithms.factor import factorize
from squeeze.algorithms.gptq import solve
from squeeze.algorithms.quantease import quantease

DAMPING = 0.01  # of the mean diagonal
CORRECTION = 0.25  # of the way to the float outputs; all of it also fits the noise of the calibration images
REFINEMENTS = 2  # rounds of coordinate descent


def round_on_inputs(
    weight: Tensor, given: Tensor, original: Tensor, bits: int, centred: bool = True
) -> QuantizedTensor:
    """Round so that the outputs for ``given`` come nearest to the float layer's for ``original``.

    Args:
        weight: ``[out, in]``, one group of a convolution.
        given, original: ``[tokens, in]``, the same tokens in the quantized and in the float network.
        centred: Whether a bias takes up the mean of the outputs.
    """
    X, Xo = given.float(), original.float()
    if centred:
        X, Xo = X - X.mean(dim=0), Xo - Xo.mean(dim=0)
    drift = Drift(weight)
    drift.add(Xo, X)
    H = X.t() @ X / max(len(X), 1)
    factor = factorize(H, DAMPING, "act_order")
    target = moved(weight, CORRECTION * drift.pull(), factor)
    grid = solve(target, factor, bits, clip="absmax", scale_dtype=torch.float32).grid()
    grid = quantease(target, grid, H, REFINEMENTS, factor.added, torch.float32).grid
    return replace(grid, q=grid.q.clamp(min=-integer_range(bits)[1]))
