"""How long work will take: counted from shapes, at speeds of this host that are measured in a fraction of a second.

Three kinds of work are told apart, since no one rate holds for all: products of matrices, steps that read and write
every number once, and calls of operators so small that the call itself is what takes time. How often a step is done
was fitted, once, on random Llamas of 192 and 448 channels and on MobileNetV1, whose runs then took 0.5 to 1.9 times
what is counted: hence :data:`LOW` and :data:`HIGH`. Start-up and clocks are not counted; ``benchmarks/foretold.py``
shows how far the estimates are off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

import torch

from squeeze.algorithms.hessian import bf16_products
from squeeze.evaluate.latency import median_seconds

LOW, HIGH = 0.6, 2.0  # of the counted time
USUAL_WIDTH = 128  # input channels of a sum, where nobody counts them: 16 channels and 9 places of a kernel are 144
ROWS = 512  # of the measured products
WIDTHS = (32, 128, 512)  # inputs and outputs of the measured products
VALUES = 1 << 20  # of the measured step: 4 MB
FEW = 32  # numbers of the measured call
CALLS = 100
WINDOW_S, LEAST_CALLS = 0.04, 5  # how long each is measured; the median counts, since a run meets the same neighbours
BILLION = 1e9


@dataclass(frozen=True)
class Work:
    """What a pass or a scoring does.

    Args:
        products: Multiply-accumulates, by the input channels that each sum is over.
        values: Numbers that steps without products read and write.
        calls: Operators on a few numbers, one after the other.
        alone: As ``values``, of steps that one thread takes, whatever the plan says: numpy, pictures.
        rounded: Multiply-accumulates of wide sums whose factors may be rounded to bfloat16.
    """

    products: Mapping[int, float] = field(default_factory=dict)
    values: float = 0.0
    calls: float = 0.0
    alone: float = 0.0
    rounded: float = 0.0

    def __add__(self, other: Work) -> Work:
        widths = sorted({*self.products, *other.products})
        products = {width: self.products.get(width, 0) + other.products.get(width, 0) for width in widths}
        alone, rounded = self.alone + other.alone, self.rounded + other.rounded
        return Work(products, self.values + other.values, self.calls + other.calls, alone, rounded)

    def times(self, factor: float) -> Work:
        products = {width: factor * macs for width, macs in self.products.items()}
        single = factor * self.values, factor * self.calls, factor * self.alone, factor * self.rounded
        return Work(products, *single)


WRITTEN_BLOCK = Work(calls=20_000)  # Python, files and hashes for each block of a language model that is written


@dataclass(frozen=True)
class Amount:
    """Data that goes through a model, as far as a plan says how much it is.

    Args:
        examples: Or sequences of text.
        length: Tokens of each; of what is no text, 1.
    """

    examples: int
    length: int = 1

    @property
    def tokens(self) -> int:
        return self.examples * self.length


@dataclass(frozen=True)
class HostSpeed:
    """Of this host, by as many threads as were asked for.

    Args:
        macs_per_s: By the width of the product; between two, and beyond, that of the nearest below is taken.
    """

    macs_per_s: Mapping[int, float]
    values_per_s: float
    calls_per_s: float
    alone_per_s: float = 1.0
    rounded_per_s: float = 1.0

    def seconds(self, work: Work) -> tuple[float, float]:
        """The least and the most that it will take."""
        products = sum(macs / self.macs_per_s[_below(width)] for width, macs in work.products.items())
        products += work.rounded / self.rounded_per_s
        steps = work.values / self.values_per_s + work.alone / self.alone_per_s
        counted = products + steps + work.calls / self.calls_per_s
        return LOW * counted, HIGH * counted


def _below(width: int) -> int:
    return max((one for one in WIDTHS if one <= width), default=WIDTHS[0])


@cache
def host_speed(threads: int) -> HostSpeed:
    """Measure this host, once in a process."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        macs = {width: ROWS * width * width / _typical(_product(width)) for width in WIDTHS}
        with bf16_products():
            rounded = ROWS * WIDTHS[-1] ** 2 / _typical(_product(WIDTHS[-1]))
        values, calls = VALUES / _typical(_step()), CALLS / _typical(_calls())
        torch.set_num_threads(1)
        return HostSpeed(macs, values, calls, VALUES / _typical(_step()), rounded)
    finally:
        torch.set_num_threads(before)


def _product(width: int) -> Callable[[], object]:
    values, weights = torch.ones(ROWS, width), torch.ones(width, width)
    return lambda: torch.nn.functional.linear(values, weights)


def _step() -> Callable[[], object]:
    values, out = torch.ones(VALUES), torch.empty(VALUES)
    return lambda: torch.sigmoid(values, out=out)


def _calls() -> Callable[[], object]:
    values = torch.ones(FEW)
    return lambda: [values.mul_(1.0) for _ in range(CALLS)]


def _typical(call: Callable[[], object]) -> float:
    """Seconds of one call, the median of as many as fit."""
    call()
    return max(median_seconds(call, WINDOW_S, LEAST_CALLS), 1 / BILLION)
