"""Norms as one node each: what a norm module computes is found by trying it, not by its class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from squeeze.writers.decoder.traced import Traced

EPSILONS = ("variance_epsilon", "eps", "epsilon")


@dataclass(frozen=True)
class Norm:
    """Divide by the root of the mean square (``centred``: after taking off the mean), then multiply.

    Args:
        scale: float32, shaped as the last axes of the input.
        shift: Added at the end, or None.
    """

    scale: Tensor
    shift: Tensor | None
    epsilon: float
    centred: bool

    def __call__(self, traced: Traced) -> Traced:
        """The node, and a product behind it where the scale has more than one axis."""
        flat = self.scale.dim() == 1
        scale = self.scale if flat else torch.ones(self.scale.shape[-1])
        stored = [part for part in (scale, self.shift) if part is not None]
        weights = [traced.builder.constant(part.numpy(), "float32") for part in stored]
        op = "LayerNormalization" if self.centred else "SimplifiedLayerNormalization"
        normed = traced.apply(op, *weights, axis=-1, epsilon=self.epsilon, stash_type=1)
        return normed if flat else normed * self.scale

    def of(self, x: Tensor) -> Tensor:
        """The same in torch."""
        x = x - x.mean(-1, keepdim=True) if self.centred else x
        normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon) * self.scale
        return normed if self.shift is None else normed + self.shift


def as_norm(module: nn.Module) -> Norm | None:
    """The norm that a module is; None where it is something else.

    Args:
        module: Its weights filled in float32.
    """
    parameters = dict(module.named_parameters(recurse=False))
    weight, epsilon = parameters.get("weight"), next((getattr(module, n) for n in EPSILONS if hasattr(module, n)), None)
    if weight is None or weight.is_meta or any(module.children()) or not isinstance(epsilon, float):
        return None
    shift = parameters["bias"].detach() if "bias" in parameters else None
    x = torch.randn(3, *weight.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = module(x)
    for scale in (weight.detach(), 1 + weight.detach()):
        for centred in (False, True):
            norm = Norm(scale, shift if scale.dim() == 1 else None, epsilon, centred)
            if expected.shape == x.shape and torch.allclose(norm.of(x), expected, atol=1e-5):
                return norm
    return None
