"""Decoders of which the residual stream gets narrower, too: the plumbing; see ``squeeze.surgery.narrow_hidden``.

Three walks: one of the original that chooses the channels, then that of the narrow model beside the original's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from squeeze.algorithms.hidden_channels import kept_channels
from squeeze.blocks.norms import layer_norms_of
from squeeze.blocks.visit import BlockWeights, Visit, visit_blocks
from squeeze.blocks.walk import Walk
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.memory import trim_heap
from squeeze.models.language.rewriter import Rewriter
from squeeze.models.language.skeleton import Skeleton, fill
from squeeze.passes.base import Context
from squeeze.passes.calibration import calibration_walk, kept_bytes
from squeeze.surgery.hidden import narrowed
from squeeze.surgery.hidden_choice import channel_importance
from squeeze.surgery.hidden_ends import HiddenEnds
from squeeze.surgery.hidden_widths import DecoderWidths
from squeeze.surgery.narrow import Solver, require_same
from squeeze.surgery.narrow_hidden import HiddenBlock
from squeeze.surgery.widths import Units

CHOICE = "hidden channels"  # of the journal


def narrow_decoder(
    model: LanguageModel, context: Context, widths: DecoderWidths, units: Units, solver: Solver
) -> LanguageModel:
    """The decoder with fewer channels between blocks, and fewer units of other parts."""
    kept = _choice(model, context, widths, units["hidden"])
    return _HiddenNarrowing(model, context, widths, units, solver, kept).run()


def _choice(model: LanguageModel, context: Context, widths: DecoderWidths, count: int) -> Tensor:
    """The channels that stay; a killed run finds them again."""
    assert widths.hidden is not None
    known = context.finished(CHOICE)
    if known is not None and len(known["kept"]) == count:
        return known["kept"]
    walk = calibration_walk(model, context)
    kept = kept_channels(channel_importance(model, widths.hidden, walk, context.progress), count)
    context.keep(CHOICE, {"kept": kept})
    return kept


class _HiddenNarrowing:
    def __init__(
        self,
        model: LanguageModel,
        context: Context,
        widths: DecoderWidths,
        units: Units,
        solver: Solver,
        kept: Tensor,
    ) -> None:
        assert widths.hidden is not None
        self.model, self.context, self.widths, self.units = model, context, widths, units
        self.solver, self.kept, self.hidden = solver, kept, widths.hidden
        self.rewriter = Rewriter(model, context.model_folder(), widths.changes(units), widths.built(units))
        self.working = Skeleton.built(model.folder, model.skeleton.values)  # its code, narrower tensors
        layer_norms_of(self.working.layers, self.hidden.size, len(kept))
        self.ends = HiddenEnds(model, self.rewriter.skeleton, self.hidden, kept)

    def run(self) -> LanguageModel:
        self.original = calibration_walk(self.model, self.context)
        self.narrow = self.ends.started(self.original)
        advance: list[tuple[Walk, BlockWeights]] = [(self.narrow, self.rewriter), (self.original, self.model)]
        progress = self.context.progress
        layers = visit_blocks(self.model.blocks, self.rewriter, self._visit, advance, progress, "prune_width")
        last = self.model.blocks - 1
        for walk, weights in advance:
            with weights.block(last):
                walk.through(last)
        self.ends.solve(self.narrow, self.original, self.solver.damping if self.solver.compensate else None)
        self.rewriter.put_outside(self.ends.tensors, {})
        self.context.facts["widths"] = {p: [self.widths.units[p], count] for p, count in self.units.items()}
        self.context.facts["layers"] = layers
        return self.rewriter.finish()

    def _visit(self, index: int) -> None:
        dims, prefix = self.hidden.blocks[index], self.model.skeleton.prefix(index)
        with self.model.block(index) as block, self._narrow_block(index) as own:
            original = Visit(index, block, self.original) if self.solver.compensate else None
            visit, norms = (
                Visit(index, own, self.narrow.on(self.working)),
                self.hidden.norms(self.model.skeleton, index),
            )
            work = HiddenBlock(visit, original, dims, norms, self.kept, self.solver)
            new = work.narrow(self.widths.cuts(index), self.units, kept_bytes(self.context.memory_bytes))
            self.rewriter.put_block(index, new, {prefix + name: fact for name, fact in visit.facts.items()})
            if index == 0:
                with self.rewriter.block(index):
                    require_same(visit, self.narrow)
        trim_heap()

    @contextmanager
    def _narrow_block(self, index: int) -> Iterator[nn.Module]:
        """The block with the channels that stay alone, to be written to."""
        dims, module = self.hidden.blocks[index], self.working.layers[index]
        state = self.model.skeleton.layers[index].state_dict()
        for name, value in state.items():
            fill(module, name, narrowed(value, dims.get(name), self.kept).clone())
        try:
            yield module
        finally:
            for name in state:
                fill(module, name, torch.empty(0, device="meta"))
