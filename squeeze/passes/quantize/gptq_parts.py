"""Which output channels of a block's weights GPTQ solves together, and in what order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from squeeze.algorithms.gptq import Solved
from squeeze.blocks.end_loss import output_groups
from squeeze.blocks.hessians import Inputs, block_inputs, weighted_inputs
from squeeze.blocks.watch import Weight
from squeeze.passes.quantize.scheme import Scheme
from squeeze.passes.quantize.work import BlockWork

PART_VALUES = 1 << 24  # weight values solved at once: each copy takes 64 MB


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

    def parts(self, work: BlockWork, weight: Weight) -> Iterator[Part]:
        """As many output channels of a weight at once as fill PART_VALUES."""
        before = sum(len(self.rows[each]) for each in list(self.rows)[: list(self.rows).index(weight)])
        rows, most = self.rows[weight], max(1, PART_VALUES // weight.of(work.block).shape[1])
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
    target: Tensor | None = None
    solved: Solved | None = None

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
