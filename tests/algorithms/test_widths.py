"""Widths: arithmetic on sizes, scores and costs."""

import pytest
import torch

from squeeze.algorithms.widths import Greedy, LayerSize, allowed, nearest


@pytest.mark.parametrize(
    ("channels", "ratio", "align", "width"),
    [(64, 0.5, 8, 32), (16, 0.2, 8, 16), (16, 0.6, 8, 8), (20, 0.5, 8, 8), (6, 0.9, 8, 6), (10, 0.3, 1, 7)],
    ids=["half", "rounds to no channel", "one block stays", "uneven", "narrower than align", "any width"],
)
def test_the_nearest_aligned_width_is_chosen(channels, ratio, align, width):
    assert nearest(channels, ratio, align) == width


def test_allowed_widths_are_aligned_or_whole():
    assert allowed(20, 8) == [8, 16, 20]
    assert allowed(8, 8) == [8]


def test_a_layer_shrinks_with_what_it_writes_and_what_it_reads():
    full, widths = (16, 32), (8, 16)
    conv = LayerSize("conv", 16, 32, writes=1, reads=((0, 1),), work=9 * 64)
    linear = LayerSize("linear", 32 * 4, 10, writes=None, reads=((1, 4),), work=1)
    depthwise = LayerSize("depthwise", 32, 32, writes=1, reads=(), work=9 * 64, depthwise=True)
    assert conv.shape(full, widths) == (8, 16)
    assert conv.macs(full, widths) == 9 * 64 * 8 * 16
    assert linear.shape(full, widths) == (64, 10)
    assert depthwise.macs(full, widths) == 9 * 64 * 16


def greedy(scores, options, branches=(), cost=sum):
    return Greedy([torch.tensor(score) for score in scores], options, branches, cost)


def test_greedy_cuts_where_the_least_importance_is_lost():
    widths = greedy([[1.0, 1.0], [5.0, 5.0]], [[1, 2], [1, 2]]).choose((2, 2), lambda w: sum(w) <= 3)
    assert widths == (1, 2)


def test_greedy_looks_at_what_a_cut_saves_and_not_at_importance_alone():
    """The second group's channel is worth twice as much and saves ten times as much."""
    widths = greedy([[1.0, 1.0], [2.0, 2.0]], [[1, 2], [1, 2]], cost=lambda w: w[0] + 10 * w[1]).choose(
        (2, 2), lambda w: sum(w) <= 3
    )
    assert widths == (2, 1)


def test_a_step_that_saves_nothing_is_jumped_over():
    """Measured latency has steps: 8 channels cost as much as 16, so 8 is worth taking only on the way to less."""
    steps = {0: 0, 8: 10, 16: 10, 32: 30}
    choose = greedy([[1.0] * 32], [[8, 16, 32]], cost=lambda w: steps[w[0]]).choose
    assert choose((32,), lambda w: w[0] <= 24) == (16,)
    assert choose((16,), lambda w: w[0] <= 8) == (16,)  # nothing saves: the caller says that it does not fit


def test_a_branch_goes_as_a_whole():
    widths = greedy([[0.1] * 4, [0.1] * 4, [9.0] * 4], [[2, 4]] * 3, branches=[(0, 1)]).choose(
        (4, 4, 4), lambda w: sum(w) <= 5
    )
    assert widths == (0, 0, 4)


def test_what_the_last_cut_took_too_much_is_given_back():
    """A branch of 8 goes to reach the goal; the group cut before it can then be whole again."""
    cost = lambda w: w[0] + 3 * w[1]  # noqa: E731
    scores = [[0.1] * 4, [0.4] * 8]
    widths = greedy(scores, [[2, 4], [8]], branches=[(1,)], cost=cost).choose((4, 8), lambda w: sum(w) <= 5)
    assert widths == (4, 0)


def test_a_branch_that_went_needlessly_comes_back_narrow():
    """Dropping 8 channels reaches the goal by far; 2 of them fit beside the rest."""
    widths = greedy([[9.0] * 4, [0.1] * 8], [[4], [2, 4, 8]], branches=[(1,)], cost=lambda w: 10 * (w[1] > 0))
    assert widths.choose((4, 8), lambda w: sum(w) <= 7) == (4, 2)
