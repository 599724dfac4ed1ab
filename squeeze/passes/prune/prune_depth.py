"""Depth pruning: the plumbing; the paper is ``squeeze.algorithms.sleb``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Annotated, ClassVar, Literal, TypeVar, cast

from annotated_types import Gt, Lt
from pydantic import PositiveInt
from torch import nn

from squeeze.blocks.walk import Walk
from squeeze.errors import EffectError, ModelError
from squeeze.evaluate.tokens import chunk_sequences, scoring_bytes
from squeeze.formats.grid_kind import GridKind
from squeeze.measure.decode import Costs, cheapest_block, token_cost
from squeeze.models.base import Model
from squeeze.models.configured import ConfiguredBlocks, restructure
from squeeze.models.counts import Alone
from squeeze.models.language.effort import block_macs, block_values, head_macs
from squeeze.models.language.footprint import FLOAT, PROCESS_BYTES
from squeeze.models.language.language_model import LanguageModel, in_shards
from squeeze.models.options import Unused
from squeeze.models.torch_model import in_memory
from squeeze.models.torch_stage import TorchStage
from squeeze.passes.base import Context, Pass, Preview
from squeeze.passes.calibration import calibration_tokens
from squeeze.passes.effort import WRITTEN_BLOCK, Amount, Work
from squeeze.passes.prune.goals import FORESEEN, DecodeGoal, weight_bytes
from squeeze.passes.prune.losses import blocks_to_remove, kept_on_disk, losses_of, measured_on
from squeeze.passes.prune.replacing import replace_runs
from squeeze.passes.prune.resident_depth import prune_resident_depth
from squeeze.surgery.depth import Resumed, loss_without, shallow, write_shallow
from squeeze.surgery.goal import Goal
from squeeze.surgery.replaced import Changed, last_linear
from squeeze.surgery.resident_depth import shallow_blocks

S = TypeVar("S", bound=TorchStage)  # of one call: weights stay where they lie
RESUMED_BYTES = 512 << 20  # of activations that measurements go on from, at most; of a plan's memory a sixteenth
MAP_BYTES = 56  # of each of width x width: sums in float64, their factor and its solution, products in float32
LOGIT_STEPS = 4  # times that logits are read or written until a loss is known
SAME = 1e-3  # of a loss: the model that is written against the one whose blocks were skipped


class PruneDepth(DecodeGoal, Pass[TorchStage, TorchStage]):
    """Take out whole blocks: each time the one without which the calibration data is answered best.

    SLEB (Song et al., 2024, https://arxiv.org/abs/2402.09025): losses are measured, and measured again after each
    block that left: of a language model the cross-entropy, of an encoder or classifier how far its outputs move. The
    result is a stock model with fewer layers; widths, and so kernels, stay as they are. Attention or an MLP alone does
    not leave: a config names whole layers.
    """

    name: ClassVar[str] = "prune_depth"
    needs: ClassVar[frozenset[str]] = frozenset({"calibration"})
    refuses: ClassVar[frozenset[str]] = frozenset({"quantized"})
    promises: ClassVar[frozenset[str]] = frozenset({"fewer_parameters", "fewer_bytes"})
    goals: ClassVar[tuple[str, ...]] = (*DecodeGoal.goals, "blocks")
    example: ClassVar[str] = 'ratio: 0.25, parameters: "75 %", size: "200 MB", decode: "70 %" or blocks: 4'

    ratio: Annotated[float, Gt(0), Lt(1)] | None = None
    """Share of the blocks to remove."""
    blocks: PositiveInt | None = None
    """Or how many to remove."""
    samples: PositiveInt = 32
    """Calibration sequences or examples that each loss is measured on."""
    effort: PositiveInt | None = 32
    """Forward passes over `samples` that all losses together take, about: where they would take more, each is measured
    on fewer of them, so that time grows with the layers and not with their square. null: each on all of them."""

    replace: Literal["none", "linear"] = "none"
    """What stands in for removed blocks of a language model. linear: a map that takes the stream nearest to where they
    took it (ReplaceMe, https://arxiv.org/abs/2505.02819), folded into the last weight of the block before them, where
    the loss on other sequences falls by it; the model has no more parameters."""
    replace_samples: PositiveInt = 64
    """Calibration sequences behind the first `samples` that maps are fitted to, or as many as there are."""

    def faults(self, model: TorchStage) -> Iterator[str]:
        return self.fault_of(lambda: self._shape(model))

    def unused(self, model: Model, grid: Mapping[str, GridKind] | None) -> Iterator[Unused]:
        yield from super().unused(model, grid)
        if self.replace == "none":
            yield Unused("replace_samples", "goes with replace: linear")

    def preview(self, model: TorchStage, before: Preview) -> Preview:
        shape, was = self._shape(model), weight_bytes(model)
        shape()
        exact = before.exact and self.decode is None
        return Preview((), model.parameters(), before.nbytes - was + weight_bytes(model), model.macs(), exact)

    def memory_bytes(self, model: TorchStage, tokens: int, limit: int | None, nbytes: int | None = None) -> int | None:
        if not model.blocks:
            return None
        shards = in_shards(model)
        activations = 2 * shards.hidden_bytes(tokens)
        resumed = min(_resumed_bytes(limit), shards.blocks * activations)
        walked = activations if limit is None else min(activations, limit // 2)
        measuring = PROCESS_BYTES + self.measuring_bytes(shards.skeleton)
        maps = walked + MAP_BYTES * int(shards.skeleton.hidden_size) ** 2 if self.replace == "linear" else 0
        return max(scoring_bytes(shards, length=1) + walked + resumed + maps, measuring)

    def work(self, model: TorchStage, data: Amount | None) -> Work | None:
        """Half a pass through the blocks and the head for each loss; the whole model before and behind them."""
        if data is None or not model.blocks or self.replace == "linear":
            return None
        shards = in_shards(model)
        macs, width, count = block_macs(shards), shards.skeleton.hidden_size, self._count(shards)
        if macs is None:
            return None
        tokens = data.length * measured_on(min(self.samples, data.examples), shards.blocks, count, self.effort)
        blocks = Work({width: tokens * macs}, tokens * block_values(shards, data.length))
        head = Work({width: tokens * head_macs(shards)}, tokens * (shards.vocabulary or 0) * LOGIT_STEPS)
        losses = losses_of(shards.blocks, count)
        return blocks.times(losses / 2 + 2) + head.times(losses + 2) + WRITTEN_BLOCK.times(shards.blocks - count)

    def run(self, model: S, context: Context) -> S:
        """Measure each block alone, then again what looks cheapest; every loss is on disk before the next."""
        if model.blocks:
            return cast(S, self._decoder(in_shards(model), context))
        resident, count = in_memory(model), self._count(model)
        samples = measured_on(min(self.samples, len(context.calibration)), len(_layers(model)), count, self.effort)
        return cast(S, prune_resident_depth(resident, count, samples, context, self.name))

    def _decoder(self, model: LanguageModel, context: Context) -> LanguageModel:
        with self.times(context) as times:
            count = self._count(model, times)
        every = calibration_tokens(context)
        measured = measured_on(min(self.samples, len(every)), model.blocks, count, self.effort)
        tokens, others = every[:measured], every[self.samples :][: self.replace_samples]
        chunk = chunk_sequences(tokens.shape[1], model.vocabulary)
        spill = context.spill(model.hidden_bytes(tokens.numel()))
        start = model.walk(tokens, chunk, spill, wide=True)
        if self.replace == "linear":
            self._require_replaceable(model, start, len(others))
        resumed = Resumed(_resumed_bytes(context.memory_bytes) // FLOAT)
        loss = kept_on_disk(lambda skipped: loss_without(model, start, skipped, resumed), context)
        removed = blocks_to_remove(loss, model.blocks, count, context, self.name)
        gone, after = frozenset(index for index, _ in removed), removed[-1][1]
        changed: Changed = {}
        if self.replace == "linear":
            resumed.states.clear()  # their memory is the maps'
            place = context.spill(model.hidden_bytes(others.numel()))
            fitted = model.walk(others, chunk, place and place.with_name(f"{place.name}-fitted"), wide=True)
            judge = partial(loss_without, model, start, gone, None)
            changed, after = replace_runs(model, fitted, gone, judge, after, context, self.name)
        kept = [index for index in range(model.blocks) if index not in gone]
        made = write_shallow(model, kept, context.model_folder(), changed)
        context.facts["loss"] = {"before": loss(frozenset()), "after": after, "tokens": tokens.numel()}
        self._require_same(loss_without(made, made.walk(tokens, chunk, spill, wide=True), frozenset()), after)
        return made

    def _require_replaceable(self, model: LanguageModel, start: Walk, sequences: int) -> None:
        """Raise ``ModelError`` where there is nothing to fit a map to, or no weight that takes one in."""
        if not sequences:
            what = f"replace: linear is fitted to calibration sequences behind the first {self.samples}"
            raise ModelError(f"{self.name}: {what}, and there are none; fewer samples or more data.calibrate would do")
        last_linear(model, start, 0)

    def _shape(self, model: TorchStage) -> Callable[[], None]:
        """What makes a model without weights as shallow as the result.

        Raises:
            ModelError: the goal cannot be met, or the config's blocks cannot take each other's place.
        """
        rest = range(len(_layers(model)) - self._count(model))
        if model.blocks:
            shards = in_shards(model)
            return partial(shards.restructure, shallow(shards, rest))
        return partial(restructure, in_memory(model), shallow_blocks(ConfiguredBlocks.of(in_memory(model)), rest))

    def _count(self, model: TorchStage, costs: Costs = FORESEEN) -> int:
        """How many blocks leave.

        Args:
            costs: Of a token.

        Raises:
            ModelError: none would, or none would stay; or nothing can stand in for them.
        """
        if self.replace != "none" and not model.blocks:
            raise ModelError(f"replace: {self.replace} is of language models; leave it out")
        blocks = len(_layers(model))
        if self.goal is not None:
            return self._within(model, self.goal, costs)
        count = self.blocks if self.blocks is not None else round((self.ratio or 0) * blocks)
        if not 0 < count < blocks:
            goal = f"blocks {self.blocks}" if self.blocks is not None else f"ratio {self.ratio:g}"
            best = f"1 to {blocks - 1} would do" if blocks > 1 else "one has to stay"
            raise ModelError(f"{goal} removes {count} of {blocks} blocks; {best}")
        return count

    def _within(self, model: TorchStage, goal: Goal, costs: Costs) -> int:
        """As many as leave the whole within its goal, whichever they are."""
        before, each = self._costs(model, costs)
        count, layers = math.ceil((before - goal.most(before)) / each), len(_layers(model))
        if count >= layers:
            raise ModelError(goal.out_of_reach("whole blocks", before - (layers - 1) * each, before))
        return count

    def _costs(self, model: TorchStage, costs: Costs) -> tuple[float, float]:
        """Of the whole model and of its cheapest block, as the goal counts them."""
        if self.decode is None:
            count = self.counted()
            return count(model), min(count(Alone(block)) for block in _layers(model))
        self.require_tokens(model)
        skeleton = in_shards(model).skeleton
        return token_cost(skeleton, costs), cheapest_block(skeleton, costs)

    def _require_same(self, loss: float, measured: float) -> None:
        if abs(loss - measured) > SAME * measured:
            what = f"the model without them has a loss of {loss:.4f}, the one that skips them {measured:.4f}"
            raise EffectError(f"{self.name}: {what}; blocks of this family depend on their place")


def _layers(model: TorchStage) -> nn.ModuleList:
    """The blocks; raises ``ModelError`` where the model's config does not name them."""
    return in_shards(model).skeleton.layers if model.blocks else ConfiguredBlocks.of(in_memory(model)).layers


def _resumed_bytes(limit: int | None) -> int:
    return RESUMED_BYTES if limit is None else min(RESUMED_BYTES, limit // 16)
