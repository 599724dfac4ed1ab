"""A curve that never falls, through measurements that do."""

from __future__ import annotations

import numpy as np

from squeeze.algorithms.monotone import rising_curve


def test_what_rises_is_met_and_straight_in_between() -> None:
    curve = rising_curve([0, 10, 20], [1.0, 2.0, 4.0])
    assert [curve(place) for place in (0, 5, 10, 15, 20, 30)] == [1, 1.5, 2, 3, 4, 4]


def test_a_measurement_that_falls_is_shared_with_its_neighbour() -> None:
    curve = rising_curve([0, 1, 2, 3], [1.0, 3.0, 2.0, 4.0])
    assert [curve(place) for place in range(4)] == [1, 2.5, 2.5, 4]


def test_noise_leaves_a_line_near_itself() -> None:
    places = np.linspace(0, 1, 9)
    noisy = places + 0.05 * np.random.default_rng(0).standard_normal(9)
    curve = rising_curve(places.tolist(), noisy.tolist())
    assert np.all(np.diff([curve(place) for place in np.linspace(0, 1, 50)]) >= 0)
    assert max(abs(curve(place) - place) for place in places) < 0.12
