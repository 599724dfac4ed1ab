"""Learning-rate schedules as factors of the highest rate, ``progress`` from 0 (first step) to 1 (past the last)."""

from __future__ import annotations

import math


def constant(progress: float, warm_up: float) -> float:
    """Rises over ``warm_up``, then stays."""
    return _rising(progress, warm_up)


def cosine(progress: float, warm_up: float) -> float:
    """Rises over ``warm_up``, then falls to 0 along half a cosine: Loshchilov & Hutter, 2016, arXiv 1608.03983."""
    if progress < warm_up:
        return _rising(progress, warm_up)
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def one_cycle(progress: float, warm_up: float) -> float:
    """Rises from 1/25 and falls to 1/10,000, both along half a cosine: Smith & Topin, 2017, arXiv 1708.07120."""
    if progress < warm_up:
        return _between(1 / 25, 1, progress / warm_up)
    return _between(1, 1e-4, (progress - warm_up) / (1 - warm_up))


def _rising(progress: float, warm_up: float) -> float:
    return min(1.0, progress / warm_up) if warm_up else 1.0


def _between(first: float, last: float, share: float) -> float:
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * share))
