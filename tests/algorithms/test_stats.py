import numpy as np
import pytest

from squeeze.algorithms.stats import Interval, bootstrap_means, mcnemar_exact, percentile_interval, ratio_of_medians


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_the_bootstrap_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    values = normal(400, 1)
    low, high = percentile_interval(bootstrap_means(values)[:, 0])
    expected = 2 * 1.96 * values.std() / np.sqrt(400)
    assert high - low == pytest.approx(expected, rel=0.05)


def test_pairing_makes_the_interval_of_a_small_shift_exclude_zero() -> None:
    before = normal(300, 1)
    after = before + 0.02 + 0.01 * normal(300, 1, seed=1)
    means = bootstrap_means(np.hstack([before, after]))
    assert percentile_interval(means[:, 1] - means[:, 0]).excludes(0)
    alone = percentile_interval(means[:, 1])
    assert alone.low < before.mean() < alone.high  # unpaired, the shift is lost in the noise


def test_columns_are_resampled_together_whatever_stands_beside_them() -> None:
    a, b = normal(50, 1), normal(50, 1, seed=1)
    alone, beside = bootstrap_means(a)[:, 0], bootstrap_means(np.hstack([a, b]))[:, 0]
    assert np.allclose(alone, beside, rtol=0, atol=1e-12)


def test_chunks_do_not_change_the_mean_of_the_resamples() -> None:
    values = normal(5_000, 1)  # more than one chunk of weights
    assert bootstrap_means(values).mean() == pytest.approx(values.mean(), abs=1e-3)


def test_the_interval_covers_the_truth_about_as_often_as_it_claims() -> None:
    hits = 0
    for seed in range(200):
        interval = percentile_interval(bootstrap_means(normal(80, 1, seed=seed), resamples=500, seed=seed)[:, 0])
        hits += not interval.excludes(0.0)
    assert 180 <= hits <= 198  # 95 % of 200, within what chance allows


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (0, 6, 2 / 64), (1, 9, 22 / 1024)],
    ids=["no disagreement", "balanced", "all lost", "mostly lost"],
)
def test_mcnemar_gives_the_exact_binomial_p(gained: int, lost: int, p: float) -> None:
    before = np.array([False] * gained + [True] * lost + [True] * 10)
    after = np.array([True] * gained + [False] * lost + [True] * 10)
    assert mcnemar_exact(before, after) == pytest.approx(p)


def test_the_ratio_of_medians_finds_the_speed_up_under_noise() -> None:
    one, two = np.abs(normal(2, 200)) * 0.1
    ratio, interval = ratio_of_medians(1.0 + one, 2.0 + 2 * two)
    assert ratio == pytest.approx(0.5, rel=0.02)
    assert 0.48 < interval.low < 0.5 < interval.high < 0.52


def test_an_interval_excludes_what_lies_outside() -> None:
    assert Interval(0.1, 0.2).excludes(0.0)
    assert not Interval(-0.1, 0.2).excludes(0.0)
