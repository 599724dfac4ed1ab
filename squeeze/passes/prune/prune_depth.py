"""Depth pruning of decoders: the plumbing; the paper is ``squeeze.algorithms.sleb``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Annotated, ClassVar, Self

import torch
from annotated_types import Gt, Lt
from pydantic import PositiveInt, model_validator

from squeeze.algorithms.sleb import cheapest_blocks
from squeeze.errors import EffectError, ModelError
from squeeze.evaluate.tokens import chunk_sequences, scoring_bytes
from squeeze.models.language.footprint import weight_bytes
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context, Pass, Preview
from squeeze.surgery.depth import loss_without, shallow, write_shallow
from squeeze.surgery.goal import Count, most_parameters

LOSSES = "losses"  # in the journal
SAME = 1e-3  # of a loss: the model that is written against the one whose blocks were skipped


class PruneDepth(Pass[LanguageModel, LanguageModel]):
    """Take out whole blocks: each time the one without which the calibration text is predicted best.

    SLEB (Song et al., 2024, https://arxiv.org/abs/2402.09025): losses are measured, and measured again after each
    block that left. The result is a stock model with fewer layers; widths, and so kernels, stay as they are.
    """

    name: ClassVar[str] = "prune_depth"
    needs: ClassVar[frozenset[str]] = frozenset({"calibration"})
    refuses: ClassVar[frozenset[str]] = frozenset({"quantized"})
    promises: ClassVar[frozenset[str]] = frozenset({"fewer_parameters", "fewer_bytes"})

    ratio: Annotated[float, Gt(0), Lt(1)] | None = None
    """Share of the blocks to remove; one of this, blocks and parameters."""
    blocks: PositiveInt | None = None
    """How many to remove; one of this, ratio and parameters."""
    parameters: Count | None = None
    """What the whole model may keep, as in "75 %" of what it has, or "100M"; one of this, ratio and blocks."""
    samples: PositiveInt = 32
    """Calibration sequences that each loss is measured on; a measurement is a forward pass over all of them."""

    @model_validator(mode="after")
    def _one_goal(self) -> Self:
        if [self.ratio, self.blocks, self.parameters].count(None) != 2:
            raise ValueError('name one of ratio, blocks and parameters: ratio: 0.25, blocks: 4, or parameters: "75 %"')
        return self

    def faults(self, model: LanguageModel) -> Iterator[str]:
        try:
            shallow(model, range(model.blocks - self._count(model)))
        except ModelError as error:
            yield f"{self.name}: {error}"

    def preview(self, model: LanguageModel, before: Preview) -> Preview:
        was = model.skeleton
        model.restructure(shallow(model, range(model.blocks - self._count(model))))
        nbytes = before.nbytes - weight_bytes(was) + weight_bytes(model.skeleton)
        return Preview((), model.parameters(), nbytes, model.macs())

    def memory_bytes(
        self, model: LanguageModel, tokens: int, limit: int | None, nbytes: int | None = None
    ) -> int | None:
        activations = 2 * model.hidden_bytes(tokens)
        return scoring_bytes(model, length=1) + (activations if limit is None else min(activations, limit // 2))

    def run(self, model: LanguageModel, context: Context) -> LanguageModel:
        """Measure each block alone, then again what looks cheapest; every loss is on disk before the next."""
        count = self._count(model)
        tokens = torch.cat([batch.inputs["input_ids"] for batch in context.calibration.batches(64)])[: self.samples]
        chunk = chunk_sequences(tokens.shape[1], model.vocabulary)
        spill = context.spill(model.hidden_bytes(tokens.numel()))
        start = model.walk(tokens, chunk, spill, wide=True)
        measured = (context.journal and context.journal.get(LOSSES)) or {}

        def loss(skipped: frozenset[int]) -> float:
            name = ",".join(map(str, sorted(skipped)))
            if name not in measured:
                measured[name] = torch.tensor(loss_without(model, start, skipped), dtype=torch.float64)
                if context.journal is not None:
                    context.journal.put(LOSSES, measured)
            return float(measured[name])

        every = context.progress.track(range(model.blocks), f"{self.name}: each block", model.blocks)
        alone = {index: loss(frozenset({index})) for index in every}
        order = islice(cheapest_blocks(alone, loss), count)
        removed = list(context.progress.track(order, self.name, count))
        gone = {index for index, _ in removed}
        made = write_shallow(model, [i for i in range(model.blocks) if i not in gone], context.model_folder())
        context.facts["removed"] = [{"block": index, "loss": value} for index, value in removed]
        context.facts["loss"] = {"before": loss(frozenset()), "after": removed[-1][1], "tokens": tokens.numel()}
        self._require_same(loss_without(made, made.walk(tokens, chunk, spill, wide=True), frozenset()), removed[-1][1])
        return made

    def _count(self, model: LanguageModel) -> int:
        """How many blocks leave.

        Raises:
            ModelError: none would, or none would stay.
        """
        if self.parameters is not None:
            return self._by_parameters(model, self.parameters)
        count = self.blocks if self.blocks is not None else round((self.ratio or 0) * model.blocks)
        if not 0 < count < model.blocks:
            goal = f"blocks {self.blocks}" if self.blocks is not None else f"ratio {self.ratio:g}"
            raise ModelError(f"{goal} removes {count} of {model.blocks} blocks; 1 to {model.blocks - 1} would do")
        return count

    def _by_parameters(self, model: LanguageModel, goal: str) -> int:
        before = model.parameters()
        most = most_parameters(goal, before)
        each = min(sum(p.numel() for p in block.parameters()) for block in model.skeleton.layers)
        count = -(-(before - most) // each)
        if count < 1:
            raise ModelError(
                f"parameters: the model has {before:,}, no more than {goal} allows; there is nothing to cut"
            )
        if count >= model.blocks:
            least = before - (model.blocks - 1) * each
            raise ModelError(
                f"parameters: {goal} cannot be reached by whole blocks: one block leaves {least:,} of {before:,}"
            )
        return count

    def _require_same(self, loss: float, measured: float) -> None:
        if abs(loss - measured) > SAME * measured:
            what = f"the model without them has a loss of {loss:.4f}, the one that skips them {measured:.4f}"
            raise EffectError(f"{self.name}: {what}; blocks of this family depend on their place")
