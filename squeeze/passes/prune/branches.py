"""Residual branches that may be dropped as a whole, found by measurement.

When everything inside a residual block goes, what is left is its shortcut. A block is such a one when, with one of
its children silenced, its output on real activations equals its input, or the output of a child that is a plain
convolution. No name and no class of block is known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from squeeze.blocks.hooks import watched_modules
from squeeze.models.torch_model import TorchModel
from squeeze.passes.prune.coupling import Coupled


@dataclass(frozen=True)
class Branch:
    """A residual block whose branch can go.

    Args:
        block: Name of the block.
        remains: Name of the child that takes the block's place; None: the input passes through.
        groups: Numbers of the coupled groups that lie wholly inside the block.
    """

    block: str
    remains: str | None
    groups: tuple[int, ...]


def droppable_branches(model: TorchModel, groups: Sequence[Coupled]) -> list[Branch]:
    """Every residual block that holds whole groups and would leave only its shortcut, in the model's order."""
    inside = {name: _groups_inside(name, groups) for name, _ in model.module.named_modules() if name}
    blocks = {name: groups_of for name, groups_of in inside.items() if groups_of}
    calls = _inputs_and_outputs(model, set(blocks))
    branches = []
    for name, groups_of in blocks.items():
        remains = _what_remains(model.module.get_submodule(name), calls.get(name))
        if remains is not None:
            branches.append(Branch(name, f"{name}.{remains}" if remains else None, groups_of))
    # blocks inside a block that is already there are left out
    return [b for b in branches if not any(b.block.startswith(f"{outer.block}.") for outer in branches)]


def drop(model: TorchModel, branch: Branch) -> None:
    """Put the shortcut in the block's place."""
    shortcut = model.module.get_submodule(branch.remains) if branch.remains else nn.Identity()
    model.module.set_submodule(branch.block, shortcut.eval())


def _groups_inside(block: str, groups: Sequence[Coupled]) -> tuple[int, ...]:
    inner = f"{block}."
    return tuple(
        number
        for number, group in enumerate(groups)
        if group.readers and all(member.layer.startswith(inner) for member in group.members)
    )


def _inputs_and_outputs(model: TorchModel, names: set[str]) -> dict[str, Tensor]:
    """What each module takes in when the model runs: modules called once, one tensor in, one out."""
    calls_of: dict[str, list[Tensor]] = {name: [] for name in names}

    def note(name: str, _: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        plain = len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)
        calls_of[name].append(inputs[0].detach().clone() if plain else torch.empty(0))

    with watched_modules([(name, model.module.get_submodule(name)) for name in names], note):
        model.predict(model.example(2))
    return {name: calls[0] for name, calls in calls_of.items() if len(calls) == 1 and calls[0].dim() == 4}


def _what_remains(block: nn.Module, value: Tensor | None) -> str | None:
    """The child that remains (``""``: the input itself) once another child is silenced; None: it is no such block."""
    if value is None:
        return None
    children = {name: child for name, child in block.named_children() if list(child.parameters())}
    for end in reversed(children):
        output = _with_silenced(block, end, value)
        if _same(output, value):
            return ""
        for name, child in children.items():
            if name != end and type(child) is nn.Conv2d and _same(output, _apply(child, value)):
                return name
    return None


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and one.shape == other.shape and torch.equal(one, other)


def _apply(child: nn.Module, value: Tensor) -> Tensor | None:
    try:
        with torch.inference_mode():
            output: Tensor = child(value)
            return output
    except RuntimeError:  # a layer further inside: it takes other shapes than the block
        return None


def _with_silenced(block: nn.Module, child: str, value: Tensor) -> Tensor | None:
    with block.get_submodule(child).register_forward_hook(lambda _, __, output: torch.zeros_like(output)):
        return _apply(block, value)
