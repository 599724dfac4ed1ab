"""Tokens drawn from a teacher: an unbiased target in three bytes an entry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from squeeze.algorithms.sampled_teacher import MOST_UNIQUE, draw, number_of_draws, pack, sampled_loss, unpack


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shares_of(logits: torch.Tensor, unique: int, seed: int) -> torch.Tensor:
    """``[rows, vocabulary]`` counts / N."""
    lengths, tokens, counts = draw(logits, unique, generator(seed))
    shares = torch.zeros(logits.shape)
    shares[np.repeat(np.arange(len(lengths)), lengths), tokens] = torch.from_numpy(counts).float()
    return shares / shares.sum(1, keepdim=True)


def test_the_mean_of_many_targets_is_what_the_teacher_predicts() -> None:
    logits = torch.randn(6, 40, generator=generator()) * torch.tensor([0.1, 1, 2, 3, 5, 9])[:, None]
    mean = torch.stack([shares_of(logits, 12, seed) for seed in range(400)]).mean(0)
    torch.testing.assert_close(mean, logits.softmax(1), rtol=0, atol=0.02)


def test_a_count_is_its_share_of_the_draws_rounded_up_or_down() -> None:
    logits = torch.randn(50, 4096, generator=generator()) * 3
    probabilities = logits.double().softmax(1)
    exact = number_of_draws(probabilities, 12)[:, None] * probabilities
    lengths, tokens, counts = draw(logits, 12, generator())
    rows = np.repeat(np.arange(len(lengths)), lengths)
    away = torch.from_numpy(counts) - exact[rows, tokens]
    assert away.abs().max() < 1  # independent draws of a token of 1/2 miss by 6 of 144
    drawn = torch.zeros_like(exact, dtype=torch.bool)
    drawn[rows, tokens] = True
    assert exact[~drawn].max() < 1  # nothing likely is missed


@pytest.mark.parametrize("spread", [0.1, 1.0, 2.0, 4.0])
def test_a_position_has_about_as_many_different_tokens_as_are_wanted(spread: float) -> None:
    logits = torch.randn(300, 4096, generator=generator()) * spread
    lengths, _, counts = draw(logits, 12, generator())
    assert 7 <= lengths.mean() <= 12.5
    assert counts.sum() >= 12 * len(lengths)
    draws = number_of_draws(logits.softmax(1), 12)
    assert torch.equal(draws, torch.from_numpy(np.add.reduceat(counts, np.cumsum(lengths) - lengths)))


def test_a_sure_teacher_is_drawn_most_often() -> None:
    sure = torch.tensor([[50.0] + [0.0] * 99])
    lengths, tokens, counts = draw(sure, 12, generator())
    assert (lengths.tolist(), tokens.tolist(), counts.tolist()) == ([1], [0], [288])


@given(st.integers(2, 300_000), st.lists(st.integers(1, 500), min_size=1, max_size=20))
def test_what_is_packed_is_unpacked(vocabulary: int, counts: list[int]) -> None:
    tokens = np.random.default_rng(len(counts)).integers(0, vocabulary, len(counts))
    lengths, packed = pack(np.array([len(counts)]), tokens, np.array(counts), vocabulary)
    assert packed.dtype == np.uint8
    result, counts_read = unpack(packed, vocabulary)
    assert lengths.tolist() == [len(result)]
    total = {int(token): 0 for token in tokens}
    for token, count in zip(result.tolist(), counts_read.tolist(), strict=True):
        assert count > 0
        total[token] += count
    expected = {token: int(np.array(counts)[tokens == token].sum()) for token in total}
    assert total == expected


def test_the_most_tokens_that_may_be_asked_for_fit_the_byte_that_counts_them() -> None:
    spread = torch.zeros(2, 4096)
    lengths, tokens, counts = draw(spread, MOST_UNIQUE, generator())
    packed_lengths, packed = pack(lengths, tokens, counts, 300_000)
    assert packed_lengths.astype(int).sum() == len(packed)
    with pytest.raises(AssertionError, match="one byte"):
        pack(np.array([300]), np.arange(300), np.ones(300, dtype=int), 4096)


def test_a_loss_from_all_tokens_is_the_kl_divergence() -> None:
    student, teacher = torch.randn(2, 5, 30, generator=generator())
    every = torch.arange(30).expand(5, 30)
    expected = functional.kl_div(student.log_softmax(1), teacher.log_softmax(1), log_target=True, reduction="batchmean")
    torch.testing.assert_close(sampled_loss(student, every, teacher.softmax(1)), expected)
