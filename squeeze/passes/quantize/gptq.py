"""GPTQ on language models: the plumbing; the paper is ``squeeze.algorithms.gptq``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Gt, Le
from pydantic import NonNegativeInt
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor, clipped_share
from squeeze.algorithms.drift import Drift, moved
from squeeze.algorithms.factor import Factor, Order, factorize
from squeeze.algorithms.gptq import Solved, solve
from squeeze.algorithms.hessian import hessian_loss
from squeeze.algorithms.quantease import quantease
from squeeze.algorithms.rtn import Clip, round_to_nearest
from squeeze.blocks.hessians import Inputs, block_inputs
from squeeze.blocks.layout import layout_of
from squeeze.blocks.watch import Weight
from squeeze.formats.grid_kind import GridKind, ScaleType
from squeeze.models.base import Model
from squeeze.models.language.footprint import FLOAT, kept_inputs_bytes, shared_shapes
from squeeze.models.language.language_model import LanguageModel, in_shards
from squeeze.models.options import Unused
from squeeze.models.torch_stage import TorchStage, WeightShape
from squeeze.passes.base import Context
from squeeze.passes.calibration import kept_bytes
from squeeze.passes.effort import Amount, Work
from squeeze.passes.quantize.block_pass import CalibratedPass
from squeeze.passes.quantize.gptq_work import gptq_work
from squeeze.passes.quantize.hessians import FEW_TOKENS, fallback
from squeeze.passes.quantize.scheme import Scheme, kind_of
from squeeze.passes.quantize.work import BlockWork, Grids

Target = Literal["original", "given"]  # outputs to match: the original model's, or the current weights'

ROWS = 1024  # rows of a weight at a time
PART_VALUES = 1 << 24  # weight values solved at once: each copy takes 64 MB
COPIES = 9  # copies of a part while it is shifted, solved and refined


class Gptq(CalibratedPass[TorchStage]):
    """Quantize weights column by column, pushing each error onto the columns still to come.

    Frantar et al., 2022, https://arxiv.org/abs/2210.17323; towards the original model's outputs as in GPTAQ (Li et al.,
    2025, https://arxiv.org/abs/2504.02692), then coordinate descent as in QuantEase (Behdin et al., 2023,
    https://arxiv.org/abs/2309.01885). Weights that share an input (q, k, v; gate, up) share one Hessian and one
    factorization. A convolution is a product with its unfolded inputs (im2col), for each group of its channels.
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

    def follows_original(self) -> bool:
        return self.target == "original"

    def advances(self) -> bool:
        return self.true_sequential

    def scale_type(self) -> ScaleType:
        return self.scales

    def kept_bytes(self, model: LanguageModel, tokens: int, limit: int | None) -> int:
        walks = self.follows_original() + self.true_sequential
        return walks * kept_inputs_bytes(model, tokens, kept_bytes(limit) // max(walks, 1))

    def work_bytes(self, model: LanguageModel) -> int:
        """Hessian, factor and drift; targets and integers of all weights that share them; a part's copies."""
        return max(self._shared_bytes(out, width) for out, width in shared_shapes(model))

    def _shared_bytes(self, out: int, width: int) -> int:
        drifted = min(out, width) * width if self.follows_original() else 0
        part = COPIES * min(PART_VALUES, out * width)
        return FLOAT * (2 * width * width + drifted + out * width + part) + out * width

    def work(self, model: TorchStage, data: Amount | None) -> Work | None:
        if not model.blocks or data is None:
            return None
        return gptq_work(in_shards(model), data, self.follows_original(), self.true_sequential, self.refinements)

    def faults(self, model: TorchStage) -> Iterator[str]:
        yield from super().faults(model)
        if self.order == "act_order":
            shapes = model.matrices()
            experts = [n for n, scheme in self.schemes(model).items() if shapes[n].experts and scheme.group_size]
            if experts:
                what = f"{len(experts)} weights hold their experts in one tensor, {experts[0]} for one"
                yield f"{self.name}: order act_order: {what}, which has one group index; group_aware or given would do"

    def unused(self, model: Model, grid: Mapping[str, GridKind] | None) -> Iterator[Unused]:
        yield from super().unused(model, grid)
        symmetric = self.symmetric or any(override.symmetric for override in self.overrides.values())
        if not symmetric:
            yield Unused("negative_scales", "is for symmetric grids; an asymmetric one has a zero point")
        if not self.follows_original():
            yield Unused("correction", "goes with target: original")

    def kind(self, shape: WeightShape, scheme: Scheme) -> GridKind:
        kind = kind_of(shape.matrix, scheme, ordered=self.order == "act_order" and scheme.group_size is not None)
        return replace(kind, negative=self.negative_scales and scheme.symmetric)

    def quantize(self, work: BlockWork, context: Context) -> Grids:
        layout = layout_of(work, list(work.schemes))
        groups, places = layout.groups, layout.places if self.follows_original() else None
        work.keep(layout.ends, kept_bytes(context.memory_bytes), own=self.true_sequential)
        grids: Grids = {}
        stages = _stages(groups) if self.true_sequential else [groups]
        for together in stages:
            inputs = block_inputs(work, together, places)
            if together is stages[-1]:
                work.was.clear()  # last group: originals no longer needed, and mapped pages count towards RSS
            for group in together:
                grids |= self._solve(work, group, inputs.pop(group[0]))  # each Hessian is freed when its group is done
                work.settle(group)
        return grids

    def quantize_layer(self, work: BlockWork, inputs: Mapping[Weight, Inputs], context: Context) -> Grids:
        grids: Grids = {}
        for weight in work.schemes:
            grids |= self._solve(work, [weight], inputs[weight])
        return grids

    def _solve(self, work: BlockWork, group: list[Weight], inputs: Inputs) -> Grids:
        """All weights that share one input; output channels do not see each other, so they go a part at a time."""
        tokens = inputs.hessian.tokens
        if tokens < FEW_TOKENS:
            return {weight: fallback(work, weight, tokens) for weight in group}
        H, drift = inputs.hessian.matrix(), inputs.drift
        inputs.drift = None
        grids: Grids = {}
        for scheme, members in _by_scheme(work, group):
            factor = factorize(H, self.damping, self.order, scheme.group_size)
            facts: dict[str, Any] = {"tokens": tokens, "damping": factor.damping, "dead": factor.dead}
            parts = {
                weight: [self._round(work, part, drift, factor, scheme) for part in _parts(work, group, weight)]
                for weight in members
            }
            added = factor.added
            del factor  # as large as the Hessian; freed before the next step
            for weight in members:
                refined = [self._refine(work, part, H, added, scheme) for part in parts.pop(weight)]
                grid = QuantizedTensor.stack([grid for grid, _ in refined])
                losses = {name: sum(loss[name] for _, loss in refined) for name in ("loss_rtn", "loss")}
                beyond = sum(loss["beyond"] for _, loss in refined) / grid.q.numel()
                work.facts[str(weight)] = facts | losses | {"clipped": beyond}
                grids[weight] = grid
        return grids

    def _round(self, work: BlockWork, part: Part, drift: Drift | None, factor: Factor, scheme: Scheme) -> Part:
        """Round some output channels; where drift is known, towards the original model's outputs."""
        part.target = part.own(work).float()
        if drift is not None:
            part.target = moved(part.target, self.correction * drift.pull(part.in_group), factor)
        kind = scheme.bits, scheme.group_size, scheme.symmetric
        stored, negative = scheme.scale_dtype, self.negative_scales
        part.solved = solve(part.target, factor, *kind, self.clip, scale_dtype=stored, negative_scales=negative)
        return part

    def _refine(
        self, work: BlockWork, part: Part, H: Tensor, added: float, scheme: Scheme
    ) -> tuple[QuantizedTensor, dict[str, float]]:
        """Refine a part by coordinate descent and record its loss; from then on the block uses the result."""
        solved, target, own = part.solved, part.target, part.own(work)
        assert solved is not None
        assert target is not None
        refined = quantease(target, solved.grid(), H, self.refinements, added, scheme.scale_dtype)
        facts = {
            "loss_rtn": _loss_of_rounding(own, target, scheme, H),
            "loss": float((solved.loss - refined.gain).clamp_min(0).sum()),
            "beyond": clipped_share(own, refined.grid) * own.numel(),
        }
        part.solved = part.target = None
        if self.true_sequential:
            own.copy_(refined.grid.dequantize())
        return refined.grid, facts


@dataclass
class Part:
    """Some output channels of a weight while they are quantized.

    Args:
        rows: Of the weight.
        in_group: The same, of all weights that share the input, one under the other.
    """

    weight: Weight
    rows: slice
    in_group: slice
    target: Tensor | None = None
    solved: Solved | None = None

    def own(self, work: BlockWork) -> Tensor:
        """``[rows, in]``, a view into the block's parameter."""
        return self.weight.of(work.block)[self.rows]


def _parts(work: BlockWork, group: list[Weight], weight: Weight) -> Iterator[Part]:
    """As many output channels at once as fill PART_VALUES."""
    sizes = {each: len(each.of(work.block)) for each in group}
    before = sum(size for each, size in list(sizes.items())[: group.index(weight)])
    rows = max(1, PART_VALUES // weight.of(work.block).shape[1])
    for start in range(0, sizes[weight], rows):
        stop = min(start + rows, sizes[weight])
        yield Part(weight, slice(start, stop), slice(before + start, before + stop))


def _stages(groups: list[list[Weight]]) -> list[list[list[Weight]]]:
    """Groups by their dependencies; experts (a number in the name) do not depend on each other."""
    stages: dict[str, list[list[Weight]]] = {}
    for group in groups:
        stages.setdefault(re.sub(r"\.\d+\.", ".*.", group[0].name), []).append(group)
    return list(stages.values())


def _by_scheme(work: BlockWork, group: list[Weight]) -> Iterator[tuple[Scheme, list[Weight]]]:
    for scheme in dict.fromkeys(work.schemes[weight] for weight in group):
        yield scheme, [weight for weight in group if work.schemes[weight] == scheme]


def _loss_of_rounding(weight: Tensor, target: Tensor, scheme: Scheme, H: Tensor) -> float:
    """The loss of plain rounding per token, for comparison in the report; computed a few rows at a time."""
    loss = 0.0
    for rows, target_rows in zip(torch.split(weight, ROWS), torch.split(target, ROWS), strict=True):
        rounded = round_to_nearest(rows, scheme.bits, scheme.group_size, scheme.symmetric).dequantize()
        loss += float(hessian_loss(rounded - target_rows, H).sum())
    return loss
