"""Whether the weights of a module can be divided among processes; a check asks, which loads no torch.distributed."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def division_faults(module: nn.Module, types: bool = True) -> Iterator[str]:
    """What FSDP2 cannot divide, and what would do.

    Args:
        types: Whether weights are trained in the types that they have here.
    """
    weights = dict(module.named_parameters())
    if single := [name for name, weight in weights.items() if not weight.dim()]:
        yield f"'{single[0]}' is a single number, which has no parts; shape [1] in place of [] would do"
    kinds = sorted({str(weight.dtype).removeprefix("torch.") for weight in weights.values()})
    if types and len(kinds) > 1:
        yield f"weights of {' and '.join(kinds)} have no common parts; a model of one of them would do"
