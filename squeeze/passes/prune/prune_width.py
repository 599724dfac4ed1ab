"""Width pruning of decoders: the plumbing; the paper is ``squeeze.algorithms.osscar``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self

from annotated_types import Gt, Lt
from pydantic import PositiveInt, model_validator

from squeeze.blocks.visit import BlockWeights, Visit, visit_blocks
from squeeze.blocks.walk import Walk
from squeeze.errors import ModelError
from squeeze.models.language.footprint import (
    FLOAT,
    PROCESS_BYTES,
    activation_bytes,
    forward_bytes,
    largest_block_bytes,
    shared_shapes,
    weight_bytes,
)
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.memory import small_heap, trim_heap
from squeeze.models.language.rewriter import Rewriter
from squeeze.passes.base import Context, Pass, Preview
from squeeze.passes.calibration import CHUNK_TOKENS, calibration_walk
from squeeze.surgery.goal import Count, units_by_parameters, units_by_ratio
from squeeze.surgery.narrow import Solver, narrow_block, require_same
from squeeze.surgery.widths import Part, Widths

COPIES = 5  # of a Hessian: it, its factor, its inverse, and both while units leave


class PruneWidth(Pass[LanguageModel, LanguageModel]):
    """Take intermediate channels and attention heads out of every block; what stays makes up for what leaves.

    OSSCAR (Meng et al., 2024, https://arxiv.org/abs/2403.12983) on the calibration text, block after block behind the
    ones that were cut already, towards the original's outputs. Heads leave with the KV head that they share. The result
    is a stock model: its config names the smaller widths, the same in every block.
    """

    name: ClassVar[str] = "prune_width"
    needs: ClassVar[frozenset[str]] = frozenset({"calibration"})
    refuses: ClassVar[frozenset[str]] = frozenset({"quantized"})
    promises: ClassVar[frozenset[str]] = frozenset({"fewer_parameters", "fewer_bytes", "weights_changed"})

    ratio: Annotated[float, Gt(0), Lt(1)] | None = None
    """Share of each part to remove; either this or parameters."""
    parameters: Count | None = None
    """What the whole model may keep, as in "75 %" of what it has, or "100M"; either this or ratio."""
    parts: tuple[Part, ...] = ("intermediate",)
    """What is cut: channels inside the MLPs, attention heads, or both by the same share. Heads cost more."""
    align: PositiveInt = 32
    """The intermediate size is rounded to a multiple of this, down: kernels and quantized blocks work in such steps."""
    compensate: bool = True
    """Weights that stay are solved anew by least squares; off: cut only, to see what that is worth."""
    target: Literal["original", "given"] = "original"
    """original: match the outputs of the unpruned model; given: use current inputs only, half the cost."""
    damping: Annotated[float, Gt(0)] = 0.01
    """Share of the mean diagonal added to the Hessian; raised automatically when it cannot be inverted."""
    rounds: PositiveInt = 16
    """Rounds in which channels leave, their importance taken anew after each."""

    @model_validator(mode="after")
    def _one_goal(self) -> Self:
        if (self.ratio is None) == (self.parameters is None):
            raise ValueError('name one of ratio and parameters: ratio: 0.25, or parameters: "75 %" of the whole model')
        return self

    def faults(self, model: LanguageModel) -> Iterator[str]:
        try:
            self._widths(model)
        except ModelError as error:
            yield f"{self.name}: {error}"

    def preview(self, model: LanguageModel, before: Preview) -> Preview:
        widths, units = self._widths(model)
        touched = [
            f"{model.skeleton.prefix(index)}{name}" for index in range(model.blocks) for name in widths.names(index)
        ]
        was = model.skeleton
        model.restructure(widths.built(units))
        nbytes = before.nbytes - weight_bytes(was) + weight_bytes(model.skeleton)
        return Preview(tuple(touched), widths.parameters(units), nbytes, model.skeleton.macs())

    def memory_bytes(
        self, model: LanguageModel, tokens: int, limit: int | None, nbytes: int | None = None
    ) -> int | None:
        walks = (1 + (self.target == "original")) * activation_bytes(model, tokens, limit)
        solving = max(FLOAT * width * (COPIES * width + 5 * out) for out, width in shared_shapes(model))
        chunk = forward_bytes(model, min(tokens, CHUNK_TOKENS))
        return PROCESS_BYTES + walks + 2 * largest_block_bytes(model) + max(chunk, solving)

    @small_heap()
    def run(self, model: LanguageModel, context: Context) -> LanguageModel:
        """Walk the blocks in order, each on disk before the next one begins."""
        widths, units = self._widths(model)
        rewriter = Rewriter(model, context.model_folder(), widths.changes(units), widths.built(units))
        walk = calibration_walk(model, context)
        original = walk.twin() if self.target == "original" else None
        narrow = walk.on(rewriter.skeleton)

        def visit(index: int) -> None:
            cuts = widths.cuts(index)
            with model.block_to_change(index, [own[0].name for own in cuts.values()]) as (block, was):
                work = Visit(index, block, walk, original=original, was=was)
                new = narrow_block(work, cuts, units, Solver(self.damping, self.rounds, self.compensate))
                rewriter.put_block(
                    index, new, {model.skeleton.prefix(index) + name: fact for name, fact in work.facts.items()}
                )
                if index == 0:
                    with rewriter.block(index):
                        require_same(work, narrow)
            trim_heap()

        advance: list[tuple[Walk, BlockWeights]] = [(narrow, rewriter), *([(original, model)] if original else [])]
        facts = visit_blocks(model.blocks, rewriter, visit, advance, context.progress, self.name)
        context.facts["widths"] = {part: [widths.units[part], count] for part, count in units.items()}
        context.facts["layers"] = {name: fact for block in facts.values() for name, fact in block.items()}
        return rewriter.finish()

    def _widths(self, model: LanguageModel) -> tuple[Widths, dict[Part, int]]:
        """What can be cut, and how many units stay."""
        widths = Widths(model.skeleton, model.folder, self.parts)
        if self.ratio is not None:
            return widths, units_by_ratio(widths, self.ratio, self.align)
        assert self.parameters is not None
        return widths, units_by_parameters(widths, self.parameters, self.align)
