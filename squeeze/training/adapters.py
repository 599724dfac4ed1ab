"""Low-rank adapters: ``W + factor * up @ down``, where only ``up`` and ``down`` are trained.

Hu et al., 2021, https://arxiv.org/abs/2106.09685. ``factor`` is constant, so that one learning rate fits every rank.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from squeeze.models.language.adapter import LowRank

FACTOR = 2.0
NAME = "adapter"


class Adapter(nn.Module):
    """What is added to one linear: nothing at first.

    Args:
        linear: ``[out, in]``.
        rank: Of what is learnt; at most the smaller side is of use.
    """

    def __init__(self, linear: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        out, columns = linear.weight.shape
        rank = min(rank, out, columns)
        self.down = nn.Parameter(torch.randn(rank, columns, generator=generator) / columns**0.5)
        self.up = nn.Parameter(torch.zeros(out, rank))

    def forward(self, inputs: Tensor) -> Tensor:
        update: Tensor = FACTOR * functional.linear(functional.linear(inputs, self.down), self.up)
        return update

    def update(self) -> LowRank:
        """What it adds to the weight."""
        return LowRank(self.down.detach(), self.up.detach(), FACTOR)


class Adapters:
    """Adapters of some linears, each a child of its linear until they are taken off."""

    def __init__(self, linears: Iterable[nn.Linear], rank: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.linears = list(linears)
        for linear in self.linears:
            linear.add_module(NAME, Adapter(linear, rank, generator))
        self.handles = [linear.register_forward_hook(_add) for linear in self.linears]

    def take_off(self) -> list[LowRank]:
        """The linears compute what they did before; gives what was added to each."""
        updates = []
        for linear, handle in zip(self.linears, self.handles, strict=True):
            handle.remove()
            updates.append(linear.get_submodule(NAME).update())  # type: ignore[operator]
            del linear._modules[NAME]
        return updates


def _add(linear: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    total: Tensor = output + linear.get_submodule(NAME)(inputs[0])
    return total
