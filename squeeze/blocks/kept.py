"""What goes into the last products of a block's parts, kept, so that what comes before them runs once.

A pass that calibrates one weight after the other sends the same activations through a block again and again. Where a
part of the block (its attention, its MLP) gives the very tensor that its last linear gives, that linear alone gives it
again, bit for bit, with whichever weights it has by then. What a block's parts give is found by running it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from squeeze.blocks.watch import Weight


@dataclass(frozen=True)
class End:
    """A part of a block that gives what its last linear gives.

    Args:
        part, linear: Names inside the block.
        rest: What the part returns behind that; None: it returns the tensor alone.
    """

    part: str
    linear: str
    rest: tuple[Any, ...] | None

    def outputs(self, linear: nn.Module, inputs: Tensor) -> Any:
        """What the part returns."""
        output = linear(inputs)
        return output if self.rest is None else (output, *self.rest)


class Kept:
    """Inputs of the last linears of one block's parts, chunk by chunk.

    Args:
        index: Of the block.
        most_bytes: That may be kept; an input of which not all chunks fit is not kept.
    """

    def __init__(self, index: int, ends: list[End], most_bytes: int) -> None:
        self.index, self.room = index, most_bytes
        self.ends = {end.linear: end for end in ends}
        self.inputs: dict[tuple[str, int], Tensor] = {}
        self._chosen: dict[str, bool] = {}

    def keep(self, weight: Weight, part: slice, inputs: Tensor, sequences: int) -> None:
        """Keep what goes into a weight, if a part of the block ends in it.

        Args:
            part: The sequences of ``inputs``, of so many ``sequences`` in all.
        """
        linear = weight.name.removesuffix(".weight")
        if weight.expert is not None or linear not in self.ends:
            return
        if linear not in self._chosen:
            nbytes = inputs.nbytes * -(-sequences // (part.stop - part.start))
            self._chosen[linear] = nbytes <= self.room
            self.room -= nbytes if self._chosen[linear] else 0
        if self._chosen[linear]:
            whole = inputs.untyped_storage().nbytes() == inputs.nbytes
            self.inputs[linear, part.start] = inputs if whole else inputs.clone()

    @contextmanager
    def in_place(self, block: nn.Module, part: slice) -> Iterator[None]:
        """While open, each part of the block whose last linear's inputs are kept runs that linear alone."""
        with ExitStack() as replaced:
            for linear, end in self.ends.items():
                inputs = self.inputs.get((linear, part.start))
                if inputs is not None:
                    replaced.enter_context(_replaced(block, end, inputs))
            yield


@contextmanager
def ends_seen(block: nn.Module) -> Iterator[list[End]]:
    """While open, notes the parts of a block that end in a linear; the outermost part for each."""
    outputs: dict[int, str] = {}
    ends: dict[str, End] = {}
    seen: list[Any] = []  # held, so that no other tensor gets the same identity

    def note(name: str, module: nn.Module, output: Any) -> None:
        first, rest = (output[0], output[1:]) if isinstance(output, tuple) and output else (output, None)
        seen.append(first)
        if isinstance(module, nn.Linear):
            outputs[id(first)] = name
        elif id(first) in outputs and not any(isinstance(one, Tensor) for one in rest or ()):
            ends[outputs[id(first)]] = End(name, outputs[id(first)], rest)

    found: list[End] = []
    with ExitStack() as hooks:
        for name, module in block.named_modules():
            if name:
                hook = module.register_forward_hook(lambda m, _, output, name=name: note(name, m, output))
                hooks.callback(hook.remove)
        yield found
    found += ends.values()


@contextmanager
def _replaced(block: nn.Module, end: End, inputs: Tensor) -> Iterator[None]:
    part, linear = block.get_submodule(end.part), block.get_submodule(end.linear)
    part.forward = lambda *_, **__: end.outputs(linear, inputs)
    try:
        yield
    finally:
        del part.forward
