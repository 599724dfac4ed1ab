"""Width pruning: the plumbing; the paper is ``squeeze.algorithms.osscar``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, cast

from annotated_types import Gt, Lt
from pydantic import PositiveInt, model_validator

from squeeze.blocks.batches import BatchWalk
from squeeze.blocks.visit import BlockWeights, Visit, visit_blocks
from squeeze.blocks.walk import Walk
from squeeze.measure.decode import Costs
from squeeze.models.configured import ConfiguredBlocks, filled, restructure
from squeeze.models.language.footprint import (
    FLOAT,
    PROCESS_BYTES,
    activation_bytes,
    ends_bytes,
    forward_bytes,
    kept_inputs_bytes,
    largest_block_bytes,
    shared_shapes,
)
from squeeze.models.language.language_model import LanguageModel, in_shards
from squeeze.models.language.memory import small_heap, trim_heap
from squeeze.models.language.rewriter import Rewriter
from squeeze.models.torch_model import TorchModel, in_memory
from squeeze.models.torch_stage import TorchStage
from squeeze.passes.base import Context, Pass, Preview
from squeeze.passes.calibration import CHUNK_TOKENS, calibration_walk, kept_bytes
from squeeze.passes.effort import Amount, Work
from squeeze.passes.prune.goals import FORESEEN, DecodeGoal, TokenCosts, weight_bytes
from squeeze.passes.prune.hidden_width import narrow_decoder
from squeeze.passes.prune.width_work import width_work
from squeeze.surgery.goal import units_by_ratio, units_within
from squeeze.surgery.hidden_widths import DecoderWidths
from squeeze.surgery.narrow import Solver, narrow_block, require_same
from squeeze.surgery.resident_width import ResidentNarrowing, narrowed, resident_widths
from squeeze.surgery.widths import Cost, Part, Units, Widths

COPIES = 5  # of a Hessian: it, its factor, its inverse, and both while units leave
ENDS = 3  # copies of embedding and head while the hidden size is cut: as they were, narrow, solved anew
TOGETHER = 32  # examples of a batch, of a model in memory

S = TypeVar("S", bound=TorchStage)  # of one call: weights stay where they lie


class PruneWidth(DecodeGoal, Pass[TorchStage, TorchStage]):
    """Take intermediate channels, attention heads, hidden channels out of a model; what stays makes up for what leaves.

    OSSCAR (Meng et al., 2024, https://arxiv.org/abs/2403.12983) on the calibration data, block after block behind the
    ones that were cut already, towards the original's outputs. Heads leave with the KV head that they share. The result
    is a stock model: its config names the smaller widths, the same in every block. An encoder's (BERT, ViT) config
    rarely can say fewer heads. Hidden channels (Minitron's choice) leave all blocks of a decoder at once, as far as its
    config can say a hidden size beside its heads.
    """

    name: ClassVar[str] = "prune_width"
    links_tables: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"calibration"})
    refuses: ClassVar[frozenset[str]] = frozenset({"quantized"})
    promises: ClassVar[frozenset[str]] = frozenset({"fewer_parameters", "fewer_bytes", "weights_changed"})

    ratio: Annotated[float, Gt(0), Lt(1)] | None = None
    """Share of each part to remove."""
    parts: tuple[Part, ...] = ("intermediate",)
    """What is cut, by the same share: channels inside the MLPs, attention heads, the hidden size (a decoder's channels
    between blocks, the same in all of them). Heads cost more, the hidden size most."""
    align: PositiveInt = 32
    """The intermediate size is rounded to a multiple of this, down, the hidden size to one that the config takes beside
    its heads: kernels and quantized blocks work in such steps."""
    compensate: bool = True
    """Weights that stay are solved anew by least squares; off: cut only, to see what that is worth."""
    target: Literal["original", "given"] = "original"
    """given: weights that stay give what all gave on the inputs that the cut blocks before leave; original: they go
    halfway from there to what the unpruned model has (an encoder's all the way), at twice the cost."""
    damping: Annotated[float, Gt(0)] = 0.01
    """Share of the mean diagonal added to the Hessian; raised automatically when it cannot be inverted."""
    rounds: PositiveInt = 16
    """Rounds in which channels leave, their importance taken anew after each."""

    @model_validator(mode="after")
    def _fits_hidden(self) -> Self:
        if "hidden" in self.parts and self.compensate and self.target == "given":
            raise ValueError("parts: [hidden] is made up for by what the original gives: target: original would do")
        if "hidden" in self.parts and self.decode is not None:
            raise ValueError("decode with parts: [hidden] would be too many sizes to time: parameters or size would do")
        return self

    def faults(self, model: TorchStage) -> Iterator[str]:
        def cut() -> None:
            self.require_tokens(model)
            self._units(self._widths(model))

        return self.fault_of(cut)

    def preview(self, model: TorchStage, before: Preview) -> Preview:
        widths = self._widths(model)
        units = self._units(widths)
        blocks = range(len(widths.skeleton.layers))
        touched = [widths.skeleton.prefix(index) + name for index in blocks for name in widths.names(index)]
        touched += widths.outside()
        nbytes = before.nbytes - weight_bytes(model)
        self._shape(model, units)
        exact = before.exact and self.decode is None
        return Preview(tuple(touched), widths.parameters(units), nbytes + weight_bytes(model), model.macs(), exact)

    def memory_bytes(self, model: TorchStage, tokens: int, limit: int | None, nbytes: int | None = None) -> int | None:
        if not model.blocks:
            return None
        shards, hidden = in_shards(model), "hidden" in self.parts
        count = 1 + (hidden or self.target == "original")
        kept = kept_inputs_bytes(shards, tokens, kept_bytes(limit) // count)
        walks = count * (activation_bytes(shards, tokens, limit) + kept)
        ends = ENDS * ends_bytes(shards) if hidden else 0
        solving = max(FLOAT * width * (COPIES * width + 5 * out) for out, width in shared_shapes(shards))
        chunk = forward_bytes(shards, min(tokens, CHUNK_TOKENS))
        cutting = walks + ends + (2 + hidden) * largest_block_bytes(shards) + max(chunk, solving)
        return PROCESS_BYTES + max(cutting, self.measuring_bytes(shards.skeleton))

    def work(self, model: TorchStage, data: Amount | None) -> Work | None:
        if not model.blocks or data is None or "hidden" in self.parts or self.decode is not None:
            return None
        skeleton = in_shards(model).skeleton
        first = {name: value.shape for name, value in skeleton.layers[0].named_parameters()}
        readers = [(out, width) for out, width in (first[own[0].name] for own in self._widths(model).cuts(0).values())]
        return width_work(in_shards(model), readers, data, self.target == "original", self.rounds)

    def run(self, model: S, context: Context) -> S:
        self.require_tokens(model)
        if model.blocks:
            return cast(S, self._decoder(in_shards(model), context))
        return cast(S, self._resident(in_memory(model), context))

    @small_heap()
    def _decoder(self, model: LanguageModel, context: Context) -> LanguageModel:
        """Each block is on disk before the next one begins."""
        widths = DecoderWidths(model.skeleton, model.folder, self.parts)
        with self.times(context) as times:
            units = self._units(widths, times)
        if "hidden" in units:
            return narrow_decoder(model, context, widths, units, self._solver())
        rewriter = Rewriter(model, context.model_folder(), widths.changes(units), widths.built(units))
        walk = calibration_walk(model, context)
        original = walk.twin() if self.target == "original" else None
        narrow = walk.on(rewriter.skeleton)

        def visit(index: int) -> None:
            cuts = widths.cuts(index)
            with model.block_to_change(index, [own[0].name for own in cuts.values()]) as (block, was):
                work = Visit(index, block, walk, original=original, was=was)
                new = narrow_block(work, cuts, units, self._solver(), kept_bytes(context.memory_bytes))
                prefix = model.skeleton.prefix(index)
                rewriter.put_block(index, new, {prefix + name: fact for name, fact in work.facts.items()})
                if index == 0:
                    with rewriter.block(index):
                        require_same(work, narrow)
            trim_heap()

        advance: list[tuple[Walk, BlockWeights]] = [(narrow, rewriter), *([(original, model)] if original else [])]
        layers = visit_blocks(model.blocks, rewriter, visit, advance, context.progress, self.name)
        context.facts["widths"] = {part: [widths.units[part], count] for part, count in units.items()}
        context.facts["layers"] = layers
        return rewriter.finish()

    def _resident(self, model: TorchModel, context: Context) -> TorchModel:
        model.require_floats(self.name)
        blocks = ConfiguredBlocks.of(model)
        widths = resident_widths(blocks, self.parts)
        units, batches = self._units(widths), list(context.calibration.batches(TOGETHER))
        walk = BatchWalk.started(blocks, [partial(model.forward, batch.inputs) for batch in batches])
        masks = [batch.inputs.get("attention_mask") for batch in batches]
        counting = [None if mask is None else mask.bool() for mask in masks]
        narrowing = ResidentNarrowing(widths, units, walk, counting, self.target == "original")
        every = context.progress.track(range(len(blocks.layers)), self.name, len(blocks.layers))
        new = narrowed(narrowing, self._solver(), every)
        context.facts["widths"] = {part: [widths.units[part], count] for part, count in units.items()}
        context.facts["layers"] = narrowing.facts
        return filled(model, widths.built(units), model.module.state_dict() | new)

    def _solver(self) -> Solver:
        return Solver(self.damping, self.rounds, self.compensate)

    def _widths(self, model: TorchStage) -> Widths[Any]:
        if model.blocks:
            return DecoderWidths(in_shards(model).skeleton, in_shards(model).folder, self.parts)
        return resident_widths(ConfiguredBlocks.of(in_memory(model)), self.parts)

    def _shape(self, model: TorchStage, units: Units) -> None:
        """Let a model without weights be as narrow as the result."""
        built = self._widths(model).built(units)
        if model.blocks:
            in_shards(model).restructure(built)
        else:
            restructure(in_memory(model), built)

    def _units(self, widths: Widths[Any], costs: Costs = FORESEEN) -> dict[Part, int]:
        """How many units stay.

        Args:
            costs: Of a token.
        """
        if self.goal is None:
            return units_by_ratio(widths, self.ratio or 0, self.align)
        counts: dict[str, Cost] = {"parameters": widths.parameters, "size": widths.nbytes}
        counts["decode"] = TokenCosts(widths, costs, self.align)
        return units_within(widths, self.goal, counts[self.goal.kind], self.align)
