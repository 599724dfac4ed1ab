"""A curve that never falls, through measurements that do: isotonic regression, straight between the places.

Barlow et al., 1972, "Statistical Inference under Order Restrictions"; by pools of adjacent violators, as SciPy has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def rising_curve(places: Sequence[float], measured: Sequence[float]) -> Callable[[float], float]:
    """The rising curve nearest to the measurements, by squares.

    Args:
        places: Where they were taken, rising.
    """
    from scipy.optimize import isotonic_regression  # takes a while to load, and few plans need it

    values = isotonic_regression(np.asarray(measured, np.float64)).x
    return lambda place: float(np.interp(place, places, values))
