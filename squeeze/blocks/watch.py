"""What goes into each weight of a block while it runs, or what it gives: every product with a weight is seen, experts'
slices too.

Weights are told apart by where they lie in memory, so nothing depends on how a family names or fuses its linears.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Weight:
    """One matrix of a block: a parameter, or one expert's slice of a 3-D one."""

    name: str  # parameter name inside the block
    expert: int | None = None

    def of(self, block: nn.Module) -> Tensor:
        """``[out, in]``, a view into the block's parameter."""
        value = block.get_parameter(self.name)
        return value.data if self.expert is None else value.data[self.expert]

    def __str__(self) -> str:
        return self.name if self.expert is None else f"{self.name}[{self.expert}]"


See = Callable[[Weight, Tensor], None]


class _ProductWatch(TorchFunctionMode):
    """While open, looks at each product with a watched weight."""

    def __init__(self, block: nn.Module, weights: list[Weight], see: See) -> None:
        super().__init__()
        self.owners: Mapping[int, Weight] = {weight.of(block).data_ptr(): weight for weight in weights}
        self.see = see

    def factors(self, func: Any, args: Any, keywords: Any) -> tuple[Weight | None, Any]:
        """The watched weight that a call multiplies, and with what; None: it is another call."""
        if func is not functional.linear:
            return None, None
        value, factor = (*args, *(keywords[key] for key in ("input", "weight") if key in keywords))[:2]
        return self.owners.get(factor.data_ptr()) if isinstance(factor, Tensor) else None, value


class InputWatch(_ProductWatch):
    """While open, calls ``see(weight, input)`` for each product of an input ``[..., in]`` with a watched weight."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        weight, value = self.factors(func, args, kwargs or {})
        if weight is not None:
            self.see(weight, value)
        return func(*args, **(kwargs or {}))


class OutputWatch(_ProductWatch):
    """While open, calls ``see(weight, output)`` with what each product with a watched weight gives, ``[..., out]``."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        weight, _ = self.factors(func, args, kwargs or {})
        output = func(*args, **(kwargs or {}))
        if weight is not None:
            self.see(weight, output)
        return output


def shared_inputs(block: nn.Module, weights: list[Weight], run: Callable[[], object]) -> list[list[Weight]]:
    """Weights in the order in which they run, those that are given the very same input together (q, k, v; gate, up).

    A weight that ``run`` does not reach (an expert that no token was sent to) stands alone at the end.
    """
    groups: list[tuple[Tensor, list[Weight]]] = []

    def see(weight: Weight, value: Tensor) -> None:
        for known, group in groups:
            if known is value and weight.expert is None and all(member.expert is None for member in group):
                group.append(weight)
                return
        groups.append((value, [weight]))

    with InputWatch(block, weights, see):
        run()
    reached = {weight for _, group in groups for weight in group}
    return [group for _, group in groups] + [[weight] for weight in weights if weight not in reached]
