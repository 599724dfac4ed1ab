"""SmoothQuant on language models: the plumbing; the paper is ``squeeze.algorithms.smooth``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Interval
from torch import Tensor, nn

from squeeze.algorithms.smooth import smooth_scale
from squeeze.blocks.walk import Walk
from squeeze.blocks.watch import InputWatch, Weight, shared_inputs
from squeeze.errors import EffectError
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.calibration import calibration_walk
from squeeze.passes.quantize.language.block_edit import BlockEdit
from squeeze.passes.quantize.language.fold import added_by, all_matrices, find_sources, fold, head_counts


class Smooth(BlockEdit):
    """Even out the inputs of a language model's linears, into the norms before them; a quantizer follows.

    Xiao et al., 2022, https://arxiv.org/abs/2211.10438. What the model computes stays the same.
    """

    name: ClassVar[str] = "smooth"
    needs: ClassVar[frozenset[str]] = frozenset({"calibration"})

    alpha: Annotated[float, Interval(ge=0, le=1)] = 0.5
    """Share of the difficulty moved from inputs to weights: 1 evens out the inputs, 0 the weights."""

    def walk(self, model: LanguageModel, context: Context) -> Walk:
        return calibration_walk(model, context)

    def run(self, model: LanguageModel, context: Context) -> LanguageModel:
        result = super().run(model, context)
        if not any(context.facts["blocks"].values()):
            raise EffectError(f"{self.name}: no norm of this model has linears as its only readers; nothing was folded")
        return result

    def edit(self, model: LanguageModel, index: int, block: nn.Module, walk: Walk) -> dict[str, Any]:
        run = added_by(walk, index)
        groups = shared_inputs(block, all_matrices(block), run)
        sources = find_sources(block, groups, head_counts(model.skeleton.config), run)
        groups = [group for group in groups if group[0] in sources and sources[group[0]].rows is None]
        largest = _largest_inputs(index, block, walk, [group[0] for group in groups])
        facts: dict[str, Any] = {}
        for group in groups:
            source = sources[group[0]]
            fold(block, source, group, smooth_scale(largest[group[0]], [w.of(block) for w in group], self.alpha))
            facts[source.module] = ", ".join(weight.name.removesuffix(".weight") for weight in group)
        return facts


def _largest_inputs(index: int, block: nn.Module, walk: Walk, weights: list[Weight]) -> dict[Weight, Tensor]:
    """``[in]`` of each weight, over all calibration tokens."""
    largest: dict[Weight, Tensor] = {}

    def see(weight: Weight, value: Tensor) -> None:
        most = value.reshape(-1, value.shape[-1]).abs().amax(dim=0).float()
        largest[weight] = torch.maximum(largest[weight], most) if weight in largest else most

    with InputWatch(block, weights, see):
        walk.through(index, keep=False)
    return largest
