"""Hessians: the sums are those of the textbook, and factors multiply back."""

import pytest
import torch

from squeeze.algorithms.cholesky import cholesky_
from squeeze.algorithms.factor import factorize
from squeeze.algorithms.hessian import Hessian, bf16_products, hessian_loss
from squeeze.errors import ShapeError, SqueezeError


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("channels", [40, 600], ids=["one tile", "two tiles"])
def test_batches_add_up_to_the_product_of_all_tokens(dtype, channels):
    X = (normal(7, 30, channels) + 0.5).to(dtype)
    hessian = Hessian(channels)
    for batch in X.split(3):
        hessian.add(batch)
    tokens = X.reshape(-1, channels).double()
    assert hessian.tokens == 210
    H = hessian.matrix()
    torch.testing.assert_close(H.double(), tokens.T @ tokens / 210, rtol=1e-4, atol=1e-4)
    assert torch.equal(H, H.T)


@pytest.fixture
def _int8(monkeypatch):
    """As on a CPU that multiplies int8 best; on others the same sums come a little later."""
    monkeypatch.setattr("squeeze.algorithms.hessian.multiplies_int8", lambda: True)


def correlated(tokens: int, channels: int) -> torch.Tensor:
    return normal(tokens, 20) @ normal(20, channels, seed=1) + 0.3 * normal(tokens, channels, seed=2)


@pytest.mark.usefixtures("_int8")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_int8_products_lose_less_than_damping_adds(dtype):
    X = (correlated(1500, 600) * torch.logspace(-3, 1, 600)).to(dtype)
    hessian = Hessian(600)
    for batch in X.split(750):
        hessian.add(batch)
    H, exact = hessian.matrix(), X.double().T @ X.double() / 1500
    sizes = exact.diagonal().sqrt()
    away = (H.double() - exact) / torch.outer(sizes, sizes)
    assert float(away.abs().max()) < 2e-3
    assert float(away.abs().max()) > 1e-6, "int8 was not used"
    assert torch.equal(H, H.T)
    assert float(torch.linalg.eigvalsh(H.double() / torch.outer(sizes, sizes))[0]) > -1e-6


@pytest.mark.usefixtures("_int8")
def test_a_token_far_larger_than_the_others_does_not_coarsen_them():
    X = correlated(800, 64)
    X[[3, 700]] *= 1000
    hessian = Hessian(64)
    hessian.add(X)
    usual = torch.cat([X[:3], X[4:700], X[701:]]).double()
    large = X[[3, 700]].double()
    result = hessian.matrix().double() * 800 - large.T @ large
    expected = usual.T @ usual
    assert float((result - expected).abs().max() / expected.diagonal().max()) < 1e-2  # float32 beside 1e6 times as much


@pytest.mark.usefixtures("_int8")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_rounded_away(value):
    X = correlated(600, 16)
    X[5, 2] = value
    hessian = Hessian(16)
    hessian.add(X)
    assert not bool(torch.isfinite(hessian.matrix()).all())


@pytest.mark.usefixtures("_int8")
def test_channels_without_input_and_few_tokens_stay_as_they_are():
    X = correlated(600, 16)
    X[:, 4] = 0
    hessian = Hessian(16)
    hessian.add(X)
    hessian.add(X[:7])  # too few to have scales of their own
    H = hessian.matrix()
    assert not bool(H[4].any())
    assert hessian.tokens == 607
    assert bool(torch.isfinite(H).all())


def test_no_token_gives_zeros_and_a_wrong_width_is_refused():
    assert not Hessian(8).matrix().any()
    with pytest.raises(ShapeError, match="inputs have 7 channels, the Hessian 8"):
        Hessian(8).add(normal(3, 7))


def test_the_loss_is_the_error_of_the_outputs():
    X, error = normal(500, 24), normal(6, 24, seed=1)
    hessian = Hessian(24)
    hessian.add(X)
    outputs = X @ error.T
    torch.testing.assert_close(
        hessian_loss(error, hessian.matrix()), outputs.square().mean(dim=0), rtol=1e-4, atol=1e-4
    )


def test_products_in_bf16_end_with_their_block():
    before = torch.backends.mkldnn.matmul.fp32_precision
    with pytest.raises(ZeroDivisionError), bf16_products():
        raise ZeroDivisionError
    assert torch.backends.mkldnn.matmul.fp32_precision == before


@pytest.mark.parametrize("n", [1, 31, 64, 150])
def test_cholesky_in_place_equals_lapack(n):
    A = normal(n, 2 * n) @ normal(n, 2 * n).T + n * torch.eye(n)
    L = A.clone()
    L[torch.triu(torch.ones(n, n, dtype=torch.bool), 1)] = float("nan")  # never read
    assert cholesky_(L, panel=32)
    torch.testing.assert_close(L.tril(), torch.linalg.cholesky(A), rtol=1e-4, atol=1e-4)


def test_a_matrix_that_is_not_positive_definite_is_told():
    indefinite = torch.eye(100)
    indefinite[70, 70] = -1
    assert not cholesky_(indefinite, panel=32)
    assert not cholesky_(torch.full((8, 8), float("nan")))


@pytest.mark.parametrize("order", ["given", "act_order", "group_aware"])
def test_a_factor_multiplies_back_to_the_damped_hessian(order):
    X = normal(300, 48) * torch.linspace(0.1, 2, 48)
    H = X.T @ X / 300
    factor = factorize(H, damping=0.02, order=order, group_size=16)
    L = factor.lower.tril()
    damped = H + factor.added * torch.eye(48)
    torch.testing.assert_close(L @ L.T, damped[factor.columns][:, factor.columns], rtol=1e-4, atol=1e-5)
    assert factor.damping == 0.02
    assert factor.added == pytest.approx(0.02 * float(H.diagonal().mean()), rel=1e-5)
    assert sorted(factor.columns.tolist()) == list(range(48))


def test_damping_rises_until_the_factorization_succeeds_and_says_so():
    H = torch.eye(32)
    H[0, 1] = H[1, 0] = 1.5  # eigenvalue -0.5
    assert factorize(H, damping=0.01).damping == pytest.approx(1.0)


def test_a_hessian_of_no_use_is_refused():
    with pytest.raises(SqueezeError, match="no Cholesky factor, even with damping"):
        factorize(torch.eye(8) - 1e12 * (1 - torch.eye(8)))
    with pytest.raises(SqueezeError, match="Hessian holds values that are not finite"):
        factorize(torch.full((8, 8), float("nan")))


def test_group_aware_order_keeps_groups_whole_and_the_largest_inputs_first():
    H = torch.diag(torch.tensor([1.0, 2.0, 9.0, 4.0, 3.0, 3.5, 0.0, 5.0]))
    first_to_last = factorize(H, order="group_aware", group_size=2).columns.flip(0).tolist()
    assert first_to_last == [2, 3, 5, 4, 7, 6, 1, 0]
    assert factorize(H, order="act_order").columns.flip(0).tolist() == [2, 7, 3, 5, 4, 1, 0, 6]
    assert factorize(H).dead == 1
