"""Rounding on a layer's own inputs: nearer to the float layer than each weight's nearest integer is."""

from __future__ import annotations

import torch
from torch import Tensor

from squeeze.algorithms.affine import quantize_symmetric
from squeeze.algorithms.rounding import round_on_inputs


def inputs(seed: int, tokens: int = 4096, columns: int = 24) -> Tensor:
    """``[tokens, columns]`` behind a ReLU: positive, and neighbours are alike."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns // 4, columns, generator=torch.Generator().manual_seed(9))
    noise = torch.randn(tokens, columns, generator=generator)
    return torch.relu(torch.randn(tokens, columns // 4, generator=generator) @ mix + noise / 2)


def weight(rows: int = 16, columns: int = 24) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(5))


def spread(error: Tensor) -> float:
    """Squared error of outputs ``[tokens, out]``, without what a bias makes up for."""
    return float((error - error.mean(dim=0)).square().mean())


def test_outputs_on_unseen_inputs_are_nearer_than_with_each_weight_rounded_to_nearest() -> None:
    X, unseen, W = inputs(0), inputs(1), weight()
    nearest, solved = quantize_symmetric(W, 4), round_on_inputs(W, X, X, 4)
    near, solve = (spread(unseen @ (grid.dequantize() - W).t()) for grid in (nearest, solved))
    assert solve < near / 2


def test_a_weight_makes_up_for_what_its_inputs_lost_upstream() -> None:
    """Inputs arrive an eighth too small: the weight takes up a part of it, which rounding alone cannot."""
    X, W = inputs(0), weight()
    given = X * 0.875
    towards_float, towards_given = round_on_inputs(W, given, X, 8), round_on_inputs(W, given, given, 8)
    toward, apart = (spread(given @ grid.dequantize().t() - X @ W.t()) for grid in (towards_float, towards_given))
    assert toward < 0.8 * apart


def test_integers_and_scales_are_what_phones_kernels_take() -> None:
    grid = round_on_inputs(weight(), inputs(0), inputs(0), 8)
    assert bool((grid.scale > 0).all())
    assert int(grid.q.min()) >= -127
    assert (grid.bits, grid.group_size, grid.symmetric) == (8, None, True)
    assert grid.scale.shape == (16, 1)


def test_without_a_bias_the_mean_of_the_outputs_counts_too() -> None:
    X, W = inputs(0), weight()
    with_bias, without = round_on_inputs(W, X, X, 4), round_on_inputs(W, X, X, 4, centred=False)
    means = [float((X @ (grid.dequantize() - W).t()).mean(dim=0).square().mean()) for grid in (with_bias, without)]
    assert means[1] < means[0] / 4
