"""Intervals of means: as wide as theory says, honest where units are few, and the same bytes always."""

from __future__ import annotations

import numpy as np
import pytest
from by_threads import printed_by_threads

from squeeze.algorithms.stats import MOST_UNITS, Interval, Studentized, mean_by_unit, ratio_by_unit, ratio_of_medians


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def interval(result: Studentized, level: float = 0.95) -> Interval:
    ends = result.interval(level)
    assert ends is not None
    return ends


def test_the_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    values = normal(400)
    low, high = interval(mean_by_unit(values))
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(400), rel=0.05)


def test_few_units_get_at_least_student_s_interval() -> None:
    values = normal(12)
    low, high = interval(mean_by_unit(values))
    assert high - low >= 2 * 2.2010 * values.std(ddof=1) / np.sqrt(12) * 0.9999  # t with 11 degrees of freedom


def test_one_unit_tells_nothing_of_the_others() -> None:
    assert mean_by_unit(np.array([1.0])).interval() is None
    assert mean_by_unit(normal(50), np.zeros(50, dtype=np.int64)).interval() is None


def test_values_whose_third_powers_no_float_holds_have_an_interval() -> None:
    """As those of a KL of nearly nothing are."""
    values = np.exp(normal(30))
    tiny, usual = interval(mean_by_unit(values * 2.0**-360)), interval(mean_by_unit(values))
    assert np.multiply(tiny, 2.0**360) == pytest.approx(usual)


def test_more_confidence_is_never_a_narrower_interval() -> None:
    estimate = mean_by_unit(np.exp(normal(25)))
    ends = [interval(estimate, level) for level in (0.9, 0.95, 0.99, 0.995)]
    assert sorted(ends, key=lambda end: end.high - end.low) == ends


def test_the_long_tail_has_the_longer_side() -> None:
    estimate = mean_by_unit(np.exp(normal(30)))
    low, high = interval(estimate)
    assert high - estimate.value > 1.5 * (estimate.value - low)


def test_copies_in_one_unit_do_not_narrow_the_interval() -> None:
    values, units = np.repeat(normal(30), 50), np.repeat(np.arange(30), 50)
    once, many = interval(mean_by_unit(normal(30))), interval(mean_by_unit(values, units))
    assert many == pytest.approx(once)
    naive = interval(mean_by_unit(values))
    assert naive.high - naive.low < (many.high - many.low) / 5  # what it would be if copies counted


def test_documents_of_different_length_weigh_as_many_windows_as_they_have() -> None:
    units = np.repeat(np.arange(20), np.arange(1, 21))
    values = normal(len(units))
    estimate = mean_by_unit(values, units)
    assert estimate.value == pytest.approx(values.mean())
    low, high = interval(estimate)
    assert low < values.mean() < high


def test_a_ratio_of_means_is_told_without_a_resample_of_its_own() -> None:
    old = np.exp(normal(200))
    estimate = ratio_by_unit(1.1 * old, old)
    assert estimate.value == pytest.approx(1.1)
    assert interval(estimate) == pytest.approx((1.1, 1.1))


def test_a_ratio_to_values_that_are_mostly_zero_has_an_interval() -> None:
    """A KL is exactly 0 in most examples of a faithful model: some resamples draw no other example."""
    old = np.where(np.arange(12) < 2, 1e-3, 0.0)
    ratio = ratio_by_unit(old + np.linspace(0, 1e-3, 12), old)
    interval = ratio.interval()
    assert interval is not None
    assert np.isfinite(interval).all()
    assert interval.low < ratio.value < interval.high


def test_a_great_many_units_are_pooled_without_moving_the_mean_or_the_width() -> None:
    values = normal(20 * MOST_UNITS)
    estimate = mean_by_unit(values)
    low, high = interval(estimate)
    assert estimate.value == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(len(values)), rel=0.1)


def test_the_bytes_do_not_depend_on_how_many_threads_multiply_matrices() -> None:
    """A product of matrices adds in another order when it is shared among threads; nothing here may be one."""
    code = (
        "import numpy as np; from squeeze.algorithms.stats import mean_by_unit, ratio_by_unit;"
        "v = np.random.default_rng(0).lognormal(size=3000); u = np.arange(3000) // 7;"
        "found = mean_by_unit(v), mean_by_unit(v, u), ratio_by_unit(v, v[::-1]);"
        "print([x.hex() for f in found for x in f.interval()])"
    )
    assert len(printed_by_threads(code)) == 1


def test_the_ratio_of_medians_finds_the_speed_up_under_noise() -> None:
    one, two = np.abs(normal(2, 200)) * 0.1
    ratio, ends = ratio_of_medians(1.0 + one, 2.0 + 2 * two)
    assert ratio == pytest.approx(0.5, rel=0.02)
    assert not ends.excludes(0.5)


def test_an_interval_holds_its_ends() -> None:
    assert not Interval(1.0, 2.0).excludes(1.0)
    assert Interval(1.0, 2.0).excludes(2.1)
