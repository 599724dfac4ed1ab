"""Blocks of a decoder replaced by a linear map, which is folded into the last linear of the block before them.

That linear is found by computing (``blocks.stream``): its output is what a block adds to the stream last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from squeeze.algorithms.linear_replacement import Gap
from squeeze.blocks.norms import watched_output
from squeeze.blocks.stream import OUTPUT, find_places
from squeeze.blocks.walk import Walk
from squeeze.blocks.watch import Weight
from squeeze.errors import ModelError
from squeeze.models.language.language_model import LanguageModel

Parameters = Mapping[str, Tensor]  # of a block, as they are stored, by their name in it
Changed = Mapping[int, Parameters]


@dataclass(frozen=True)
class Run:
    """Removed blocks that follow on each other, and the block that is left before them."""

    before: int
    removed: range


def runs_of(gone: frozenset[int]) -> list[Run]:
    """Those that have a block before them, in order."""
    starts = sorted(index for index in gone if index - 1 not in gone and index)
    ends = [next(end for end in range(start, max(gone) + 2) if end not in gone) for start in starts]
    return [Run(start - 1, range(start, end)) for start, end in zip(starts, ends, strict=True)]


@contextmanager
def changed_block(model: LanguageModel, index: int, changed: Changed) -> Iterator[nn.Module]:
    """One block, some of whose parameters are others, to compute in float32."""
    with model.block(index, wide=True) as block:
        for name, value in changed.get(index, {}).items():
            parameter = block.get_parameter(name)
            parameter.data = value.to(parameter.dtype)
        yield block


def last_linear(model: LanguageModel, walk: Walk, index: int) -> str:
    """The linear of a block whose output is added to the stream last, by its name in the block.

    Args:
        walk: The activations before the block, which stay as they are.

    Raises:
        ModelError: there is none.
    """
    hidden = walk.hidden[next(walk.chunks())]
    with model.block(index, wide=True) as block:
        weights = [Weight(name) for name, value in block.named_parameters() if value.dim() == 2]
        places = find_places(block, weights, hidden, lambda: walk.block(index, hidden))
        for weight, place in places.items():
            if place == OUTPUT:
                return weight.name.removesuffix(".weight")
    what = f"{model.skeleton.prefix(index)[:-1]} adds no linear's output to the stream last"
    raise ModelError(f"{what}, so that none can take a linear map in; replace: none would do")


def measure_gap(model: LanguageModel, walk: Walk, target: Walk, run: Run, linear: str, changed: Changed) -> Gap:
    """See what the linear before a run gives, and where the stream should be behind it.

    Args:
        walk: The new model's activations before ``run.before``; they stay there.
        target: The original's behind the run.
    """
    gap, outputs = Gap(model.skeleton.hidden_size), list[Tensor]()
    with (
        changed_block(model, run.before, changed) as block,
        watched_output(block.get_submodule(linear), outputs.append),
    ):
        for part in walk.chunks():
            outputs.clear()
            before = walk.block(run.before, walk.hidden[part])
            gap.add(*(each.flatten(0, 1).float() for each in (outputs[0], before, target.hidden[part])))
    return gap


def folded(model: LanguageModel, index: int, linear: str, map_: Tensor) -> dict[str, Tensor]:
    """The linear's parameters with a map ``[width, width]`` of its output in them, in the type of their file."""
    prefix, names = model.skeleton.prefix(index), [f"{linear}.weight", f"{linear}.bias"]
    stored = {name: model.tensor(prefix + name) for name in names if name in model.skeleton.block_names(index)}
    return {name: (map_ @ value.float()).to(value.dtype) for name, value in stored.items()}


def walk_to_runs(
    model: LanguageModel, walk: Walk, runs: Iterable[Run], visit: Callable[[Run, Walk, Walk], Changed]
) -> None:
    """Take activations through the new model, and those of the original beside them; one block in memory.

    Args:
        walk: Embedded tokens.
        visit: Given a run, the new model's activations before ``run.before`` and the original's behind the run; gives
            all parameters that are others by then.
    """
    target: Walk | None = None
    first = original_first = 0  # blocks that the activations are before
    for run in runs:
        for index in range(first, run.before):
            with model.block(index, wide=True):
                walk.through(index)
        if target is None:
            target, original_first = walk.twin(), run.before
        for index in range(original_first, run.removed.stop):
            with model.block(index, wide=True):
                target.through(index)
        changed = visit(run, walk, target)
        with changed_block(model, run.before, changed):
            walk.through(run.before)
        first = original_first = run.removed.stop
