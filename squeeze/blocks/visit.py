"""Every block of a model in turn, finished ones on disk before the next begins: a killed walk goes on from there.

What is done with a block is the caller's business: quantizing, pruning, training it towards the original's outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from squeeze.algorithms.space import MEMORY, Space
from squeeze.blocks.kept import End, Kept
from squeeze.blocks.walk import Walk
from squeeze.blocks.watch import Weight
from squeeze.progress import Progress


def in_memory(_: int) -> Space:
    """Where a Hessian of so many channels lies, if nobody says otherwise."""
    return MEMORY


class ReadWeights(Mapping[str, Tensor]):
    """Weights that are read each time that they are asked for: their pages leave memory with them."""

    def __init__(self, names: Iterable[str], read: Callable[[str], Tensor]) -> None:
        self.names, self.read = list(names), read

    def __getitem__(self, name: str) -> Tensor:
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class BlockWeights(Protocol):
    """Where the weights of blocks come from: a model, or the new one that is being written."""

    def block(self, index: int) -> AbstractContextManager[nn.Module]:
        """A block with its weights, for as long as the ``with`` lasts."""
        ...


class WrittenBlocks(BlockWeights, Protocol):
    """The new model, block by block on disk."""

    def done(self, index: int) -> dict[str, Any] | None:
        """Facts about a block that is finished; None where it is not."""
        ...


@dataclass
class Visit:
    """One block while it is being changed.

    Args:
        block: Its module, with weights.
        walk: The activations before it; None where no data is looked at.
        facts: For the report, by weight.
        changed: Parameters that are stored as the block has them when it is done.
        original: The activations that the original model has here, where a pass asks for them.
        was: The parameters that are to be changed, before anything is.
        space: By how many channels go into a weight, where its Hessian and the like lie.
        inputs_rounded: Whether what goes into weights is rounded to 8 bits, each token by its range, before it is
            summed: as kernels will have it that round their inputs themselves.
    """

    index: int
    block: nn.Module
    walk: Walk | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    original: Walk | None = None
    was: Mapping[str, Tensor] = field(default_factory=dict)
    space: Callable[[int], Space] = in_memory
    inputs_rounded: bool = False

    @contextmanager
    def with_original_weights(self) -> Iterator[None]:
        """The block computing as the original does, for as long as the ``with`` lasts."""
        now = {name: self.block.get_parameter(name).data for name in self.was}
        try:
            for name, value in self.was.items():
                self.block.get_parameter(name).data = value
            yield
        finally:
            for name, value in now.items():
                self.block.get_parameter(name).data = value

    def keep(self, ends: list[End], most_bytes: int, own: bool = True) -> None:
        """Keep what goes into the last linears of the block's parts once it is seen, of both walks.

        Args:
            own: Whether nothing that comes before an input changes once that was seen.
        """
        walks = [walk for walk in (self.original, self.walk if own else None) if walk is not None]
        for walk in walks:
            walk.kept = Kept(self.index, ends, most_bytes // len(walks), final=walk is self.original)

    def settle(self, weights: Iterable[Weight]) -> None:
        """These weights of the block have their last values."""
        if self.walk is not None and self.walk.kept is not None:
            for weight in weights:
                self.walk.kept.settle(weight)

    def put(self, weight: Weight, real: Tensor) -> None:
        """Give the block a weight's new value."""
        weight.of(self.block).copy_(real)


def visit_blocks(
    count: int,
    written: WrittenBlocks,
    visit: Callable[[int], None],
    advance: Sequence[tuple[Walk, BlockWeights]],
    progress: Progress,
    what: str,
) -> dict[str, Any]:
    """Visit every block that is not finished, and send the activations through each.

    Args:
        count: How many blocks there are.
        visit: Changes the block of that index and writes it.
        advance: Walks, each with the weights that it goes on with: the old model's, or the new ones as written.
        what: Name of the work, for who watches.

    Returns:
        The facts of all blocks, by weight.
    """
    for index in progress.track(range(count), what, count):
        if written.done(index) is None:
            visit(index)
        if index + 1 < count:
            for walk, weights in advance:
                with weights.block(index):
                    walk.through(index)
    every = [written.done(index) or {} for index in range(count)]
    return {name: fact for facts in every for name, fact in facts.items()}
