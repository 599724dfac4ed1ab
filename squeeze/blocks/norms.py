"""What a norm's weight means, and which norms stand where; found by running them, not from a family's names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from squeeze.blocks.hooks import watched_modules
from squeeze.blocks.watch import InputWatch, Weight


def weight_offset(norm: nn.Module) -> float:
    """What a norm adds to its weight before it multiplies: 1 in Gemma's, 0 in most."""
    parameters = dict(norm.named_parameters(recurse=False))
    weight, before = parameters["weight"], {name: value.data for name, value in parameters.items()}
    try:
        for value in parameters.values():
            value.data = torch.zeros_like(value.data)
        probe = torch.linspace(-1, 1, len(weight)).to(weight.dtype)
        with torch.no_grad():
            return float(bool(norm(probe[None, None]).any()))
    finally:
        for name, value in parameters.items():
            value.data = before[name]


def norms_behind(
    block: nn.Module, norms: list[str], weights: list[Weight], run: Callable[[], object]
) -> dict[Weight, list[str]]:
    """The norms that look at what a weight gave, by that weight: none whose output goes into a weight as it is."""
    inputs: list[Tensor] = []
    outputs: list[tuple[str, Weight | None, Tensor]] = []
    last: list[Weight] = []

    def see(weight: Weight, value: Tensor) -> None:
        inputs.append(value)
        last.append(weight)

    def note(name: str, _: nn.Module, __: object, output: Tensor) -> None:
        outputs.append((name, last[-1] if last else None, output))

    with watched_modules([(name, block.get_submodule(name)) for name in norms], note), InputWatch(block, weights, see):
        run()
    behind: dict[Weight, list[str]] = {}
    for name, weight, output in outputs:
        if weight is not None and not any(output is value for value in inputs):
            behind.setdefault(weight, []).append(name)
    return behind


@contextmanager
def watched_output(module: nn.Module, see: Callable[[Tensor], None]) -> Iterator[None]:
    """While open, ``see`` is given each output."""
    with module.register_forward_hook(lambda _, args, output: see(output)):
        yield


def layer_norms_of(module: nn.Module, size: int, channels: int) -> None:
    """Let norms that know how many channels there are, which most need not, look at fewer."""
    for child in module.modules():
        if getattr(child, "normalized_shape", None) == (size,):
            child.normalized_shape = (channels,)  # type: ignore[assignment]
