"""A graph as a torch module with one child per node, so that what an exporter makes of it leads back to layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from squeeze.writers.as_torch.integers import IntegerWeight, dynamically_quantized

Operation = Callable[..., Tensor]


@dataclass(frozen=True)
class Place:
    """One node: what it is called in the graph, and which values it reads and writes."""

    name: str
    reads: tuple[str, ...]
    writes: str


class Network(nn.Module):
    """The nodes of a graph in their order.

    Args:
        places: Of each child, which are called ``node0``, ``node1``, ...
        inputs, outputs: Names of values.
    """

    def __init__(self, children: list[nn.Module], places: list[Place], inputs: list[str], outputs: list[str]) -> None:
        super().__init__()
        for index, child in enumerate(children):
            self.add_module(f"node{index}", child)
        self.places, self.input_names, self.output_names = places, inputs, outputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(self.input_names, inputs, strict=True))
        for index, place in enumerate(self.places):
            child = getattr(self, f"node{index}")
            values[place.writes] = child(*(values[name] for name in place.reads))
        return tuple(values[name] for name in self.output_names)


class Operator(nn.Module):
    """An operator without weights."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


class WeightedLayer(nn.Module):
    """A convolution or a matrix product.

    Args:
        dynamic: Whether inputs are rounded to int8 by a range taken from each example.
    """

    def __init__(
        self, operation: Operation, weight: IntegerWeight | nn.Parameter, bias: Tensor | None, dynamic: bool
    ) -> None:
        super().__init__()
        self.operation, self.weight, self.dynamic = operation, weight, dynamic
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight() if isinstance(self.weight, IntegerWeight) else self.weight
        return self.operation(dynamically_quantized(x) if self.dynamic else x, weight, self.bias)


class StoredArray(nn.Module):
    """A stored array that an operator reads."""

    def __init__(self, array: Tensor) -> None:
        super().__init__()
        self.array: Tensor
        self.register_buffer("array", array)

    def forward(self) -> Tensor:
        return self.array
