"""GPTQ on language models: the plumbing; the paper is ``squeeze.algorithms.gptq``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Gt, Le
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor, clipped_share
from squeeze.algorithms.drift import Drift, moved
from squeeze.algorithms.factor import Factor, Order, factorize
from squeeze.algorithms.gptq import solve
from squeeze.algorithms.hessian import hessian_loss
from squeeze.algorithms.quantease import quantease
from squeeze.algorithms.rtn import Clip, round_to_nearest
from squeeze.algorithms.space import Space
from squeeze.blocks.hessians import Inputs
from squeeze.blocks.layout import layout_of
from squeeze.blocks.watch import Weight
from squeeze.formats.grid_kind import GridKind, ScaleType
from squeeze.models.base import Model
from squeeze.models.language.footprint import FLOAT, beside_shapes, block_matrices, kept_inputs_bytes, shared_shapes
from squeeze.models.language.language_model import LanguageModel, in_shards
from squeeze.models.language.memory import trim_heap
from squeeze.models.options import Unused
from squeeze.models.torch_stage import TorchStage, WeightShape
from squeeze.passes.base import Context, Holds
from squeeze.passes.calibration import kept_bytes
from squeeze.passes.effort import Amount, Work
from squeeze.passes.quantize.block_pass import CalibratedPass
from squeeze.passes.quantize.gptq_parts import (
    COPIES,
    Part,
    Share,
    every_row,
    part_values,
    shares_of,
    space_for,
    square_bytes,
    stages_of,
)
from squeeze.passes.quantize.gptq_work import gptq_work
from squeeze.passes.quantize.hessians import FEW_TOKENS, fallback
from squeeze.passes.quantize.scheme import Scheme, kind_of
from squeeze.passes.quantize.weighting import TokenWeights, Weighting, end_loss_bytes
from squeeze.passes.quantize.work import BlockWork, Grids

Target = Literal["original", "given"]  # outputs to match: the original model's, or the current weights'

ROWS = 1024  # rows of a weight at a time


class Gptq(CalibratedPass[TorchStage]):
    """Quantize weights column by column, pushing each error onto the columns still to come.

    Frantar et al., 2022, https://arxiv.org/abs/2210.17323; towards the original model's outputs as in GPTAQ (Li et al.,
    2025, https://arxiv.org/abs/2504.02692), then coordinate descent as in QuantEase (Behdin et al., 2023,
    https://arxiv.org/abs/2309.01885). Weights that share an input (q, k, v; gate, up) share one Hessian and one
    factorization, unless errors are weighted by the end loss (Kim et al., "GuidedQuant", 2025,
    https://arxiv.org/abs/2505.07004). A convolution is a product with its unfolded inputs (im2col), for each group of
    its channels.
    """

    name: ClassVar[str] = "gptq"
    renamed: ClassVar[Mapping[str, str]] = {"turned": "negative_scales", "sweeps": "refinements"}

    damping: Annotated[float, Gt(0)] = 0.01
    """Share of the mean diagonal added to the Hessian; raised automatically when it cannot be inverted."""
    order: Order = "group_aware"
    """Order in which columns are rounded. group_aware: largest inputs first, groups kept whole; act_order: groups
    broken up, slower to load; given: as stored."""
    clip: Clip = "mse"
    """mse: scales of least output error; absmax: scales that reach the largest weight."""
    negative_scales: bool = True
    """A symmetric group whose largest weight is positive gets a negative scale: one more integer on the longer side."""
    scales: ScaleType = "float16"
    """bfloat16: 8 significant bits, which XNNPACK's int4 kernels (.pte) hold as well as every other format."""
    activations: Literal["float", "int8"] = "float"
    """int8: what goes into a weight is rounded to 8 bits, each token by its range, before its Hessian is taken: as
    XNNPACK's kernels do that multiply 4-bit weights in a language model's .pte."""
    refinements: NonNegativeInt = 2
    """Rounds of coordinate descent on scales and integers after rounding; each costs one H x W product."""
    true_sequential: bool = True
    """Later weights of a block are calibrated on the outputs of its quantized earlier ones: more forward passes where
    what goes into its last products does not fit into 512 MB, or an eighth of the plan's memory."""
    target: Target = "original"
    """original: match the outputs of the unquantized model (GPTAQ); given: use current inputs only, half the cost."""
    correction: Annotated[float, Gt(0), Le(1)] = 0.5
    """Share of the way to the original's outputs that a weight is moved before it is rounded. 1: all of it, as in the
    paper, which fits the calibration text's own noise too; gptqmodel takes 0.25."""
    weighting: Weighting = "equal"
    """What an error in a token's output costs. equal: the same in every token; end_loss: as much as the loss of the
    whole model feels it there (GuidedQuant), by one backward pass over the calibration text; meanwhile 4 bytes x blocks
    x tokens x hidden size lie on disk. Twice the time, and at 2 to 4 bits no better on the models that it was tried on.
    Language models alone, and no experts."""
    weighting_groups: PositiveInt = 1
    """Groups of output channels of each weight that get a Hessian of their own; goes with weighting: end_loss."""
    weighting_power: Annotated[float, Gt(0), Le(1)] = 0.5
    """Power of the squared gradient with which an error counts. 1: as in the paper, where a few tokens of a short text
    may count more than all others together; nearer to 0, all count more alike."""

    def follows_original(self) -> bool:
        return self.target == "original"

    def weighted(self) -> bool:
        """Whether some tokens count more than others."""
        return self.weighting == "end_loss"

    def token_weights(self, model: LanguageModel, context: Context) -> TokenWeights | None:
        if not self.weighted():
            return None
        return TokenWeights(model, set(self.schemes(model)), self.weighting_groups, self.weighting_power, context)

    def advances(self) -> bool:
        return self.true_sequential

    def scale_type(self) -> ScaleType:
        return self.scales

    def kept_bytes(self, model: LanguageModel, tokens: int, limit: int | None) -> int:
        walks = self.follows_original() + self.true_sequential
        return walks * kept_inputs_bytes(model, tokens, kept_bytes(limit) // max(walks, 1))

    def work_bytes(self, model: LanguageModel, limit: int | None) -> int:
        """Hessian, factor and drift; integers of all weights that share them; a part's copies."""
        if self.weighted():
            every = [self._weighted_bytes(outs, width, limit) for outs, width in beside_shapes(model)]
            return max(every) if self.true_sequential else sum(every)
        return max(self._shared_bytes(out, width, limit) for out, width in shared_shapes(model))

    def _shared_bytes(self, out: int, width: int, limit: int | None) -> int:
        squares = square_bytes(width, limit)
        drifted = squares * min(out, width) // width if self.follows_original() else 0
        return 2 * squares + drifted + FLOAT * COPIES * min(part_values(limit), out * width) + out * width

    def _weighted_bytes(self, outs: list[int], width: int, limit: int | None) -> int:
        """A Hessian and a drift for each group of outputs of the weights that share an input, all at once."""
        groups, squares = [-(-out // self.weighting_groups) for out in outs], square_bytes(width, limit)
        every = len(outs) * self.weighting_groups * squares
        drifts = sum(min(out, width) for out in groups) * self.weighting_groups * self.follows_original()
        return every + squares * drifts // width + self._shared_bytes(max(groups), width, limit) + sum(outs) * width

    def memory_bytes(self, model: TorchStage, tokens: int, limit: int | None, nbytes: int | None = None) -> int | None:
        takes = super().memory_bytes(model, tokens, limit, nbytes)
        if takes is None or not self.weighted():
            return takes
        shards = in_shards(model)
        weights = FLOAT * tokens * self.weighting_groups * len(block_matrices(shards))  # of a block's tokens
        return max(takes + weights, end_loss_bytes(shards, tokens, limit))

    def work(self, model: TorchStage, data: Amount | None) -> Work | None:
        if not model.blocks or data is None:
            return None
        options = self.follows_original(), self.true_sequential, self.refinements
        return gptq_work(in_shards(model), data, *options, self.weighting_groups if self.weighted() else None)

    def faults_before(self, model: TorchStage, holds: Holds) -> Iterator[str]:
        yield from super().faults_before(model, holds)
        yield from self._weighting_faults(model)
        if self.order == "act_order":
            shapes = model.matrices()
            experts = [n for n, scheme in self.schemes(model).items() if shapes[n].experts and scheme.group_size]
            if experts:
                what = f"{len(experts)} weights hold their experts in one tensor, {experts[0]} for one"
                yield f"{self.name}: order act_order: {what}, which has one group index; group_aware or given would do"

    def _weighting_faults(self, model: TorchStage) -> Iterator[str]:
        """Where gradients of the end loss cannot be taken, or cannot be used."""
        if not self.weighted():
            return
        where = f"{self.name}: weighting end_loss"
        shapes = model.matrices()
        experts = [name for name in self.schemes(model) if shapes[name].experts]
        if not model.blocks:
            yield f"{where}: is of language models, which this is not; equal would do"
        elif experts:
            what = f"{len(experts)} weights hold experts, which do not see every token, {experts[0]} for one"
            yield f"{where}: {what}; exclude them, or weighting: equal"
        elif self.order == "act_order" and self.weighting_groups > 1:
            yield f"{where}: order act_order has one order for all outputs of a weight; weighting_groups: 1 would do"

    def unused(self, model: Model, grid: Mapping[str, GridKind] | None) -> Iterator[Unused]:
        yield from super().unused(model, grid)
        symmetric = self.symmetric or any(override.symmetric for override in self.overrides.values())
        if not symmetric:
            yield Unused("negative_scales", "is for symmetric grids; an asymmetric one has a zero point")
        if not self.follows_original():
            yield Unused("correction", "goes with target: original")
        if not model.blocks:
            yield Unused("activations", "is of language models; quantize_static rounds those of others")
        if not self.weighted():
            yield from (Unused(f"weighting_{one}", "goes with weighting: end_loss") for one in ("groups", "power"))

    def kind(self, shape: WeightShape, scheme: Scheme) -> GridKind:
        kind = kind_of(shape.matrix, scheme, ordered=self.order == "act_order" and scheme.group_size is not None)
        return replace(kind, negative=self.negative_scales and scheme.symmetric)

    def quantize(self, work: BlockWork, context: Context) -> Grids:
        layout, work.space = layout_of(work, list(work.schemes)), space_for(context)
        work.inputs_rounded = self.activations == "int8"
        groups, places = layout.groups, layout.places if self.follows_original() else None
        work.keep(layout.ends, kept_bytes(context.memory_bytes), own=self.true_sequential)
        grids: Grids = {}
        stages = stages_of(groups) if self.true_sequential else [groups]
        for together in stages:
            shares = shares_of(work, together, places)
            if together is stages[-1]:
                work.was = {}  # last group: originals no longer needed, and mapped pages count towards RSS
            solved = []
            while shares:
                solved.append(self._solve(work, shares.pop(0), context))  # each Hessian is freed when its share is done
            weights = [weight for group in together for weight in group]
            for weight in weights:
                grids[weight] = QuantizedTensor.stack([parts[weight] for parts in solved if weight in parts])
            work.settle(weights)
        return grids

    def quantize_layer(self, work: BlockWork, inputs: Mapping[Weight, Inputs], context: Context) -> Grids:
        grids: Grids = {}
        for weight in work.schemes:
            grids |= self._solve(work, Share({weight: every_row(work, weight)}, inputs[weight]), context)
        return grids

    def _solve(self, work: BlockWork, share: Share, context: Context) -> Grids:
        """Output channels that share a Hessian; they do not see each other, so they go a part at a time."""
        inputs, tokens = share.inputs, share.inputs.hessian.tokens
        if tokens < FEW_TOKENS:
            return {w: fallback(work, w, tokens).rows(slice(r.start, r.stop)) for w, r in share.rows.items()}
        H, values = inputs.hessian.matrix(), part_values(context.memory_bytes)
        grids: Grids = {}
        for scheme, members in share.by_scheme(work):
            factor = factorize(H, self.damping, self.order, scheme.group_size, inputs.hessian.space)
            facts: dict[str, Any] = {"tokens": tokens, "damping": factor.damping, "dead": factor.dead}
            for weight in members:
                refined = []
                for part in share.parts(work, weight, values):
                    refined.append(self._rounded(work, part, inputs.drift, H, factor, scheme))
                    if len(share.rows[weight]) > part.rows.stop - part.rows.start:
                        trim_heap()  # integers that stay lie between copies that went
                grids[weight] = QuantizedTensor.stack([grid for grid, _ in refined])
                sums = {name: sum(loss[name] for _, loss in refined) for name in ("loss_rtn", "loss", "clipped")}
                _note(work, weight, facts, sums)
            del factor  # as large as the Hessian; freed before the next one
        return grids

    def _rounded(
        self, work: BlockWork, part: Part, drift: Drift | None, H: Tensor, factor: Factor, scheme: Scheme
    ) -> tuple[QuantizedTensor, dict[str, float]]:
        """Some output channels on the grid, and their losses; from then on the block uses the result.

        Where drift is known, they are rounded towards the original model's outputs; then coordinate descent refines.
        """
        own = part.own(work)
        target = own.float()
        if drift is not None:
            target = moved(target, self.correction * drift.pull(part.in_share), factor)
        kind = scheme.bits, scheme.group_size, scheme.symmetric
        stored, negative, space = scheme.scale_dtype, self.negative_scales, factor.space
        solved = solve(target, factor, *kind, self.clip, scale_dtype=stored, negative_scales=negative)
        refined = quantease(target, solved.grid(), H, self.refinements, factor.added, stored, space)
        facts = {
            "loss_rtn": _loss_of_rounding(own, target, scheme, H, space),
            "loss": float((solved.loss - refined.gain).clamp_min(0).sum()),
            "clipped": clipped_share(own, refined.grid) * own.numel(),
        }
        if self.true_sequential:
            own.copy_(refined.grid.dequantize())
        return refined.grid, facts


def _note(work: BlockWork, weight: Weight, facts: dict[str, Any], sums: dict[str, float]) -> None:
    """Add what became of some output channels to the facts of their weight."""
    known = work.facts.get(str(weight), {})
    share = sums.pop("clipped") / weight.of(work.block).numel()
    losses = {name: known.get(name, 0.0) + value for name, value in sums.items()}
    damping, dead = (max(known.get(name, 0), facts[name]) for name in ("damping", "dead"))
    together = {"damping": damping, "dead": dead, "clipped": known.get("clipped", 0.0) + share}
    work.facts[str(weight)] = facts | losses | together


def _loss_of_rounding(weight: Tensor, target: Tensor, scheme: Scheme, H: Tensor, space: Space) -> float:
    """The loss of plain rounding per token, for comparison in the report; computed a few rows at a time."""
    loss = 0.0
    for rows, target_rows in zip(torch.split(weight, ROWS), torch.split(target, ROWS), strict=True):
        rounded = round_to_nearest(rows, scheme.bits, scheme.group_size, scheme.symmetric).dequantize()
        loss += float(hessian_loss(rounded - target_rows, H, space).sum())
    return loss
