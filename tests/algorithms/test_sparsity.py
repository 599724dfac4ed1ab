"""Sparse weights as algebra: how many are zero, who makes up for them, and that a reader of the paper would agree."""

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
    """Of inputs that have much in common and very different lengths."""
    X = normal(600, 30, seed=1) @ normal(30, IN, seed=2) / 5 + normal(600, IN, seed=3)
    X *= torch.logspace(-1, 1, IN)[torch.randperm(IN, generator=torch.Generator().manual_seed(4))]
    return X.t() @ X / len(X)


def loss(W: Tensor, sparse: Tensor, H: Tensor) -> float:
    return float(hessian_loss(sparse - W, H).sum())


@pytest.mark.parametrize("sparsity", [HALF, TWO_OF_FOUR], ids=["half", "2:4"])
def test_sparsegpt_loses_less_output_than_wanda_and_wanda_less_than_magnitude(sparsity: Sparsity) -> None:
    W, H = normal(OUT, IN), hessian()
    losses = [loss(W, made, H) for made in (sparsegpt(W, H, sparsity), wanda(W, H, sparsity), magnitude(W, sparsity))]
    assert losses == sorted(losses)
    assert losses[0] < 0.95 * losses[1] < 0.95 * losses[2]


@pytest.mark.parametrize("sparsity", [Sparsity(0.3), HALF, TWO_OF_FOUR], ids=["0.3", "half", "2:4"])
def test_every_method_leaves_the_zeros_that_were_asked_for(sparsity: Sparsity) -> None:
    W, H = normal(OUT, IN), hessian()
    for made in (sparsegpt(W, H, sparsity), wanda(W, H, sparsity), magnitude(W, sparsity)):
        assert int((made == 0).sum()) == round(sparsity.share * W.numel())
        assert sparsity_fault(made, W, sparsity) is None


def test_what_sparsegpt_does_to_the_last_columns_is_the_papers_update() -> None:
    """Three columns, one row: the first leaves and the others answer by the inverse Hessian's own row."""
    H = torch.tensor([[2.0, 0.8, 0.3], [0.8, 3.0, 0.5], [0.3, 0.5, 4.0]])
    W = torch.tensor([[0.01, 2.0, 3.0]])
    made = sparsegpt(W, H, Sparsity(1 / 3), damping=1e-9)
    inverse = torch.linalg.inv(H)
    expected = W - W[0, 0] / inverse[0, 0] * inverse[0]
    torch.testing.assert_close(made, expected, atol=1e-6, rtol=1e-5)


def test_wanda_keeps_a_small_weight_whose_input_is_large() -> None:
    W, H = torch.tensor([[0.5, 1.0, 2.0, 3.0]]), torch.diag(torch.tensor([100.0, 1.0, 0.04, 1.0]))
    assert wanda(W, H, HALF).tolist() == [[0.5, 0, 0, 3.0]]
    assert magnitude(W, HALF).tolist() == [[0, 0, 2.0, 3.0]]


def test_two_of_four_are_judged_group_by_group() -> None:
    scores = torch.tensor([[1.0, 2, 3, 4, 50, 60, 70, 80]])
    assert smallest(scores, TWO_OF_FOUR).tolist() == [[True, True, False, False] * 2]


def test_a_weight_that_is_not_sparse_enough_or_too_sparse_is_told() -> None:
    W = normal(8, 16)
    assert sparsity_fault(W, W, TWO_OF_FOUR) == "left 32 groups of 4 with fewer than 2 zeros"
    assert sparsity_fault(W, W, HALF) == "left 0 zeros of 128 weights"
    assert sparsity_fault(torch.zeros(8, 16), W, HALF) == "left 128 zeros of 128 weights"
    assert sparsity_fault(torch.zeros(8, 16), torch.zeros(8, 16), HALF) is None
