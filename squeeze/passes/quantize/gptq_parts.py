"""Which output channels of a block's weights GPTQ solves together, and in what order."""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from squeeze.algorithms.space import MEMORY, Space
from squeeze.blocks.end_loss import output_groups
from squeeze.blocks.hessians import Inputs, block_inputs, weighted_inputs
from squeeze.blocks.mapped import PART, DiskSpace
from squeeze.blocks.watch import Weight
from squeeze.models.language.footprint import FLOAT
from squeeze.passes.base import Context
from squeeze.passes.quantize.scheme import Scheme
from squeeze.passes.quantize.work import BlockWork

PART_VALUES, LEAST_PART_VALUES = 1 << 22, 1 << 20  # weight values solved at once: each copy takes 16 MB, 4 MB
COPIES = 9  # of a part while it is shifted, solved and refined
SQUARE_BYTES = 512 << 20  # of a Hessian in memory, at most; of a plan's memory a sixteenth


def part_values(limit: int | None) -> int:
    """Weight values that are solved at once: all their copies take a sixteenth of a plan's memory."""
    if limit is None:
        return PART_VALUES
    return min(PART_VALUES, max(LEAST_PART_VALUES, limit // (16 * COPIES * FLOAT)))


def on_disk(channels: int, limit: int | None) -> bool:
    """Whether the Hessian of a weight with so many inputs, and what goes with it, lies on disk."""
    most = SQUARE_BYTES if limit is None else min(SQUARE_BYTES, limit // 16)
    return FLOAT * channels * channels > most


def square_bytes(channels: int, limit: int | None) -> int:
    """What of such a Hessian is in memory: all of it, or as many columns, row by row, as are worked on at once."""
    whole = FLOAT * channels * channels
    return min(whole, channels * max(mmap.PAGESIZE, FLOAT * PART)) if on_disk(channels, limit) else whole


def space_for(context: Context) -> Callable[[int], Space]:
    """Where Hessians lie, by their channels."""

    def space(channels: int) -> Space:
        return DiskSpace(context.disk_folder()) if on_disk(channels, context.memory_bytes) else MEMORY

    return space


@dataclass
class Share:
    """Output channels that share a Hessian.

    Args:
        rows: By weight; in ``inputs`` they lie one under the other.
        inputs: What goes into them.
    """

    rows: dict[Weight, range]
    inputs: Inputs

    def by_scheme(self, work: BlockWork) -> Iterator[tuple[Scheme, list[Weight]]]:
        for scheme in dict.fromkeys(work.schemes[weight] for weight in self.rows):
            yield scheme, [weight for weight in self.rows if work.schemes[weight] == scheme]

    def parts(self, work: BlockWork, weight: Weight, values: int) -> Iterator[Part]:
        """As many output channels of a weight at once as hold so many values."""
        before = sum(len(self.rows[each]) for each in list(self.rows)[: list(self.rows).index(weight)])
        rows, most = self.rows[weight], max(1, values // weight.of(work.block).shape[1])
        for start in rows[::most]:
            stop = min(start + most, rows.stop)
            yield Part(weight, slice(start, stop), slice(before + start - rows.start, before + stop - rows.start))


@dataclass
class Part:
    """Some output channels of a weight while they are quantized.

    Args:
        rows: Of the weight.
        in_share: The same, of all rows that share the Hessian, one under the other.
    """

    weight: Weight
    rows: slice
    in_share: slice

    def own(self, work: BlockWork) -> Tensor:
        """``[rows, in]``, a view into the block's parameter."""
        return self.weight.of(work.block)[self.rows]


def shares_of(work: BlockWork, groups: list[list[Weight]], places: Mapping[Weight, str] | None) -> list[Share]:
    """Groups of weights that share their input, each with its Hessian; weighted, each group of outputs has its own."""
    if work.token_weights is None:
        inputs = block_inputs(work, groups, places)
        return [Share({weight: every_row(work, weight) for weight in group}, inputs[group[0]]) for group in groups]
    weighted = weighted_inputs(work, groups, places, work.token_weights)
    return [
        Share({weight: range(rows.start, rows.stop)}, inputs)
        for weight, every in weighted.items()
        for rows, inputs in zip(output_groups(len(weight.of(work.block)), len(every)), every, strict=True)
    ]


def every_row(work: BlockWork, weight: Weight) -> range:
    """All output channels of a weight."""
    return range(len(weight.of(work.block)))


def stages_of(groups: list[list[Weight]]) -> list[list[list[Weight]]]:
    """Groups by their dependencies; experts (a number in the name) do not depend on each other."""
    stages: dict[str, list[list[Weight]]] = {}
    for group in groups:
        stages.setdefault(re.sub(r"\.\d+\.", ".*.", group[0].name), []).append(group)
    return list(stages.values())
