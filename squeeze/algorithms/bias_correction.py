"""Bias correction: undo the shift of each output channel's mean that rounding the weights causes.

Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019,
https://arxiv.org/abs/1906.04721, section 4.2, here measured on calibration data. Pure functions on tensors.
"""

from __future__ import annotations

from torch import Tensor


def corrected_bias(bias: Tensor, float_output: Tensor, quantized_output: Tensor) -> Tensor:
    """Move the bias so that each output channel keeps its mean.

    Rounding shifts a channel by (error of the weights) x (mean of the inputs). Inputs that went through a ReLU have a
    mean far from zero, and a depthwise layer sums nine weights only, whose errors do not cancel.

    Args:
        bias: ``[out]``.
        float_output, quantized_output: ``[out, samples]``.
    """
    shift = float_output.double().mean(dim=1) - quantized_output.double().mean(dim=1)
    return (bias.double() + shift).to(bias.dtype)
