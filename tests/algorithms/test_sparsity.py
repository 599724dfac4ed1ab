"""Sparse weights as algebra: the number of zeros, the correction of the remaining weights, and the paper's formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from squeeze.algorithms.hessian import hessian_loss
from squeeze.algorithms.sparsegpt import sparsegpt
from squeeze.algorithms.sparsity import Sparsity, smallest, sparsity_fault
from squeeze.algorithms.wanda import magnitude, wanda

HALF, TWO_OF_FOUR = Sparsity(0.5), Sparsity(pattern=(2, 4))
OUT, IN = 24, 160  # more than one block of columns


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def hessian() -> Tensor:
    """Of correlated inputs with very different norms."""
    X = normal(600, 30, seed=1) @ normal(30, IN, seed=2) / 5 + normal(600, IN, seed=3)
    X *= torch.logspace(-1, 1, IN)[torch.randperm(IN, generator=torch.Generator().manual_seed(4))]
    return X.t() @ X / len(X)


def loss(W: Tensor, sparse: Tensor, H: Tensor) -> float:
    return float(hessian_loss(sparse - W, H).sum())


@pytest.mark.parametrize("sparsity", [HALF, TWO_OF_FOUR], ids=["half", "2:4"])
def test_sparsegpt_loses_less_output_than_wanda_and_wanda_less_than_magnitude(sparsity: Sparsity) -> None:
    W, H = normal(OUT, IN), hessian()
    losses = [
        loss(W, sparse, H) for sparse in (sparsegpt(W, H, sparsity), wanda(W, H, sparsity), magnitude(W, sparsity))
    ]
    assert losses == sorted(losses)
    assert losses[0] < 0.95 * losses[1] < 0.95 * losses[2]


@pytest.mark.parametrize("sparsity", [Sparsity(0.3), HALF, TWO_OF_FOUR], ids=["0.3", "half", "2:4"])
def test_every_method_reaches_the_goal(sparsity: Sparsity) -> None:
    W, H = normal(OUT, IN), hessian()
    for sparse in (sparsegpt(W, H, sparsity), wanda(W, H, sparsity), magnitude(W, sparsity)):
        assert int((sparse == 0).sum()) == round(sparsity.share * W.numel())
        assert sparsity_fault(sparse, W, sparsity) is None


def test_sparsegpt_corrects_the_later_columns_by_the_papers_update() -> None:
    """Three columns, one row: the first is removed, the others are corrected by the inverse Hessian's first row."""
    H = torch.tensor([[2.0, 0.8, 0.3], [0.8, 3.0, 0.5], [0.3, 0.5, 4.0]])
    W = torch.tensor([[0.01, 2.0, 3.0]])
    sparse = sparsegpt(W, H, Sparsity(1 / 3), damping=1e-9)
    inverse = torch.linalg.inv(H)
    expected = W - W[0, 0] / inverse[0, 0] * inverse[0]
    torch.testing.assert_close(sparse, expected, atol=1e-6, rtol=1e-5)


def test_wanda_keeps_a_small_weight_whose_input_is_large() -> None:
    W, H = torch.tensor([[0.5, 1.0, 2.0, 3.0]]), torch.diag(torch.tensor([100.0, 1.0, 0.04, 1.0]))
    assert wanda(W, H, HALF).tolist() == [[0.5, 0, 0, 3.0]]
    assert magnitude(W, HALF).tolist() == [[0, 0, 2.0, 3.0]]


def test_two_of_four_are_chosen_group_by_group() -> None:
    scores = torch.tensor([[1.0, 2, 3, 4, 50, 60, 70, 80]])
    assert smallest(scores, TWO_OF_FOUR).tolist() == [[True, True, False, False] * 2]


def test_a_weight_that_is_not_sparse_enough_or_too_sparse_is_a_fault() -> None:
    W = normal(8, 16)
    assert sparsity_fault(W, W, TWO_OF_FOUR) == "32 groups of 4 with fewer than 2 zeros"
    assert sparsity_fault(W, W, HALF) == "0 zeros of 128 weights"
    assert sparsity_fault(torch.zeros(8, 16), W, HALF) == "128 zeros of 128 weights"
    assert sparsity_fault(torch.zeros(8, 16), torch.zeros(8, 16), HALF) is None
