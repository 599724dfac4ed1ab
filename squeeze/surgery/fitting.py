"""The most intermediate channels that a goal pays for, by whatever it counts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from squeeze.surgery.widths import Units, Widths

Cost = Callable[[Units], float]  # of the whole model with so many units


def most_channels(widths: Widths[Any], others: Units, cost: Cost, most: float, align: int) -> int:
    """The most intermediate channels that cost no more, beside so many other units; 0: not even the fewest."""
    units = widths.units["intermediate"]
    channels = [*range(align, units, align), units]
    fit = bisect_right(channels, most, key=lambda count: cost({"intermediate": count, **others}))
    return channels[fit - 1] if fit else 0
