"""Ranges: memory stays constant, outliers are weighed, and no method is another one under a new name."""

from __future__ import annotations

import numpy as np
import pytest

from squeeze.algorithms.ranges import Histogram, choose_range, entropy, minmax, mse, percentile


def histogram_of(*batches: np.ndarray) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.add(batch)
    return histogram


def relu_with_outlier() -> Histogram:
    values = np.maximum(np.random.default_rng(0).normal(size=100_000), 0)
    return histogram_of(values, np.array([60.0]))


def squared_error(values: np.ndarray, low: float, high: float) -> float:
    scale = (high - low) / 255
    return float(((np.round(np.clip(values, low, high) / scale) * scale - values) ** 2).sum())


def test_growing_batches_keep_every_count_and_the_size_of_the_histogram() -> None:
    histogram = histogram_of(*(np.random.default_rng(i).normal(scale=4.0**i, size=1000) for i in range(6)))
    assert histogram.counts.sum() == 6000
    assert histogram.counts.size == Histogram().counts.size


def test_batches_in_another_order_give_the_same_histogram() -> None:
    small, large = np.linspace(0, 1, 500), np.linspace(-9, 9, 500)
    assert minmax(histogram_of(small, large)) == minmax(histogram_of(large, small)) == (-9.0, 9.0)
    assert np.array_equal(histogram_of(small, large).counts.sum(), histogram_of(large, small).counts.sum())


@pytest.mark.parametrize("method", ["percentile", "mse", "entropy"])
def test_no_method_is_minmax_under_another_name(method: str) -> None:
    histogram = relu_with_outlier()
    assert choose_range(histogram, method) != minmax(histogram)  # type: ignore[arg-type]


def test_mse_clips_the_outlier_because_the_rest_gains_more() -> None:
    values = np.append(np.maximum(np.random.default_rng(0).normal(size=100_000), 0), 60.0)
    low, high = mse(histogram_of(values))
    assert squared_error(values, low, high) < squared_error(values, 0, 60)


def test_mse_keeps_what_is_evenly_spread() -> None:
    low, high = mse(histogram_of(np.linspace(-1, 1, 100_001)))
    assert low == pytest.approx(-1, abs=0.02)
    assert high == pytest.approx(1, abs=0.02)


def test_percentile_leaves_out_the_share_it_says() -> None:
    low, high = percentile(histogram_of(np.linspace(-1, 1, 100_001)), 90.0)
    assert (low, high) == (pytest.approx(-0.9, abs=1e-3), pytest.approx(0.9, abs=1e-3))


def test_a_spike_of_zeros_does_not_pull_the_entropy_range_together() -> None:
    values = np.maximum(np.random.default_rng(0).normal(size=50_000), 0)
    few = entropy(histogram_of(values))
    many = entropy(histogram_of(values, np.zeros(500_000)))
    assert many == few


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "entropy"])
def test_an_activation_that_is_always_zero_has_an_empty_range(method: str) -> None:
    assert choose_range(histogram_of(np.zeros(100)), method) == (0.0, 0.0)  # type: ignore[arg-type]
