"""What is counted of a model that has no weights yet: parameters, and the bytes that they take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import nn


class Built(Protocol):
    """A model, with weights or without."""

    @property
    def module(self) -> nn.Module: ...


@dataclass(frozen=True)
class Alone:
    """A part of a model, to count it alone."""

    module: nn.Module


Counted = Callable[[Built], int]


def parameters(model: Built) -> int:
    """Of the whole model, tied ones once."""
    return sum(value.numel() for value in model.module.parameters())


def nbytes(model: Built) -> int:
    """Of all weights as stored dense, tied ones once."""
    return sum(value.nbytes for value in model.module.parameters())
