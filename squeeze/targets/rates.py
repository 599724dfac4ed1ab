"""Measured speeds of a runtime, a table per kind of layer, and the time that operations take by them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import exp, log
from typing import Annotated

from annotated_types import Gt, Len
from pydantic import FiniteFloat, model_validator

from squeeze.formats.operation import Operation
from squeeze.formats.tensor_spec import Record

MOST_POINTS = 32
Positive = Annotated[FiniteFloat, Gt(0)]
Points = Annotated[tuple[Positive, ...], Len(1, MOST_POINTS)]


class Rates(Record):
    """Multiply-accumulates per second of one kind of layer.

    Args:
        channels, places: The sizes that were measured, rising; as in :class:`Operation`.
        macs_per_s: A row per number of channels, a figure per number of places; null: not measured.
    """

    channels: Points
    places: Points
    macs_per_s: Annotated[tuple[Annotated[tuple[Positive | None, ...], Len(1, MOST_POINTS)], ...], Len(1, MOST_POINTS)]

    @model_validator(mode="after")
    def _whole(self) -> Rates:
        rows = self.macs_per_s
        if len(rows) != len(self.channels) or any(len(row) != len(self.places) for row in rows):
            raise ValueError(f"macs_per_s should have {len(self.channels)} rows of {len(self.places)}")
        if any(row[0] is None for row in rows) or not (_rises(self.channels) and _rises(self.places)):
            raise ValueError("channels and places should rise, and each row begin with a figure")
        return self

    def at(self, channels: float, places: float) -> float:
        """Between the points, straight in logarithms; beyond them, as at the nearest."""
        along = [between(self.places, _filled(row), places) for row in self.macs_per_s]
        return between(self.channels, along, channels)


class Speeds(Record):
    """Something per second, by size: numbers of an operator without products, bytes of memory."""

    sizes: Points
    per_s: Points

    @model_validator(mode="after")
    def _whole(self) -> Speeds:
        if len(self.sizes) != len(self.per_s) or not _rises(self.sizes):
            raise ValueError("sizes should rise, with a figure in per_s for each")
        return self

    def seconds(self, size: float) -> float:
        """As long as the smallest size, at least: an operator's own cost."""
        size = max(size, self.sizes[0])
        return size / between(self.sizes, self.per_s, size)


class Measured(Record):
    """One format of files in its runtime on one host.

    Args:
        source: Who measured it, when, with which versions.
        threads: That it was measured with.
        call_s: What a call of the runtime takes beside its operators.
        rates: By kind and numbers, such as ``conv int8``.
        elements: The same of operators without products.
    """

    source: Annotated[str, Len(8, 300)]
    threads: Annotated[int, Gt(0)]
    call_s: Positive
    rates: Annotated[dict[str, Rates], Len(1, 64)]
    elements: Annotated[dict[str, Speeds], Len(1, 64)]

    def seconds(self, operations: Sequence[Operation], memory: Speeds) -> float | None:
        """Of all of them, one after the other; None where a kind was not measured.

        A product takes as long as its kernel, or as memory takes to bring its weights, whichever is longer: how fast
        that is depends on whether all weights together stay in a cache.
        """
        total, stored = self.call_s, sum(one.weight_bytes for one in operations)
        for one in operations:
            name = f"{one.kind} {one.numbers}"
            if one.macs and name in self.rates:
                rate = self.rates[name].at(one.channels, one.places)
                transfer = one.weight_bytes / between(memory.sizes, memory.per_s, stored) if stored else 0.0
                total += max(one.macs / rate, transfer)
            elif not one.macs and name in self.elements:
                total += self.elements[name].seconds(one.values)
            else:
                return None
        return total


def between(points: Sequence[float], values: Sequence[float], place: float) -> float:
    """The value at a place, straight in logarithms between points, the nearest beyond them."""
    if place <= points[0]:
        return values[0]
    for index in range(1, len(points)):
        if place <= points[index]:
            share = log(place / points[index - 1]) / log(points[index] / points[index - 1])
            return exp(log(values[index - 1]) + share * log(values[index] / values[index - 1]))
    return values[-1]


def _filled(row: Sequence[float | None]) -> list[float]:
    """What was not measured is as the point before."""
    values: list[float] = []
    for value in row:
        values.append(values[-1] if value is None else value)
    return values


def _rises(points: Sequence[float]) -> bool:
    return all(low < high for low, high in pairwise(points))
