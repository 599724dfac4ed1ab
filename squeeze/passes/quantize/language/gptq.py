"""GPTQ on language models: the plumbing; the paper is ``squeeze.algorithms.gptq``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor

from squeeze.algorithms.factor import Order, factorize
from squeeze.algorithms.gptq import solve
from squeeze.algorithms.hessian import Hessian, hessian_loss
from squeeze.algorithms.rtn import Clip, round_to_nearest
from squeeze.formats.grid_kind import GridKind
from squeeze.models.base import Model
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.quantize.language.block_pass import BlockWork, CalibratedPass, Found
from squeeze.passes.quantize.language.hessians import FEW_TOKENS, block_hessians, fallback
from squeeze.passes.quantize.language.scheme import Scheme, kind_of
from squeeze.passes.quantize.language.watch import Weight, shared_inputs

ROWS = 1024  # of a weight at a time


class Gptq(CalibratedPass):
    """Quantize a language model's weights column by column, pushing each error onto the columns still to come.

    Frantar et al., 2022, https://arxiv.org/abs/2210.17323. Weights that share an input (q, k, v; gate, up) share one
    Hessian and one factorization.
    """

    name: ClassVar[str] = "gptq"

    damping: Annotated[float, Gt(0)] = 0.01  # raise it when the Hessian will not invert; raised by itself if it must
    order: Order = "group_aware"  # largest inputs first, groups kept whole; act_order breaks them up: slower to read
    clip: Clip = "mse"  # scales of least output error; absmax reaches the largest weight, KL a fifth higher at 3 bits
    true_sequential: bool = False  # later weights of a block see what earlier ones became: four forwards, not one

    def faults(self, model: Model) -> Iterator[str]:
        yield from super().faults(model)
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
        found: Found = {}
        for together in [[group] for group in groups] if self.true_sequential else [groups]:
            hessians = block_hessians(work, together)
            for group in together:
                found |= self._solve(work, group, hessians.pop(group[0]))  # freed with its turn
        return found

    def _solve(self, work: BlockWork, group: list[Weight], hessian: Hessian) -> Found:
        """All weights that share one input."""
        if hessian.tokens < FEW_TOKENS:
            return {weight: fallback(work, weight, hessian.tokens) for weight in group}
        H = hessian.matrix()
        found: Found = {}
        for scheme, members in _by_scheme(work, group):
            factor = factorize(H, self.damping, self.order, scheme.group_size)
            stacked = torch.cat([weight.of(work.block).float() for weight in members])
            solved = solve(stacked, factor, scheme.bits, scheme.group_size, scheme.symmetric, self.clip)
            said: dict[str, Any] = {"tokens": hessian.tokens, "damping": factor.damping, "dead": factor.dead}
            del factor, stacked  # as large as the Hessian and the weights: not beside what comes next
            start = 0
            for weight in members:
                stop = start + len(weight.of(work.block))
                grid = solved.grid(start, stop)
                losses = {"loss_rtn": _loss_of_rounding(weight.of(work.block), scheme, H)}
                work.said[str(weight)] = said | losses | {"loss": float(solved.loss[start:stop].sum())}
                if self.true_sequential:
                    work.put(weight, grid.dequantize())
                found[weight], start = grid, stop
        return found


def _by_scheme(work: BlockWork, group: list[Weight]) -> Iterator[tuple[Scheme, list[Weight]]]:
    for scheme in dict.fromkeys(work.schemes[weight] for weight in group):
        yield scheme, [weight for weight in group if work.schemes[weight] == scheme]


def _loss_of_rounding(weight: Tensor, scheme: Scheme, H: Tensor) -> float:
    """What the report holds GPTQ's loss against: that of rounding alone, per token; a few rows at a time."""
    loss = 0.0
    for rows in torch.split(weight, ROWS):
        rounded = round_to_nearest(rows, scheme.bits, scheme.group_size, scheme.symmetric).dequantize()
        loss += float(hessian_loss(rounded - rows.float(), H).sum())
    return loss
