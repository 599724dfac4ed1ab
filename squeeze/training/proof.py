"""That what was written is what was trained: integers and scales, and the weights that they stand for, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import EffectError
from squeeze.models.base import Model
from squeeze.models.language.adapter import LowRank
from squeeze.models.language.language_model import in_shards
from squeeze.models.resident import Resident

PARTS = {"q": "integers", "scale": "scales", "zero_point": "zero points"}  # of a grid, in words


def require_written(
    student: Resident, model: Model, trained: Mapping[str, QuantizedTensor], before: Mapping[str, QuantizedTensor]
) -> dict[str, Any]:
    """Read every grid of a stored model back and hold it against the one that was trained.

    Args:
        student: It computes with the weights as they were in the last forward of the training.
        before: The grids that the training began with.

    Returns:
        How many weights, integers and scales there are, and how many of them moved.

    Raises:
        EffectError: a stored grid is not the one that was trained.
    """
    counts = {"weights": [0, len(trained)], "integers": [0, 0], "scales": [0, 0]}
    for name, grid in trained.items():
        stored, weight = in_shards(model).quantized(name), student.value(name)
        same = all(torch.equal(getattr(stored, part), getattr(grid, part)) for part in ("q", "scale", "zero_point"))
        if not same or not torch.equal(stored.dequantize().reshape(weight.shape), weight):
            raise EffectError(f"distill: {name}: what was written is not what was trained")
        _count(counts["integers"], stored.q, before[name].q)
        _count(counts["scales"], stored.scale, before[name].scale)
        counts["weights"][0] += 1
    return {"proven": counts.pop("weights"), "moved": counts}


def require_adapter(model: Model, trained: Mapping[str, LowRank]) -> dict[str, int]:
    """Read a stored adapter back and hold it against the one that was trained.

    Returns:
        How many weights have one, its parameters and its bytes.

    Raises:
        EffectError: it is not the one that was trained.
    """
    adapter = in_shards(model).adapter
    if adapter is None or sorted(adapter.names) != sorted(trained):
        raise EffectError("distill: the adapter that was written is not of the weights that were trained")
    for name, update in trained.items():
        stored = adapter.update(name)
        if not (torch.equal(stored.down, update.down) and torch.equal(stored.up, update.up)):
            raise EffectError(f"distill: {name}: the adapter that was written is not the one that was trained")
    return {"weights": len(trained), "parameters": adapter.parameters(), "bytes": adapter.nbytes()}


def _count(counts: list[int], now: Tensor, before: Tensor) -> None:
    counts[0] += int((now != before).sum())
    counts[1] += now.numel()


def grid_broken(before: Model, after: Model, how: str) -> Iterator[str]:
    """What a training on a grid must not have changed: which weights lie on which; the integers, where they stay."""
    old, new = in_shards(before), in_shards(after)
    if before.grid_kinds() != after.grid_kinds():
        yield "promises the grids that it was given, and left others"
        return
    stay = {"scales": ("q",), "adapter": ("q", "scale", "zero_point")}.get(how, ())
    for part in stay:
        names = [
            n for n in old.grid if not torch.equal(getattr(old.quantized(n), part), getattr(new.quantized(n), part))
        ]
        if names:
            yield f"promises {PARTS[part]} that stay, and moved those of {names[0]} and {len(names) - 1} more"
    if how == "adapter" and new.adapter is None:
        yield "promises an adapter beside the weights, and left none"
