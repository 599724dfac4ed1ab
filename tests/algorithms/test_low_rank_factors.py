"""Low rank as algebra: what is found exactly, what fitting to outputs adds, how ranks are spread."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from squeeze.algorithms.low_rank import Spectrum, fit_factors, ranks_within, spectrum
from squeeze.algorithms.moments import Moments

IN, OUT = 24, 16


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def correlated(tokens: int = 3000) -> Tensor:
    """Inputs that have much in common, and a mean."""
    return (normal(tokens, 5, seed=1) @ normal(5, IN, seed=2) + 0.3 * normal(tokens, IN, seed=3)).relu()


def moments(X: Tensor, Y: Tensor) -> Moments:
    sums = Moments(X.shape[1], Y.shape[1])
    for x, y in zip(torch.split(X, 700), torch.split(Y, 700), strict=True):
        sums.add(x, y)
    return sums


def test_a_matrix_of_that_rank_is_found_exactly() -> None:
    W, X = normal(OUT, 3) @ normal(3, IN, seed=1), correlated()
    factors = fit_factors(W, moments(X, X @ W.t()), 3)
    torch.testing.assert_close(factors.second @ factors.first, W, atol=1e-3, rtol=1e-3)
    assert factors.errors[-1] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_fitting_beats_the_nearest_matrix_where_it_counts_the_output(rank: int) -> None:
    W, X = normal(OUT, IN), correlated()
    Y = X @ W.t() + 2
    factors = fit_factors(W, moments(X, Y), rank)
    made = X @ factors.first.t() @ factors.second.t() + factors.bias
    missed = (made - Y).square().sum() / (Y - Y.mean(0)).square().sum()
    assert factors.errors[-1] == pytest.approx(float(missed), rel=1e-2, abs=1e-4)
    assert factors.errors[-1] < 0.9 * factors.errors[0]
    torch.testing.assert_close(made.mean(0), Y.mean(0), atol=1e-2, rtol=1e-3)


def test_a_layer_behind_changed_ones_aims_at_the_outputs_that_it_had() -> None:
    """Its inputs are no longer the original's; least squares makes up for a part of that."""
    W, X = normal(OUT, IN), correlated()
    changed = X + 0.5 * X.roll(1, 1)
    aimed = fit_factors(W, moments(changed, X @ W.t()), 8)
    copied = fit_factors(W, moments(changed, changed @ W.t()), 8)
    made = [changed @ one.first.t() @ one.second.t() + one.bias for one in (aimed, copied)]
    errors = [float((one - X @ W.t()).square().sum()) for one in made]
    assert errors[0] < 0.5 * errors[1]


def test_the_spectrum_is_the_share_of_variance_that_each_rank_explains() -> None:
    W, X = normal(OUT, IN), correlated()
    sums = moments(X, X @ W.t())
    values = spectrum(W, sums).values
    assert float(values.sum()) == pytest.approx(1, abs=1e-3)
    for rank in (2, 5):
        assert fit_factors(W, sums, rank).errors[-1] == pytest.approx(1 - float(values[:rank].sum()), abs=2e-3)


def test_ranks_go_where_a_parameter_explains_most_and_are_paid_for() -> None:
    even, steep = Spectrum(torch.full((16,), 1 / 16), 32, 256), Spectrum(0.5 ** torch.arange(1.0, 17), 32, 256)
    ranks = ranks_within({"even": even, "steep": steep}, 320, 1)
    assert ranks["steep"] > 2
    assert sum(rank * 32 for rank in ranks.values()) + (256 if "even" not in ranks else 0) <= 320


def test_a_layer_whose_ranks_would_cost_as_much_as_its_matrix_stays_whole() -> None:
    even, steep = Spectrum(torch.full((16,), 1 / 16), 32, 256), Spectrum(0.1 ** torch.arange(1.0, 17), 32, 256)
    assert set(ranks_within({"even": even, "steep": steep}, 400, 1)) == {"steep"}


@pytest.mark.parametrize("align", [1, 4, 8])
def test_ranks_are_multiples_and_at_least_one_of_them(align: int) -> None:
    steep = Spectrum(0.5 ** torch.arange(1.0, 17), 32, 512)
    ranks = ranks_within({"a": steep, "b": steep}, 700, align)
    assert all(rank % align == 0 and rank > 0 for rank in ranks.values())


def test_what_is_not_finite_cannot_be_fitted_to() -> None:
    W, X = normal(OUT, IN), correlated()
    X[0, 0] = torch.inf
    with pytest.raises(Exception, match="inputs or outputs are not finite; nothing can be fitted to them"):
        fit_factors(W, moments(X, X @ W.t()), 2)
