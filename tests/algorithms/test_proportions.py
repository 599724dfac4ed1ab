"""Shares: intervals that hold what published tables and a search by hand give, and two that agree about no change."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from squeeze.algorithms.proportions import design_effect, paired_ratio, paired_shares, share, tango, wilson

Z = 1.959963984540054


def test_wilson_s_interval_of_81_in_263_is_the_published_one() -> None:
    """Newcombe, 1998, Statistics in Medicine 17, 857: 0.2553 to 0.3662."""
    assert wilson(81, 263, Z) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20, Z) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_no_pair_that_differs_still_has_an_interval() -> None:
    """50 examples, none gained and none lost: the truth may be 7.1 points off."""
    assert tango(0, 0, 50, Z) == pytest.approx((-0.0713, 0.0713), abs=5e-5)


def test_the_interval_of_a_difference_turns_around_with_new_and_old() -> None:
    low, high = tango(9, 1, 44, Z)
    assert 0 < low < 8 / 44 < high
    assert tango(1, 9, 44, Z) == pytest.approx((-high, -low))


def restricted(both: int, gained: int, lost: int, ratio: float) -> float:
    """The score statistic with the likeliest shares found by search, not by formula."""

    def surprise(v: float) -> float:
        w, u = 1 - ratio + ratio * v, ratio - (1 + ratio) * v
        return -float(both * np.log(u) + gained * np.log(v) + lost * np.log(w))

    bounds = (max(0.0, (ratio - 1) / ratio) + 1e-12, ratio / (1 + ratio) - 1e-12)
    v = minimize_scalar(surprise, bounds=bounds, method="bounded", options={"xatol": 1e-13}).x
    spread = ratio * (both + gained + lost) * (v + 1 - ratio + ratio * v)
    return float((both + gained - ratio * (both + lost)) / np.sqrt(spread))


def test_both_ends_of_a_ratio_are_where_the_score_test_says() -> None:
    low, high = paired_ratio(30, 5, 9, Z)
    assert restricted(30, 5, 9, low) == pytest.approx(Z, abs=1e-4)
    assert restricted(30, 5, 9, high) == pytest.approx(-Z, abs=1e-4)


def test_difference_and_ratio_exclude_no_change_together() -> None:
    for gained in range(20):
        difference, ratio = tango(gained, 4, 60, Z), paired_ratio(30, gained, 4, Z)
        assert difference.excludes(0) == ratio.excludes(1)


def test_a_share_of_nothing_has_no_ratio() -> None:
    result = paired_shares(np.array([True, False] * 10), np.zeros(20, dtype=bool))
    assert (result.ratio, result.ratio_interval()) == (None, None)


def test_copies_of_an_example_count_once() -> None:
    values = np.random.default_rng(0).random(40) < 0.8
    once, copied = share(values), share(np.repeat(values, 50), np.repeat(np.arange(40), 50))
    assert copied.value == once.value
    low, high = copied.interval()
    assert high - low == pytest.approx(once.interval().high - once.interval().low, rel=0.1)


def test_examples_that_are_alone_in_their_unit_change_nothing() -> None:
    values = np.random.default_rng(0).random(40) < 0.8
    assert share(values, np.arange(40)).interval() == share(values).interval()
    assert design_effect(values.astype(float), np.arange(40)) == 1
