"""Importance of every channel of every coupled group: finds the slices, calls the algorithm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from squeeze.algorithms import importance
from squeeze.models.base import Batch
from squeeze.models.torch_model import TorchModel
from squeeze.passes.prune.coupling import Coupled, slices

Importance = Literal["l1", "l2", "taylor", "bn_scale", "random"]
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def channel_scores(
    model: TorchModel, groups: Sequence[Coupled], kind: Importance, seed: int, batches: Iterable[Batch] = ()
) -> list[Tensor]:
    """One ``[channels]`` tensor per group, comparable between groups; ``batches`` is read by taylor only."""
    if kind == "taylor":
        return taylor_scores(model, groups, batches)
    generator = torch.Generator().manual_seed(seed)
    return [importance.normalized(_weight_score(model.module, group, kind, generator)) for group in groups]


def taylor_scores(model: TorchModel, groups: Sequence[Coupled], batches: Iterable[Batch]) -> list[Tensor]:
    """Loss changes, added up over the batches; as they are, since a loss is the same unit in every layer."""
    totals = [torch.zeros(group.channels) for group in groups]
    weights = [slices(model.module, group) for group in groups]
    for batch in batches:
        assert batch.labels is not None, "the pass asks for labels first"
        model.module.zero_grad()
        with torch.enable_grad():
            functional.cross_entropy(model.forward(batch.inputs), batch.labels).backward()  # type: ignore[no-untyped-call]
        for total, group, weight in zip(totals, groups, weights, strict=True):
            total += importance.taylor(weight, slices(model.module, group, gradients=True))
    model.module.zero_grad()
    return totals


def batch_norm_scales(module: nn.Module, group: Coupled) -> list[Tensor]:
    """The scales of the batch norms that the group's channels pass through."""
    layers = [module.get_submodule(member.layer) for member in group.members if member.writes]
    return [layer.weight.detach() for layer in layers if isinstance(layer, BATCH_NORMS) and layer.affine]


def _weight_score(module: nn.Module, group: Coupled, kind: Importance, generator: torch.Generator) -> Tensor:
    if kind == "random":
        return importance.random(group.channels, generator)
    if kind == "bn_scale":
        return importance.bn_scale(batch_norm_scales(module, group))
    score = importance.l1 if kind == "l1" else importance.l2
    return score(slices(module, group))
