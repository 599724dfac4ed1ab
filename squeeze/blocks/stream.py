"""Where a block adds what a linear gives to the stream that runs through the model (the residual connection).

Found by computing, not from a family's names: a tensor that is, bit for bit, the stream before plus the linear's
output. Where there is none (parallel branches, a norm behind the linear) nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from squeeze.blocks.watch import Weight

OUTPUT = ""  # the block's own output, in place of a submodule whose input it is


def find_places(
    block: nn.Module, weights: list[Weight], hidden: Tensor, run: Callable[[], Tensor]
) -> dict[Weight, str]:
    """The submodule whose input is the stream with a weight's output just added.

    Args:
        hidden: What ``run`` sends through the block: the stream before it.
        run: Gives the block's output.
    """
    linears = {name: weight for weight in weights if (name := _linear(block, weight)) and weight.expert is None}
    places: dict[Weight, str] = {}
    pending: dict[Weight, Tensor] = {}
    stream = hidden

    def added(name: str, tensor: Tensor) -> None:
        nonlocal stream
        for weight, output in pending.items():
            if output.shape == tensor.shape == stream.shape and torch.equal(stream + output, tensor):
                places[weight], stream = name, tensor
                pending.clear()
                return

    def hold(linear: str) -> Callable[..., None]:
        return lambda module, args, output: pending.update({linears[linear]: output})

    with ExitStack() as hooks:
        for name, module in block.named_modules():
            if name:
                hooks.enter_context(module.register_forward_pre_hook(_first(name, added), with_kwargs=True))
            if name in linears:
                hooks.enter_context(module.register_forward_hook(hold(name)))
        output = run()
    added(OUTPUT, output)
    return places


def find_join(block: nn.Module, weight: Weight, run: Callable[[], Tensor]) -> str | None:
    """The submodule whose input is what a linear gave plus something that the block computed before.

    That may be the stream itself, or, where norms stand behind each sum (BERT), what the norm before gave.
    """
    linear = _linear(block, weight)
    before: list[Tensor] = []
    outputs: list[Tensor] = []
    joins: list[str] = []

    def enter(name: str, tensor: Tensor) -> None:
        if outputs and any(_is_sum(one, outputs[0], tensor) for one in before):
            joins.append(name)
        before.append(tensor)

    if linear is None:
        return None
    with ExitStack() as hooks:
        for name, module in block.named_modules():
            if name:
                hooks.enter_context(module.register_forward_pre_hook(_first(name, enter), with_kwargs=True))
        keep = block.get_submodule(linear).register_forward_hook(lambda module, args, output: outputs.append(output))
        hooks.enter_context(keep)
        enter(OUTPUT, run())
    return joins[0] if joins else None


def _is_sum(one: Tensor, other: Tensor, total: Tensor) -> bool:
    return one.shape == other.shape == total.shape and torch.equal(one + other, total)


@contextmanager
def watched_place(block: nn.Module, place: str, see: Callable[[Tensor], None]) -> Iterator[None]:
    """While open, ``see`` is given the stream each time that it goes into that submodule (not the block's output)."""
    hook = _first(place, lambda _, tensor: see(tensor))
    with block.get_submodule(place).register_forward_pre_hook(hook, with_kwargs=True):
        yield


def _first(name: str, see: Callable[[str, Tensor], None]) -> Callable[..., None]:
    """A hook that passes on a module's first tensor."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if tensors:
            see(name, tensors[0])

    return hook


def _linear(block: nn.Module, weight: Weight) -> str | None:
    name = weight.name.removesuffix(".weight")
    return name if isinstance(dict(block.named_modules()).get(name), nn.Linear) else None
