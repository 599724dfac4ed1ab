"""Training through the very grid that is written: ``weight = scale * (q - zero_point)``, as it is stored.

Scales are rounded to float16 and zero points to integers in every forward, as the file holds them; gradients go
straight through the rounding (Bengio et al., 2013, https://arxiv.org/abs/1308.3432). Where integers are trained too,
the step size has the gradient of LSQ (Esser et al., 2020, https://arxiv.org/abs/1902.08153). Scales are trained as
shares of what they were, so that one learning rate fits all of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from squeeze.algorithms.affine import QuantizedTensor, integer_range

LEAST_SCALE = 2.0**-24  # the smallest float16
SPEED = 10.0  # learning rate factor of scales, relative to the scale
ZERO_POINT_SPEED = 3.0  # learning rate factor of zero points, relative to the integer range


class OnGrid(nn.Module):
    """A parametrization: the weight that a module computes with, made of a grid.

    Args:
        grid: Where the training starts.
        shape: Of the weight in its module.
        integers: Whether the integers follow the weight as it is trained; else they stay.
    """

    q: Tensor

    def __init__(self, grid: QuantizedTensor, shape: torch.Size, integers: bool) -> None:
        super().__init__()
        self.grid, self.shape, self.integers = grid, shape, integers
        low, self.high = integer_range(grid.bits)
        self.low = low if not grid.symmetric or bool((grid.q == low).any()) else -self.high
        self.scale = nn.Parameter(torch.zeros_like(grid.scale))  # change as a share of the first scale
        if not grid.symmetric:
            self.zero_point = nn.Parameter(torch.zeros_like(grid.scale))  # change as a share of the integers' range
        self.register_buffer("q", grid.q.float(), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight on the grid, from the one that is trained (which does not matter where integers stay)."""
        scale, zero_point = self._per_weight(self.new_scale()), self._per_weight(self.new_zero_point())
        q = self._shaped(self._rounded(weight.reshape(self.q.shape), scale, zero_point) if self.integers else self.q)
        return (scale * (q - zero_point)).reshape(self.shape)

    def result(self, weight: Tensor) -> QuantizedTensor:
        """The grid as it is now, to be written."""
        with torch.no_grad():
            scale, zero_point = self.new_scale(), self.new_zero_point()
            parts = self._per_weight(scale), self._per_weight(zero_point)
            q = self._rounded(weight.reshape(self.q.shape), *parts).reshape(self.q.shape) if self.integers else self.q
            return replace(self.grid, q=q.to(torch.int8), scale=scale, zero_point=zero_point.to(torch.int32))

    def new_scale(self) -> Tensor:
        """float32 ``[out, groups]``, values of float16; never 0, and of the sign that it had."""
        first = self.grid.scale
        size = (first.abs() * (1 + SPEED * self.scale)).clamp_min(LEAST_SCALE)
        return first.sign() * straight_through(size, size.half().float())

    def new_zero_point(self) -> Tensor:
        """Integers as float32 ``[out, groups]``."""
        first = self.grid.zero_point.float()
        if self.grid.symmetric:
            return first
        low, high = integer_range(self.grid.bits)
        zero_point = (first + ZERO_POINT_SPEED * (high - low) * self.zero_point).clamp(low, high)
        return straight_through(zero_point, zero_point.round())

    def _rounded(self, weight: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """Integers as float32, shaped as ``scale`` is spread out."""
        exact = (self._shaped(weight) / scale + zero_point).clamp(self.low, self.high)
        return straight_through(exact, exact.round())

    def _shaped(self, matrix: Tensor) -> Tensor:
        """``[out, groups, group_size]``; ``[out, in]`` where groups are not consecutive channels."""
        return matrix if self.grid.g_idx is not None else matrix.reshape(*self.grid.scale.shape, -1)

    def _per_weight(self, values: Tensor) -> Tensor:
        """Values of groups, spread out over their weights."""
        return values[..., None] if self.grid.g_idx is None else values[:, self.grid.g_idx.long()]


def straight_through(exact: Tensor, rounded: Tensor) -> Tensor:
    """``rounded``, bit for bit, with the gradient of ``exact``."""
    return rounded.detach() + (exact - exact.detach())


def put_on_grid(module: nn.Module, name: str, grid: QuantizedTensor, integers: bool) -> None:
    """Let a weight of ``module``, by its full name, be made of a grid; the training starts with what it stands for."""
    part, own = _place(module, name)
    weight = part.get_parameter(own)
    weight.data.copy_(grid.dequantize().reshape(weight.shape))
    weight.requires_grad_(integers)
    parametrize.register_parametrization(part, own, OnGrid(grid, weight.shape, integers))


def take_off_grid(module: nn.Module, name: str) -> QuantizedTensor:
    """Undo :func:`put_on_grid`; the module keeps the weight that it computed with, and its grid is given back."""
    part, own = _place(module, name)
    trained: Any = part.get_submodule(f"parametrizations.{own}")
    grid: QuantizedTensor = trained[0].result(trained.original)
    parametrize.remove_parametrizations(part, own, leave_parametrized=True)
    return grid


def _place(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The part that owns a weight, and what it calls it."""
    owner, _, own = name.rpartition(".")
    return module.get_submodule(owner), own
