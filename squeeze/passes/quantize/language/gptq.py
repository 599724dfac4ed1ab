"""GPTQ on language models: the plumbing; the paper is ``squeeze.algorithms.gptq``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Gt
from pydantic import NonNegativeInt
from torch import Tensor

from squeeze.algorithms.affine import rows_of, share_beyond
from squeeze.algorithms.drift import moved
from squeeze.algorithms.factor import Order, factorize
from squeeze.algorithms.gptq import solve
from squeeze.algorithms.hessian import hessian_loss
from squeeze.algorithms.rtn import Clip, round_to_nearest
from squeeze.algorithms.sweeps import sweep
from squeeze.formats.grid_kind import GridKind
from squeeze.models.base import Model
from squeeze.models.language.footprint import FLOAT, shared_shapes
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.quantize.language.block_pass import BlockWork, CalibratedPass, Found
from squeeze.passes.quantize.language.hessians import FEW_TOKENS, Inputs, block_inputs, fallback
from squeeze.passes.quantize.language.scheme import Scheme, kind_of
from squeeze.passes.quantize.language.stream import find_places
from squeeze.passes.quantize.language.watch import Weight, shared_inputs

Target = Literal["original", "given"]  # whose outputs are to be kept: the original model's, or the given weights'

ROWS = 1024  # of a weight at a time


class Gptq(CalibratedPass):
    """Quantize a language model's weights column by column, pushing each error onto the columns still to come.

    Frantar et al., 2022, https://arxiv.org/abs/2210.17323; towards the original model's outputs as in GPTAQ (Li et al.,
    2025, https://arxiv.org/abs/2504.02692), then swept as in QuantEase (Behdin et al., 2023,
    https://arxiv.org/abs/2309.01885). Weights that share an input (q, k, v; gate, up) share one Hessian and one
    factorization.
    """

    name: ClassVar[str] = "gptq"

    damping: Annotated[float, Gt(0)] = 0.01  # raise it when the Hessian will not invert; raised by itself if it must
    order: Order = "group_aware"  # largest inputs first, groups kept whole; act_order breaks them up: slower to read
    clip: Clip = "mse"  # scales of least output error; absmax reaches the largest weight, KL a fifth higher at 3 bits
    turned: bool = True  # a group whose largest weight is positive gets a negative scale; false: none is negative
    sweeps: NonNegativeInt = 2  # times that scales and integers are asked again in the end; each costs a product
    true_sequential: bool = True  # later weights of a block see what earlier ones became: more forwards
    target: Target = "original"  # make up for what was done before, too; given: only round, at half the products

    def follows_original(self) -> bool:
        return self.target == "original"

    def work_bytes(self, model: LanguageModel) -> int:
        """Hessian, its factor and what was drifted; the weights as floats: pulled, moved, solved and swept."""
        weights = 9 if self.follows_original() else 7
        return max(FLOAT * (3 * width * width + weights * out * width) for out, width in shared_shapes(model))

    def faults(self, model: Model) -> Iterator[str]:
        yield from super().faults(model)
        if "turned" in self.model_fields_set and self.turned and not self.symmetric:
            yield f"{self.name}: turned is of symmetric grids; an asymmetric one has a zero point instead"
        if isinstance(model, LanguageModel) and self.order == "act_order":
            shapes = dict(model.skeleton.module.named_parameters())
            experts = [n for n, scheme in self.schemes(model).items() if shapes[n].dim() == 3 and scheme.group_size]
            if experts:
                what = f"{len(experts)} weights hold their experts in one tensor, {experts[0]} for one"
                yield f"{self.name}: order act_order: {what}, which has one group index; group_aware or given would do"

    def _kind(self, shape: tuple[int, ...], scheme: Scheme) -> GridKind:
        return kind_of(shape, scheme, ordered=self.order == "act_order" and scheme.group_size is not None)

    def quantize(self, work: BlockWork, context: Context) -> Found:
        walk = work.walk
        assert walk is not None
        weights = list(work.schemes)
        first = next(walk.chunks())
        groups = shared_inputs(work.block, weights, lambda: walk.block(work.index, walk.hidden[first]))
        places = self._places(work, groups, walk.hidden[first]) if self.follows_original() else None
        found: Found = {}
        for together in _stages(groups) if self.true_sequential else [groups]:
            inputs = block_inputs(work, together, places)
            for group in together:
                found |= self._solve(work, group, inputs.pop(group[0]))  # freed with its turn
        return found

    def _places(self, work: BlockWork, groups: list[list[Weight]], hidden: Tensor) -> dict[Weight, str]:
        walk = work.walk
        assert walk is not None
        alone = [group[0] for group in groups if len(group) == 1]
        return find_places(work.block, alone, hidden, lambda: walk.block(work.index, hidden))

    def _solve(self, work: BlockWork, group: list[Weight], inputs: Inputs) -> Found:
        """All weights that share one input."""
        tokens = inputs.hessian.tokens
        if tokens < FEW_TOKENS:
            return {weight: fallback(work, weight, tokens) for weight in group}
        H, pulls = inputs.hessian.matrix(), _pulls(work, group, inputs)
        found: Found = {}
        for scheme, members in _by_scheme(work, group):
            factor = factorize(H, self.damping, self.order, scheme.group_size)
            target = torch.cat([weight.of(work.block).float() for weight in members])
            if pulls:
                target = moved(target, torch.cat([pulls[weight] for weight in members]), factor)
            kind = scheme.bits, scheme.group_size, scheme.symmetric
            solved = solve(target, factor, *kind, self.clip, turned=self.turned)
            said: dict[str, Any] = {"tokens": tokens, "damping": factor.damping, "dead": factor.dead}
            added = factor.added
            del factor  # as large as the Hessian: not beside what comes next
            swept = sweep(target, solved.grid(), H, self.sweeps, added)
            losses = (solved.loss - swept.gain).clamp_min(0)
            start = 0
            for weight in members:
                stop = start + len(weight.of(work.block))
                grid = rows_of(swept.grid, start, stop)
                rounded = _loss_of_rounding(weight.of(work.block), target[start:stop], scheme, H)
                beyond = share_beyond(weight.of(work.block), grid)
                loss = {"loss_rtn": rounded, "loss": float(losses[start:stop].sum()), "clipped": beyond}
                work.said[str(weight)] = said | loss
                if self.true_sequential:
                    work.put(weight, grid.dequantize())
                found[weight], start = grid, stop
        return found


def _stages(groups: list[list[Weight]]) -> list[list[list[Weight]]]:
    """Groups that wait for each other: experts, told apart by a number in their names, do not."""
    stages: dict[str, list[list[Weight]]] = {}
    for group in groups:
        stages.setdefault(re.sub(r"\.\d+\.", ".*.", group[0].name), []).append(group)
    return list(stages.values())


def _pulls(work: BlockWork, group: list[Weight], inputs: Inputs) -> dict[Weight, Tensor]:
    """Which way the drift pulls each weight; nothing where it is not known. The drift itself is freed."""
    drift, inputs.drift = inputs.drift, None
    if drift is None:
        return {}
    parts = torch.split(drift.pull(), [len(weight.of(work.block)) for weight in group])
    return dict(zip(group, parts, strict=True))


def _by_scheme(work: BlockWork, group: list[Weight]) -> Iterator[tuple[Scheme, list[Weight]]]:
    for scheme in dict.fromkeys(work.schemes[weight] for weight in group):
        yield scheme, [weight for weight in group if work.schemes[weight] == scheme]


def _loss_of_rounding(weight: Tensor, target: Tensor, scheme: Scheme, H: Tensor) -> float:
    """What the report holds GPTQ's loss against: that of rounding alone, per token; a few rows at a time."""
    loss = 0.0
    for rows, wanted in zip(torch.split(weight, ROWS), torch.split(target, ROWS), strict=True):
        rounded = round_to_nearest(rows, scheme.bits, scheme.group_size, scheme.symmetric).dequantize()
        loss += float(hessian_loss(rounded - wanted, H).sum())
    return loss
