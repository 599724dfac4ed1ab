"""SmoothQuant's exponent for dynamic quantization, searched layer by layer on calibration batches.

Xiao et al., 2022, https://arxiv.org/abs/2211.10438, with each exponent searched as in Lin et al., 2023,
https://arxiv.org/abs/2306.00978: what the integers will give is worked out for each, and the nearest one is taken.
Channels below the median are not scaled up: one of them that is rarely large would then decide the whole range.

Shapes: ``X`` is ``[tokens, in]``, ``W`` ``[out, in]``; the layer computes ``(X / s) (W * s)^T``.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from squeeze.algorithms.affine import activation_grid, fake_quantize, quantize_symmetric

EXPONENTS = tuple(step / 10 for step in range(11))
LEAST = 1e-5


class Smoothed(NamedTuple):
    """A scale ``[in]``, its exponent (0: nothing moves), and the share of the error that is left with it."""

    scale: Tensor
    exponent: float
    remaining_share: float


def search_smooth(batches: list[Tensor], W: Tensor, largest: Tensor) -> Smoothed:
    """The scale with which outputs come nearest to the float ones.

    Args:
        batches: Inputs; each is rounded with one range of its own, as it is when the model runs.
        W: All weights that read these inputs, one under the other.
        largest: ``[in]``, the largest input of each channel, over more than these batches.
    """
    expected = [X @ W.T for X in batches]
    errors = {a: _error(batches, W, expected, _scale(largest, a)) for a in EXPONENTS}
    best = min(errors, key=lambda a: (errors[a], a))
    return Smoothed(_scale(largest, best), best, errors[best] / max(errors[0.0], LEAST**2))


def _scale(largest: Tensor, exponent: float) -> Tensor:
    """``[in]``, its geometric mean is 1."""
    floor = max(float(largest.median()), LEAST)
    scale = largest.float().clamp_min(floor) ** exponent
    return scale / scale.log().mean().exp()


def _error(batches: list[Tensor], W: Tensor, expected: list[Tensor], scale: Tensor) -> float:
    rounded = quantize_symmetric(W * scale, 8).dequantize()
    return sum(
        float((_as_run(X / scale) @ rounded.T - Y).square().sum()) for X, Y in zip(batches, expected, strict=True)
    )


def _as_run(X: Tensor) -> Tensor:
    """What DynamicQuantizeLinear leaves of a batch."""
    return fake_quantize(X, activation_grid(float(X.min()), float(X.max())))
