"""Importance ranks channels by what their loss would cost."""

import torch

from squeeze.algorithms.importance import bn_scale, l1, l2, least_important, normalized, random, taylor


def test_a_channel_of_zeros_is_the_least_important_by_every_weight_score():
    weight = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    weight[4] = 0
    for score in (l1, l2):
        assert score([weight]).argmin() == 4
        assert score([weight])[4] == 0
    assert bn_scale([weight[:, 0], weight[:, 1]]).argmin() == 4


def test_l2_of_coupled_slices_is_the_norm_of_all_that_leaves_together():
    rows, columns = torch.tensor([[3.0, 0.0], [1.0, 0.0]]), torch.tensor([[4.0], [0.0]])
    assert torch.equal(l2([rows, columns]), torch.tensor([5.0, 1.0]))
    assert torch.equal(l1([rows, columns]), torch.tensor([7.0, 1.0]))


def test_taylor_estimates_the_loss_change_of_taking_a_channel_out():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 4, generator=generator, dtype=torch.float64) * 1e-3  # small: first order is what it is
    target, inputs = torch.randn(5, dtype=torch.float64, generator=generator), torch.ones(4, dtype=torch.float64)

    def loss(w: torch.Tensor) -> torch.Tensor:
        return (w @ inputs - target).square().sum()

    leaf = weight.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    without = [weight * (torch.arange(5) != channel)[:, None] for channel in range(5)]
    true = torch.stack([(loss(w) - loss(weight)).square() for w in without])
    assert torch.allclose(taylor([weight], [gradient]), true, rtol=2e-2)


def test_normalized_scores_do_not_favour_a_layer_for_its_large_weights():
    scores = torch.tensor([1.0, 2.0, 3.0])
    assert torch.allclose(normalized(scores), normalized(100 * scores))
    assert torch.equal(normalized(torch.zeros(3)), torch.ones(3))


def test_random_scores_follow_the_seed():
    def draw(seed: int) -> torch.Tensor:
        return random(8, torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_of_equally_important_channels_the_later_ones_go():
    assert least_important(torch.ones(6), 2) == [4, 5]
    assert least_important(torch.tensor([3.0, 1.0, 2.0, 1.0]), 1) == [3]
