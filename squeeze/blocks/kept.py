"""What goes into the last products of a block's parts, kept, so that what comes before them runs once.

A pass that calibrates one weight after the other sends the same activations through a block again and again. Where a
part of the block (its attention, its MLP) gives the very tensor that its last linear gives, that linear alone gives it
again, bit for bit, with whichever weights it has by then. Once those are final, what it gave is kept instead. What a
block's parts give is found by running it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
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

    def returned(self, output: Tensor) -> Any:
        """What the part returns."""
        return output if self.rest is None else (output, *self.rest)


class Kept:
    """Inputs of the last linears of one block's parts, chunk by chunk; their outputs, once their weights are final.

    Args:
        index: Of the block.
        most_bytes: That may be kept; an input of which not all chunks fit is not kept.
        final: No weight of the block will change.
    """

    def __init__(self, index: int, ends: list[End], most_bytes: int, final: bool = False) -> None:
        self.index, self.room = index, most_bytes
        self.ends = {end.linear: end for end in ends}
        self.inputs: dict[tuple[str, int], Tensor] = {}
        self.outputs: dict[tuple[str, int], Tensor] = {}
        self._final = set(self.ends) if final else set[str]()
        self._chosen: dict[str, bool] = {}

    def settle(self, weight: Weight) -> None:
        """A weight has its last value: what its linear gives may be kept in place of what goes into it."""
        self._final.add(_linear(weight))

    def keep(self, weight: Weight, part: slice, inputs: Tensor, sequences: int) -> None:
        """Keep what goes into a weight, if a part of the block ends in it.

        Args:
            part: The sequences of ``inputs``, of so many ``sequences`` in all.
        """
        linear = _linear(weight)
        if weight.expert is not None or linear not in self.ends:
            return
        if linear not in self._chosen:
            nbytes = inputs.nbytes * -(-sequences // (part.stop - part.start))
            self._chosen[linear] = nbytes <= self.room
            self.room -= nbytes if self._chosen[linear] else 0
        if self._chosen[linear]:
            self.inputs[linear, part.start] = _alone(inputs)

    @contextmanager
    def in_place(self, block: nn.Module, part: slice, watched: Collection[Weight] = ()) -> Iterator[None]:
        """While open, each part of the block whose last linear's inputs are kept runs that linear alone.

        Args:
            watched: Weights whose inputs must be seen, so that outputs will not do.
        """
        linears = {_linear(weight) for weight in watched}
        with ExitStack() as replaced:
            for linear, end in self.ends.items():
                replaced.enter_context(self._replaced(block, end, (linear, part.start), linear in linears))
            yield

    @contextmanager
    def _replaced(self, block: nn.Module, end: End, key: tuple[str, int], watched: bool) -> Iterator[None]:
        part, linear = block.get_submodule(end.part), block.get_submodule(end.linear)
        whole = part.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if key in self.outputs and not watched:
                return end.returned(self.outputs[key])
            inputs = self.inputs.get(key)
            result = whole(*args, **kwargs) if inputs is None else end.returned(linear(inputs))
            self._keep_output(key, result[0] if isinstance(result, tuple) else result)
            return result

        part.forward = forward
        try:
            yield
        finally:
            del part.forward

    def _keep_output(self, key: tuple[str, int], output: Tensor) -> None:
        """In place of the input, where it takes no more memory."""
        if key[0] in self._final and key in self.inputs and output.nbytes <= self.inputs[key].nbytes:
            self.outputs[key] = _alone(output)
            del self.inputs[key]


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
            return
        linear = outputs.get(id(first), "")
        if linear.startswith(f"{name}.") and not any(isinstance(one, Tensor) for one in rest or ()):
            ends[linear] = End(name, linear, rest)  # the outermost comes last

    found: list[End] = []
    with ExitStack() as hooks:
        for name, module in block.named_modules():
            if name:
                hook = module.register_forward_hook(lambda m, _, output, name=name: note(name, m, output))
                hooks.callback(hook.remove)
        yield found
    found += ends.values()


def _linear(weight: Weight) -> str:
    return weight.name.removesuffix(".weight")


def _alone(tensor: Tensor) -> Tensor:
    """Holding no other memory than its own."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
