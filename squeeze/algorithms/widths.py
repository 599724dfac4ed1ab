"""Widths: how many channels each set of coupled layers keeps.

Everything here is arithmetic on sizes and scores. A *group* is a set of coupled layers with one width; a layer's
inputs and outputs follow from the widths of the groups it reads and writes. Greedy by importance lost per cost saved
is the knapsack of HALP (Shen et al., 2021, https://arxiv.org/abs/2110.10811) solved one cut at a time, so that each
choice sees what the ones before it left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

Widths = tuple[int, ...]
Cost = Callable[[Widths], float]
Move = dict[int, int]  # group -> the width it gets


@dataclass(frozen=True)
class LayerSize:
    """How one layer's size depends on the widths.

    Args:
        name: Of the layer.
        inputs, outputs: Channels before any cut.
        writes: Group whose width is the number of outputs; None for an output of the network.
        reads: ``(group, inputs per channel)`` for each group that it reads.
        work: Multiply-accumulates per input-output pair (depthwise: per output).
        depthwise: One input channel per output channel.
    """

    name: str
    inputs: int
    outputs: int
    writes: int | None
    reads: tuple[tuple[int, int], ...]
    work: float
    depthwise: bool = False

    def shape(self, full: Widths, widths: Widths) -> tuple[int, int]:
        """``(inputs, outputs)`` at these widths."""
        outputs = self.outputs if self.writes is None else self.outputs - full[self.writes] + widths[self.writes]
        inputs = self.inputs - sum((full[group] - widths[group]) * each for group, each in self.reads)
        return inputs, outputs

    def macs(self, full: Widths, widths: Widths) -> int:
        """Multiply-accumulates for one example at these widths."""
        inputs, outputs = self.shape(full, widths)
        return round(self.work * outputs * (1 if self.depthwise else inputs))


def allowed(channels: int, align: int) -> list[int]:
    """Widths a group may have, ascending: multiples of ``align``, and all of its channels."""
    return [*range(align, channels, align), channels]


def nearest(channels: int, ratio: float, align: int) -> int:
    """The allowed width nearest to ``(1 - ratio) * channels``; of two equally near ones the wider."""
    goal = (1 - ratio) * channels
    return min(allowed(channels, align), key=lambda width: (round(abs(width - goal), 9), -width))


def uniform(full: Widths, ratio: float, align: int) -> Widths:
    """The same ratio for every group."""
    return tuple(nearest(channels, ratio, align) for channels in full)


class Greedy:
    """Cut where the least importance is lost per cost saved, until it fits; then widen where there is room.

    Args:
        scores: Importance per channel, one ``[channels]`` tensor per group.
        options: Allowed widths per group.
        branches: Groups that may go to nothing together (a residual branch that may be dropped).
        cost: What a cut should save: seconds, multiply-accumulates, channels.
    """

    def __init__(
        self,
        scores: Sequence[Tensor],
        options: Sequence[Sequence[int]],
        branches: Sequence[tuple[int, ...]],
        cost: Cost,
    ) -> None:
        self.lost: list[list[float]] = [[0.0, *score.sort().values.double().cumsum(0).tolist()] for score in scores]
        self.options, self.branches, self.cost = options, branches, cost

    def choose(self, start: Widths, fits: Callable[[Widths], bool]) -> Widths:
        """The widths; those of the last possible cut when nothing fits."""
        widths = start
        while not fits(widths):
            move = self._best(widths, list(self._cuts(widths)))
            if move is None:
                return widths
            widths = _moved(widths, move)
        return self._widen_again(widths, fits)

    def importance_lost(self, widths: Widths) -> float:
        """Sum of the scores of all channels that these widths leave out."""
        return sum(lost[len(lost) - 1 - width] for lost, width in zip(self.lost, widths, strict=True))

    def _cuts(self, widths: Widths) -> Iterator[Move]:
        for group, options in enumerate(self.options):
            yield from ({group: width} for width in options if width < widths[group])
        for branch in self.branches:
            if all(widths[group] for group in branch):
                yield dict.fromkeys(branch, 0)

    def _best(self, widths: Widths, moves: Iterable[Move]) -> Move | None:
        was_cost, was_lost = self.cost(widths), self.importance_lost(widths)
        rated = []
        for move in moves:
            after = _moved(widths, move)
            saved = was_cost - self.cost(after)
            if saved > 0:
                rated.append(((self.importance_lost(after) - was_lost) / saved, -saved, move))
        return min(rated, key=lambda entry: entry[:2])[2] if rated else None

    def _widen_again(self, widths: Widths, fits: Callable[[Widths], bool]) -> Widths:
        """Widen again by importance while the goal still holds: the last cut may have been a large one."""
        while True:
            wider = [_moved(widths, move) for move in self._widenings(widths)]
            fitting = [candidate for candidate in wider if fits(candidate)]
            if not fitting:
                return widths
            widths = min(fitting, key=lambda candidate: (self.importance_lost(candidate), candidate))

    def _widenings(self, widths: Widths) -> Iterator[Move]:
        for group, options in enumerate(self.options):
            if widths[group]:
                yield from ({group: width} for width in options if width > widths[group])
        for branch in self.branches:
            if not any(widths[group] for group in branch):
                yield {group: self.options[group][0] for group in branch}


def _moved(widths: Widths, move: Move) -> Widths:
    return tuple(move.get(group, width) for group, width in enumerate(widths))
