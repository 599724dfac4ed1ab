"""SmoothQuant: the product stays, the outliers move."""

import torch

from squeeze.algorithms.smooth import scale_columns, scale_rows, smooth_scale


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_product_of_smoothed_inputs_and_weights_is_what_it_was():
    norm, W, x = normal(16).abs() + 1, normal(8, 16, seed=1), normal(5, 16, seed=2)
    scale = smooth_scale((x * norm).abs().amax(dim=0), [W])
    torch.testing.assert_close((x * scale_rows(norm, scale)) @ scale_columns(W, scale).T, (x * norm) @ W.T)
    torch.testing.assert_close(scale_rows(W, torch.full((8,), 2.0)), W / 2)


def test_alpha_one_evens_out_the_inputs_and_alpha_zero_the_weights():
    x, W = normal(100, 16) * torch.logspace(-1, 2, 16), normal(8, 16, seed=1)
    largest = x.abs().amax(dim=0)
    torch.testing.assert_close(largest / smooth_scale(largest, [W], alpha=1.0), torch.ones(16))
    torch.testing.assert_close((W * smooth_scale(largest, [W], alpha=0.0)).abs().amax(dim=0), torch.ones(16))


def test_all_linears_that_read_the_input_count():
    W = normal(8, 16)
    assert torch.equal(smooth_scale(torch.ones(16), [W, 3 * W]), smooth_scale(torch.ones(16), [3 * W]))


def test_a_channel_that_is_dead_on_either_side_is_left_alone():
    W, largest = normal(8, 16), torch.ones(16)
    W[:, 2], largest[3] = 0, 0
    assert smooth_scale(largest, [W])[[2, 3]].tolist() == [1, 1]
