"""Drift: the weight that is quantized in place of the given one has the outputs that the original had."""

from __future__ import annotations

import pytest
import torch

from squeeze.algorithms.drift import Drift, moved
from squeeze.algorithms.factor import factorize


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = normal(500, 24, seed=1) @ normal(24, 24, seed=2)
ORIGINAL = X + 0.1 * normal(500, 24, seed=3) @ normal(24, 24, seed=4) + 0.1 * X


@pytest.mark.parametrize("order", ["given", "group_aware"])
@pytest.mark.parametrize("rows", [8, 40], ids=["fewer rows than columns", "more"])
def test_the_moved_weight_is_the_least_squares_one(rows: int, order: str) -> None:
    W = normal(rows, 24)
    drift = Drift(W)
    for part in (slice(0, 200), slice(200, 500)):
        drift.add(ORIGINAL[part], X[part])
    factor = factorize(X.T @ X / len(X), 1e-7, order, 4)  # type: ignore[arg-type]
    best = torch.linalg.lstsq(X.double(), (ORIGINAL @ W.T).double()).solution.T.float()
    torch.testing.assert_close(moved(W, drift.pull(), factor), best, atol=5e-3, rtol=1e-3)
    assert (best - W).abs().max() > 0.3


def test_the_stream_is_made_up_for_where_it_is_the_target() -> None:
    W, away = normal(8, 24), X @ normal(24, 8, seed=5)
    drift = Drift(W, stream=True)
    drift.add_stream(away, X)
    new = moved(W, drift.pull(), factorize(X.T @ X / len(X), 1e-7))
    torch.testing.assert_close(X @ (new - W).T, away, atol=2e-2, rtol=1e-3)


def test_without_drift_the_weight_stays() -> None:
    W = normal(40, 24)
    drift = Drift(W)
    drift.add(X, X)
    assert torch.equal(moved(W, drift.pull(), factorize(X.T @ X / len(X))), W)
