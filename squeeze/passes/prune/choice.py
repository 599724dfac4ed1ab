"""Choose every group's width, from the plan's goal and the cost that each cut saves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from squeeze.algorithms.widths import Cost, Greedy, LayerSize, Widths, allowed, nearest
from squeeze.measure.latency_table import ConvPlace, LatencyTable
from squeeze.passes.prune.branches import Branch
from squeeze.passes.prune.coupling import Coupled
from squeeze.passes.prune.selection import total_macs

MOST_OPTIONS = 16  # widths tried per group: a layer of 2,048 channels need not be measured at 256 of them


@dataclass(frozen=True)
class Goal:
    """How much may stay, one of the two.

    Args:
        ratio: Share of the channels to take, of those there were before the first step.
        macs: Multiply-accumulates that may stay.
    """

    ratio: float = 0.0
    macs: float | None = None


@dataclass(frozen=True)
class Space:
    """The widths to choose from, and their costs.

    Args:
        groups: Coupled layers that may be cut.
        original: Their widths before the first step.
        total: Sum of all widths before the first step, groups since dropped included.
        sizes: Every layer of the model, as a function of the groups' widths.
        branches: Residual branches that may be dropped.
        align: Widths are multiples of this.
        other_macs: Of what no layer's width decides, such as the products of attention.
    """

    groups: Sequence[Coupled]
    original: Widths
    total: int
    sizes: Sequence[LayerSize]
    branches: Sequence[Branch]
    align: int
    other_macs: int = 0

    @property
    def full(self) -> Widths:
        return tuple(group.channels for group in self.groups)

    def macs(self, widths: Widths) -> int:
        return total_macs(self.sizes, self.full, widths) + self.other_macs

    def options(self) -> list[list[int]]:
        return [_thinned(allowed(channels, self.align)) for channels in self.full]

    def fits(self, goal: Goal) -> Callable[[Widths], bool]:
        """True for widths that reach the goal; a ratio is reached at the nearest number of aligned channels."""
        if goal.macs is not None:
            most = goal.macs
            return lambda widths: self.macs(widths) <= most
        fewer = round(goal.ratio * self.total / self.align) * self.align
        return lambda widths: self.total - sum(widths) >= fewer

    def uniform(self, ratio: float) -> Widths:
        """The same ratio for every group, never wider than it is now."""
        widths = (nearest(channels, ratio, self.align) for channels in self.original)
        return tuple(min(pair) for pair in zip(self.full, widths, strict=True))


def layer_by_layer(space: Space, goal: Goal) -> Widths:
    """The same ratio everywhere: as given, or the smallest percentage that reaches the goal."""
    if goal.macs is None:
        return space.uniform(goal.ratio)
    fits = space.fits(goal)
    candidates = (space.uniform(percent / 100) for percent in range(100))
    return next((widths for widths in candidates if fits(widths)), space.uniform(1.0))


def by_importance(space: Space, goal: Goal, scores: Sequence[Tensor], cost: Cost) -> Widths:
    """Cut over all layers where the least importance is lost per cost saved."""
    branches = [branch.groups for branch in space.branches]
    return Greedy(scores, space.options(), branches, cost).choose(space.full, space.fits(goal))


def what_the_goal_counts(space: Space, goal: Goal) -> Cost:
    """The cost to save when no latency is measured."""
    if goal.macs is not None:
        return space.macs
    return lambda widths: float(sum(widths))


def latency(space: Space, table: LatencyTable, places: dict[str, ConvPlace]) -> Cost:
    """Seconds of all layers at these widths, from the table."""

    def seconds(widths: Widths) -> float:
        return sum(table(places.get(size.name), *size.shape(space.full, widths)) for size in space.sizes)

    return seconds


def _thinned(widths: list[int]) -> list[int]:
    every = -(-len(widths) // MOST_OPTIONS)
    return widths[::-every][::-1]
