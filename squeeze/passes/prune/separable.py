"""Convolutions in two parts: the plumbing; the paper is ``squeeze.algorithms.separable``."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import PositiveInt
from torch import nn

from squeeze.algorithms.moments import Moments
from squeeze.algorithms.separable import fit_pair
from squeeze.models.structure import CONV_OPTIONS
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context
from squeeze.passes.prune.in_two import Fitted, InTwo, Sizes, pair

PARTS = ("depthwise", "pointwise")


class Separable(InTwo):
    """Make two of each k x k convolution: a depthwise one, then a pointwise one of 1 x 1, as in MobileNet.

    Howard et al., 2017, https://arxiv.org/abs/1704.04861, from trained weights: layer after layer, the two are fitted
    by least squares to what the convolution gave, on what the layers that were changed before it now give. Much is lost
    all the same, so a pass that trains belongs behind it.
    """

    name: ClassVar[str] = "separable"
    candidates: ClassVar[str] = "convolution of one group and more than 1 x 1 places"

    multiplier: PositiveInt = 1
    """Depthwise kernels for each input channel: 2 loses less and costs twice as much. Layers that would not become
    smaller stay as they are, and are named in the row."""
    rounds: PositiveInt = 10
    """In which both parts are solved in turn, from the nearest weights on; the first few matter most."""

    def divides(self, layer: nn.Module) -> bool:
        return type(layer) is nn.Conv2d and layer.groups == 1 and layer.weight[0, 0].numel() > 1

    def too_large(self, name: str, layer: nn.Conv2d) -> str | None:
        places, was = layer.weight[0, 0].numel(), sum(value.numel() for value in layer.parameters())
        now = self.multiplier * layer.in_channels * (places + layer.out_channels) + layer.out_channels
        return f"{name} would have {now:,} parameters and has {was:,}" if now >= was else None

    def wider(self) -> str:
        return super().wider() + (" or a smaller multiplier" if self.multiplier > 1 else "")

    def likely_sizes(self, model: TorchModel, chosen: list[str]) -> Sizes:
        return dict.fromkeys(chosen, self.multiplier)

    def sizes(self, model: TorchModel, chosen: list[str], context: Context) -> Sizes:
        return self.likely_sizes(model, chosen)

    def empty(self, layer: nn.Conv2d, size: int) -> nn.Sequential:
        """The second one's bias carries the outputs' means."""
        inputs, hidden = layer.in_channels, layer.in_channels * size
        where: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
        same: dict[str, Any] = {name: getattr(layer, name) for name in CONV_OPTIONS}
        depthwise = nn.Conv2d(inputs, hidden, groups=inputs, bias=False, **same, **where)
        return pair(PARTS, depthwise, nn.Conv2d(hidden, layer.out_channels, 1, **where), layer.training)

    def fit(self, layer: nn.Conv2d, moments: Moments, size: int) -> Fitted:
        parts = fit_pair(layer.weight.data.flatten(2).float(), moments, size, self.rounds)
        tensors = {"depthwise.weight": parts.depthwise, "pointwise.weight": parts.pointwise}
        return Fitted(tensors | {"pointwise.bias": parts.bias}, parts.errors)
