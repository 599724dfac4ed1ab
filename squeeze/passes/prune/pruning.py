"""One pruning from start to end: the model, its original widths, and each step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from squeeze.algorithms.importance import least_important
from squeeze.algorithms.widths import Widths
from squeeze.errors import EffectError
from squeeze.measure.latency_table import LatencyTable
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context
from squeeze.passes.prune import choice
from squeeze.passes.prune.branches import drop, droppable_branches
from squeeze.passes.prune.choice import Goal, Space
from squeeze.passes.prune.coupling import Coupled, CouplingGraph
from squeeze.passes.prune.scores import channel_scores
from squeeze.passes.prune.selection import CUTTABLE, layer_sizes, places, select, total_macs
from squeeze.passes.prune.shortcuts import convolve_shortcuts
from squeeze.passes.prune.times import keep_times, known_times

if TYPE_CHECKING:
    from squeeze.passes.prune.prune_channels import PruneChannels

BATCH = 64


class Pruning:
    """Prunes a model in place, step by step."""

    def __init__(self, options: PruneChannels, model: TorchModel, context: Context) -> None:
        self.options, self.model, self.context = options, model, context
        self.counted = model.macs()
        self.macs = _known_macs(self.counted, options)
        self.shortcuts = convolve_shortcuts(model)
        self.original = layer_widths(model.module)
        self.skipped: dict[str, str] = {}
        self.coupled: dict[str, dict[str, Any]] = {}
        self.dropped: list[str] = []
        self.total = 0  # channels that may be cut, before the first step
        self.total = self._space(CouplingGraph(model)).total
        self.table = LatencyTable(self.context.threads, known_times(self.options.latency_table, self.context))

    def run(self) -> dict[str, Any]:
        """All steps; what the report should say."""
        for step in range(1, self.options.steps + 1):
            self._step(self._goal(step / self.options.steps))
        keep_times(self.table.seconds, self.context)
        after = layer_widths(self.model.module)
        changed = {n: [was, after.get(n, 0)] for n, was in self.original.items() if after.get(n, 0) != was}
        if not changed:
            what = f"{self.options.goal_text()} rounds to no channel at align {self.options.align}"
            raise EffectError(f"prune_channels: {what}; a larger ratio or a smaller align would cut")
        return {
            "widths": changed,
            "coupled": self.coupled,
            "macs": [self.counted, self.model.macs()],
            "shortcuts_convolved": self.shortcuts,
            "branches_dropped": self.dropped,
            "skipped": self.skipped,
        }

    def _step(self, goal: Goal) -> None:
        graph = CouplingGraph(self.model)
        space = self._space(graph)
        if not space.groups:
            reasons = list(dict.fromkeys(self.skipped.values()))
            raise EffectError(f"prune_channels: nothing may be cut: {'; '.join(reasons[:3])}")
        scores = self._scores(space)
        widths = self._choose(space, goal, scores)
        if goal.macs is not None and space.macs(widths) > goal.macs:
            raise EffectError(self._out_of_reach(space.macs(widths)))
        for group, score, width in zip(space.groups, scores, widths, strict=True):
            if 0 < width < group.channels:
                graph.cut(group, least_important(score, group.channels - width))
            self._note(group, width)
        for branch in space.branches:
            if not any(widths[group] for group in branch.groups):
                drop(self.model, branch)
                self.dropped.append(branch.block)

    def _space(self, graph: CouplingGraph) -> Space:
        model, options = self.model, self.options
        groups, self.skipped = select(model, graph.coupled(), options.selection, options.importance)
        original = tuple(self._original_width(group) for group in groups)
        total = self.total or sum(original)
        branches = droppable_branches(model, groups) if options.drop_branches else []
        sizes, full = layer_sizes(model, groups), tuple(group.channels for group in groups)
        other = 0 if options.macs is None else (model.macs() or 0) - total_macs(sizes, full, full)
        return Space(groups, original, total, sizes, branches, options.align, other)

    def _original_width(self, group: Coupled) -> int:
        """Layers renamed since (a shortcut in its block's place) are not known by name; others of the group are."""
        return max((self.original.get(layer, 0) for layer in group.writers), default=0) or group.channels

    def _goal(self, done: float) -> Goal:
        if self.options.ratio is not None:
            return Goal(ratio=self.options.ratio * done)
        return Goal(macs=self.macs * (1 - (1 - self.options.macs_share) * done))

    def _scores(self, space: Space) -> list[Tensor]:
        kind = self.options.importance
        batches = self._batches() if kind == "taylor" else ()
        return channel_scores(self.model, space.groups, kind, self.context.seed, batches)

    def _batches(self) -> Any:
        data = self.context.train
        data.require_labels()
        order = np.random.default_rng(self.context.seed).permutation(len(data))[: self.options.samples]
        return self.context.progress.track(list(data.batches(BATCH, order)), "importance")

    def _choose(self, space: Space, goal: Goal, scores: list[Tensor]) -> Widths:
        if self.options.scope == "layer":
            return choice.layer_by_layer(space, goal)
        if self.options.widths == "latency":
            cost = choice.latency(space, self.table, places(self.model))
        else:
            cost = choice.what_the_goal_counts(space, goal)
        return choice.by_importance(space, goal, scores, cost)

    def _note(self, group: Coupled, width: int) -> None:
        """For the report: the layers that lost channels together, and their width before the first step and now."""
        before = self._original_width(group)
        if width != before:
            layers = [name for name in group.writers if name in self.original]
            self.coupled[group.name] = {"layers": layers, "width": [before, width]}

    def _out_of_reach(self, least: int) -> str:
        return (
            f"prune_channels: {self.options.goal_text()} cannot be reached: the narrowest widths that may be "
            f"chosen leave {least / self.macs:.0%}; a smaller align, drop_branches or a wider include would go further"
        )


def _known_macs(macs: int | None, options: PruneChannels) -> int:
    """0 where they are not known and no goal is set by them."""
    if macs is None and options.macs is not None:
        what = "the multiply-accumulates of the model are unknown: an operator has no rule"
        raise EffectError(f"prune_channels: {options.goal_text()}: {what}; ratio would do")
    return macs or 0


def layer_widths(module: nn.Module) -> dict[str, int]:
    """Outputs of each convolution and linear layer."""
    layers = ((name, layer) for name, layer in module.named_modules() if isinstance(layer, CUTTABLE))
    return {n: layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels for n, layer in layers}
