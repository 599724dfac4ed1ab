"""AWQ on language models: the plumbing; the paper is ``squeeze.algorithms.awq``."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor, clipped_share
from squeeze.algorithms.awq import CLIPS, STEPS, round_clipped, search_scale
from squeeze.algorithms.hessian import hessian_loss
from squeeze.algorithms.rtn import round_to_nearest
from squeeze.blocks.hessians import block_inputs
from squeeze.blocks.watch import Weight, shared_inputs
from squeeze.models.language.effort import block_macs, block_values
from squeeze.models.language.footprint import FLOAT, shared_shapes
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.effort import WRITTEN_BLOCK, Amount, Work
from squeeze.passes.quantize.block_pass import CalibratedPass, S
from squeeze.passes.quantize.hessians import FEW_TOKENS, fallback
from squeeze.passes.quantize.language.fold import Source, added_by, all_matrices, find_sources, fold, head_counts
from squeeze.passes.quantize.scheme import Scheme
from squeeze.passes.quantize.work import BlockWork, Grids

FORWARDS = 2.0  # times that a block runs: to see its inputs, and to go on
LOSSES = 2  # of plain rounding and of the result
TRY_STEPS, RANGE_STEPS = 14, 18  # times that a weight is read or written for each scale, each range that is tried


class Inputs(NamedTuple):
    """What went into a group of weights."""

    tokens: int
    H: Tensor


class Awq(CalibratedPass[LanguageModel]):
    """Scale up the input channels that matter before rounding, and clip each group where it hurts least.

    Lin et al., 2023, https://arxiv.org/abs/2306.00978. The scales go into the norm or linear that writes the input,
    where there is one that the block allows; weights without one are only clipped.
    """

    name: ClassVar[str] = "awq"

    scale: bool = True
    """Scale salient channels up before rounding; false: only the clip search."""
    clip: bool = True
    """Search the range of each group; false: each group reaches its largest weight."""

    def run(self, model: S, context: Context) -> S:
        result = super().run(model, context)
        folded = Counter(fact["folded"] for fact in context.facts["layers"].values() if "folded" in fact)
        context.facts["folded"] = dict(sorted(folded.items()))  # by norm or linear: weights whose scales went into it
        return result

    def work_bytes(self, model: LanguageModel, limit: int | None) -> int:
        """The Hessians of a whole block, the largest once more as it is scaled, and a weight as floats."""
        shapes = shared_shapes(model)
        hessians = sum(width * width for _, width in shapes)
        return FLOAT * (hessians + max(2 * width * width + 5 * out * width for out, width in shapes))

    def work(self, model: LanguageModel, data: Amount | None) -> Work | None:
        macs = block_macs(model)
        if data is None or macs is None or not data.tokens:
            return None
        forward = Work({model.skeleton.hidden_size: data.tokens * macs}, data.tokens * block_values(model, data.length))
        of_a_block = sum((self._of_shape(*shape, data.tokens) for shape in shared_shapes(model)), Work())
        return forward.times(FORWARDS) + (of_a_block + WRITTEN_BLOCK).times(model.blocks)

    def _of_shape(self, out: int, width: int, tokens: int) -> Work:
        """Weights ``[out, width]`` that share an input: its Hessian, tries of scales and ranges, and losses."""
        tries, ranges = STEPS * self.scale, len(CLIPS) * self.clip
        products = tokens * width * width / 2 + (tries + LOSSES) * out * width * width
        in_groups = ranges * out * width * (self.group_size or width)
        values = out * width * (TRY_STEPS * (tries + LOSSES) + RANGE_STEPS * ranges)
        return Work({width: products}, values) + Work({self.group_size or width: in_groups})

    def quantize(self, work: BlockWork, context: Context) -> Grids:
        walk = work.walk
        assert walk is not None
        run = added_by(walk, work.index)
        groups = shared_inputs(work.block, all_matrices(work.block), run)
        hessians = {weight: inputs.hessian for weight, inputs in block_inputs(work, groups).items()}
        inputs = {weight: Inputs(hessian.tokens, hessian.matrix()) for weight, hessian in hessians.items()}
        sources = find_sources(work.block, groups, head_counts(walk.network.config), run) if self.scale else {}
        grids: Grids = {}
        columns = {group[0]: self._fold(work, group, sources, inputs[group[0]]) for group in groups}
        for group in groups:
            for weight in [member for member in group if member in work.schemes]:
                grids[weight] = self._rounded(work, weight, inputs[group[0]], columns[group[0]])
        return grids

    def _fold(self, work: BlockWork, group: list[Weight], sources: dict[Weight, Source], inputs: Inputs) -> Tensor:
        """Scale what a group multiplies and divide what writes it; gives the scale ``[in]``, ones where none helps."""
        source, scheme = sources.get(group[0]), _scheme(work, group)
        if source is None or scheme is None or inputs.tokens < FEW_TOKENS:
            return torch.ones(group[0].of(work.block).shape[1])
        H = inputs.H
        weights = [weight.of(work.block) for weight in group if weight in work.schemes]
        magnitude = source.tied(H.diagonal().sqrt())
        searched = search_scale(weights, magnitude, H, scheme.bits, scheme.group_size, scheme.symmetric)
        work.changed.update(fold(work.block, source, group, searched.scale))
        facts = {"folded": source.module, "alpha": searched.alpha}
        work.facts |= {str(weight): dict(facts) for weight in group if weight in work.schemes}
        return searched.scale

    def _rounded(self, work: BlockWork, weight: Weight, inputs: Inputs, scale: Tensor) -> QuantizedTensor:
        if inputs.tokens < FEW_TOKENS:
            return fallback(work, weight, inputs.tokens)
        scheme, real = work.schemes[weight], weight.of(work.block).float()
        options = scheme.bits, scheme.group_size, scheme.symmetric
        H = inputs.H / scale / scale[:, None]
        grid = round_clipped(real, H, *options) if self.clip else round_to_nearest(real, *options)
        rounded = round_to_nearest(real * (1 / scale), *options).dequantize() * scale
        facts = {"tokens": inputs.tokens, "loss_rtn": float(hessian_loss(rounded - real, H).sum())}
        facts |= {"loss": float(hessian_loss(grid.dequantize() - real, H).sum()), "clipped": clipped_share(real, grid)}
        work.facts[str(weight)] = facts | work.facts.get(str(weight), {})
        return grid


def _scheme(work: BlockWork, group: list[Weight]) -> Scheme | None:
    """How the scales of a group are tried: as its first weight is stored; None where all are left as they are."""
    return next((work.schemes[weight] for weight in group if weight in work.schemes), None)
