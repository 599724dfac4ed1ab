"""Layers of low rank: the plumbing; the papers are in ``squeeze.algorithms.low_rank``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Self

import torch
from annotated_types import Gt, Lt
from pydantic import PositiveInt, model_validator
from torch import nn

from squeeze.algorithms.low_rank import Spectrum, fit_factors, ranks_within, spectrum
from squeeze.algorithms.moments import Moments
from squeeze.errors import ModelError, SqueezeError
from squeeze.models.structure import CONV_OPTIONS
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context
from squeeze.passes.prune.in_two import Fitted, InTwo, Sizes, Watched, matrix, pair
from squeeze.surgery.goal import Count, Goal

PARTS = ("first", "second")


class LowRank(InTwo):
    """Make two thin layers of a wide one: linear layers and convolutions, each of the rank that its outputs need.

    Activation-aware SVD (SVD-LLM: Wang et al., 2024, https://arxiv.org/abs/2403.07378), as reduced-rank regression
    towards the original's outputs, behind the layers that were changed before. Ranks are spread over the layers by how
    much of its outputs each would miss. A stock language model's config cannot say two layers for one: prune_width
    would do there.
    """

    name: ClassVar[str] = "low_rank"
    exact: ClassVar[bool] = False
    candidates: ClassVar[str] = "linear layer, and no convolution of one group"

    ratio: Annotated[float, Gt(0), Lt(1)] | None = None
    """Share of the chosen layers' parameters to remove; either this or parameters."""
    parameters: Count | None = None
    """What the whole model may keep, as in "75 %" of what it has, or "10M"; either this or ratio."""
    align: PositiveInt = 8
    """Ranks are multiples of this: kernels work in such steps."""

    @model_validator(mode="after")
    def _one_goal(self) -> Self:
        if (self.ratio is None) == (self.parameters is None):
            raise ValueError('name one of ratio and parameters: ratio: 0.5, or parameters: "75 %" of the whole model')
        return self

    def divides(self, layer: nn.Module) -> bool:
        return type(layer) is nn.Linear or (type(layer) is nn.Conv2d and layer.groups == 1)

    def too_large(self, name: str, layer: nn.Module) -> str | None:
        W = matrix(layer)
        least = min(self.align, *W.shape)
        if least * sum(W.shape) < W.numel():
            return None
        return f"{name} is {W.shape[0]} x {W.shape[1]}: rank {least} would be no smaller"

    def wider(self) -> str:
        return super().wider() + (" or a smaller align" if self.align > 1 else "")

    def goal_faults(self, model: TorchModel, chosen: list[str]) -> Iterator[str]:
        return self.fault_of(lambda: self._most(model, chosen))

    def likely_sizes(self, model: TorchModel, chosen: list[str]) -> Sizes:
        """As if each layer needed the same share of its ranks."""
        flat = {name: _flat(matrix(model.module.get_submodule(name)).shape) for name in chosen}
        return ranks_within(flat, self._most(model, chosen), self.align)

    def sizes(self, model: TorchModel, chosen: list[str], context: Context) -> Sizes:
        watched = Watched(model, model, chosen, context)
        what = f"{self.name}: how outputs vary"
        spectra = {name: self._spectrum(name, watched) for name in context.progress.track(chosen, what, len(chosen))}
        ranks = ranks_within(spectra, self._most(model, chosen), self.align)
        context.facts["ranks"] = {name: [rank, len(spectra[name].values)] for name, rank in ranks.items()}
        return {name: ranks[name] for name in chosen if name in ranks}

    def empty(self, layer: Any, size: int) -> nn.Sequential:
        """A convolution's first part has its kernel, the second is 1 x 1; its bias carries the outputs' means."""
        where: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
        first: nn.Module
        second: nn.Module
        if isinstance(layer, nn.Linear):
            first = nn.Linear(layer.in_features, size, bias=False, **where)
            second = nn.Linear(size, layer.out_features, **where)
        else:
            same: dict[str, Any] = {name: getattr(layer, name) for name in CONV_OPTIONS}
            first = nn.Conv2d(layer.in_channels, size, bias=False, **same, **where)
            second = nn.Conv2d(size, layer.out_channels, 1, **where)
        return pair(PARTS, first, second, layer.training)

    def fit(self, layer: nn.Module, moments: Moments, size: int) -> Fitted:
        factors = fit_factors(matrix(layer), moments, size)
        tensors = {"first.weight": factors.first, "second.weight": factors.second, "second.bias": factors.bias}
        return Fitted(tensors, factors.errors)

    def _spectrum(self, name: str, watched: Watched) -> Spectrum:
        try:
            return spectrum(matrix(watched.model.module.get_submodule(name)), watched.moments(name))
        except SqueezeError as error:
            raise ModelError(f"{name}: {error}") from None

    def _most(self, model: TorchModel, chosen: list[str]) -> int:
        """Parameters that the chosen layers may have together.

        Raises:
            ModelError: they are fewer than ranks of ``align`` take, or no fewer than now.
        """
        layers = [model.module.get_submodule(name) for name in chosen]
        shapes = [matrix(layer).shape for layer in layers]
        now = sum(shape.numel() for shape in shapes)
        least = sum(min(self.align, *shape) * sum(shape) for shape in shapes)
        if self.ratio is not None:
            most, goal = int(now * (1 - self.ratio)), f"ratio: {self.ratio:g}"
        else:
            assert self.parameters is not None, "one of the two is named"
            whole, goal = model.parameters(), f"parameters: {self.parameters}"
            most = int(Goal("parameters", self.parameters).allowed(whole)) - whole + now
        most -= sum(shape[0] for shape, layer in zip(shapes, layers, strict=True) if layer.bias is None)
        if not least <= most < now:
            within = f"{now - most:,} of the chosen layers' {now:,} parameters, biases that it adds made up for"
            raise ModelError(f"{goal} takes away {within}; from 1 to {now - least:,} would do")
        return most


def _flat(shape: torch.Size) -> Spectrum:
    ranks = min(shape)
    return Spectrum(torch.linspace(1, 0, ranks), sum(shape), shape.numel())
