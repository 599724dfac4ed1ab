"""Pruning of experts: the plumbing; the papers are in ``squeeze.algorithms.experts``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt, Lt
from pydantic import PositiveInt
from torch import Tensor

from squeeze.algorithms.experts import ExpertScores, merged
from squeeze.algorithms.importance import least_important
from squeeze.blocks.visit import visit_blocks
from squeeze.blocks.walk import Walk
from squeeze.errors import ModelError
from squeeze.models import counts
from squeeze.models.language.footprint import (
    PROCESS_BYTES,
    activation_bytes,
    forward_bytes,
    largest_block_bytes,
)
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.memory import small_heap, trim_heap
from squeeze.models.language.rewriter import Rewriter
from squeeze.passes.base import Context, Pass, Preview
from squeeze.passes.calibration import CHUNK_TOKENS, calibration_walk
from squeeze.passes.prune.goals import SizeGoal
from squeeze.surgery.experts import Experts, answer_of, watched
from squeeze.surgery.goal import Goal

SAMPLE = 1024  # tokens whose answers by all experts tell which are alike


class PruneExperts(SizeGoal, Pass[LanguageModel, LanguageModel]):
    """Take experts out of every block of a mixture (Mixtral, Qwen3-MoE): those that add least to what the block gives.

    REAP (Lasby et al., 2025, https://arxiv.org/abs/2510.13999) on the calibration text, block after block behind the
    ones that were cut already; tokens of an expert that left go to the next best by the router. The result is a stock
    model: its config names fewer experts, as many in every block, and a token is sent to as many as before.
    """

    name: ClassVar[str] = "prune_experts"
    links_tables: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"calibration"})
    refuses: ClassVar[frozenset[str]] = frozenset({"quantized"})
    promises: ClassVar[frozenset[str]] = frozenset({"fewer_parameters", "fewer_bytes"})
    goals: ClassVar[tuple[str, ...]] = (*SizeGoal.goals, "experts")
    example: ClassVar[str] = 'ratio: 0.5, parameters: "75 %", size: "40 GB" or experts: 4'

    ratio: Annotated[float, Gt(0), Lt(1)] | None = None
    """Share of each block's experts to remove."""
    experts: PositiveInt | None = None
    """Or how many of each block to remove."""
    merge: bool = False
    """Add those that leave to the ones whose answers are most like theirs (HC-SMoE), instead of dropping them."""

    def faults(self, model: LanguageModel) -> Iterator[str]:
        if not model.grid:  # else it is refused as quantized: one line is enough
            yield from self.fault_of(lambda: self._count(Experts(model.skeleton, model.folder)))

    def preview(self, model: LanguageModel, before: Preview) -> Preview:
        experts = Experts(model.skeleton, model.folder)
        count = self._count(experts)
        blocks = range(model.blocks)
        touched = [model.skeleton.prefix(index) + name for index in blocks for name in experts.names(index)]
        nbytes = before.nbytes - counts.nbytes(model)
        model.restructure(experts.built(count))
        parameters = experts.counted(count, counts.parameters)
        return Preview(tuple(touched), parameters, nbytes + counts.nbytes(model), model.macs())

    def memory_bytes(
        self, model: LanguageModel, tokens: int, limit: int | None, nbytes: int | None = None
    ) -> int | None:
        chunk = forward_bytes(model, min(tokens, CHUNK_TOKENS))
        return PROCESS_BYTES + activation_bytes(model, tokens, limit) + 2 * largest_block_bytes(model) + chunk

    @small_heap()
    def run(self, model: LanguageModel, context: Context) -> LanguageModel:
        """Each block is on disk before the next one begins."""
        experts = Experts(model.skeleton, model.folder)
        count = self._count(experts)
        rewriter = Rewriter(model, context.model_folder(), experts.changes(count), experts.built(count))
        walk = calibration_walk(model, context)

        def visit(index: int) -> None:
            new, facts = self._visit(model, experts, index, count, walk)
            rewriter.put_block(index, new, facts)
            trim_heap()

        advance = [(walk.on(rewriter.skeleton), rewriter)]
        layers = visit_blocks(model.blocks, rewriter, visit, advance, context.progress, self.name)
        context.facts["experts"] = [experts.count, count]
        context.facts["layers"] = layers
        return rewriter.finish()

    def _visit(
        self, model: LanguageModel, experts: Experts, index: int, count: int, walk: Walk
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """A block's new tensors, and which experts stay."""
        names = experts.names(index)
        if not names:
            return {}, {}
        owner, scores = experts.owner(index), ExpertScores(experts.count, SAMPLE if self.merge else 0)
        with model.block(index) as block:
            module = block.get_submodule(owner)

            def see(_: torch.nn.Module, hidden: Tensor, places: Tensor, shares: Tensor) -> None:
                scores.add(hidden, places, shares, lambda rows, expert: answer_of(module, rows, expert))

            with watched(module, see):
                walk.through(index, keep=False)
            removed = least_important(scores.importance(), experts.count - count)
            kept = [expert for expert in range(experts.count) if expert not in removed]
            joins = {expert: scores.nearest(expert, kept) for expert in removed} if self.merge else {}
            values = {name: block.get_parameter(name).data for name in names}
            inside = {name for name in names if name.startswith(f"{owner}.")}  # a router's row is its expert's own
            new = {
                name: merged(value, kept, joins, scores.tokens) if name in inside and joins else value[kept]
                for name, value in values.items()
            }
        weighted = scores.weighted
        facts = {
            "experts": [experts.count, count],
            "kept": kept,
            "share": round(float(weighted[kept].sum() / weighted.sum().clamp_min(1e-30)), 6),
            "unused": int((scores.tokens == 0).sum()),
            "tokens": int(scores.tokens.sum()) // experts.used,
        } | ({"joins": {str(expert): other for expert, other in joins.items()}} if joins else {})
        return new, {model.skeleton.prefix(index) + owner: facts}

    def _count(self, experts: Experts) -> int:
        """How many stay in each block.

        Raises:
            ModelError: none would leave, or fewer than a token is sent to would stay.
        """
        if self.goal is not None:
            return self._within(experts, self.goal)
        removed = self.experts if self.experts is not None else round((self.ratio or 0) * experts.count)
        most = experts.count - experts.used
        if not 0 < removed <= most:
            goal = f"experts {self.experts}" if self.experts is not None else f"ratio {self.ratio:g}"
            what = f"{goal} removes {removed} of {experts.count} experts, and a token is sent to {experts.used}"
            raise ModelError(f"{what}; {f'1 to {most} would do' if most else 'all have to stay'}")
        return experts.count - removed

    def _within(self, experts: Experts, goal: Goal) -> int:
        what = self.counted()
        before = experts.counted(experts.count, what)
        most = int(goal.most(before))
        least = experts.counted(experts.used, what)
        if least > most or not experts.cost(what):
            raise ModelError(f"{goal.out_of_reach('experts', least, before)}, for a token is sent to {experts.used}")
        return experts.count - -(-(before - most) // experts.cost(what))
