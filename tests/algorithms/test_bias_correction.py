"""Bias correction: the mean comes back, for a reason that the weights alone do not show."""

from __future__ import annotations

import torch

from squeeze.algorithms.affine import quantize_symmetric
from squeeze.algorithms.bias_correction import corrected_bias


def test_rounded_weights_on_positive_inputs_keep_the_mean_of_their_output() -> None:
    generator = torch.Generator().manual_seed(0)
    W, X, bias = torch.randn(8, 9, generator=generator), torch.rand(9, 4096, generator=generator), torch.zeros(8)
    rounded = quantize_symmetric(W, 3).dequantize()
    expected, got = W @ X, rounded @ X
    moved = got + corrected_bias(bias, expected, got)[:, None]
    assert torch.allclose(moved.mean(dim=1), expected.mean(dim=1), atol=1e-5)
    assert (moved - expected).square().mean() < (got - expected).square().mean() / 2
