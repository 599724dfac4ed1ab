"""A teacher's likely tokens as they are and the others by chance: an unbiased target with little noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from squeeze.algorithms.gaps import pack_ascending
from squeeze.algorithms.sampled_teacher import MOST_UNIQUE, SPREAD, Sampled, draw, sampled_loss, shares, threshold

DRAWS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24)  # of the scheme before: multiples of the tokens asked for
SURE = torch.tensor([[60.0] + [0.0] * 99])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def like_text(rows: int, vocabulary: int = 4096) -> torch.Tensor:
    """Logits whose probabilities fall as those of words do, some positions sure of a token and some of none."""
    rank = torch.stack([torch.randperm(vocabulary, generator=generator(row)) for row in range(rows)]) + 1.0
    return -torch.linspace(0.7, 2.5, rows)[:, None] * rank.log()


def targets_of(logits: torch.Tensor, sampled: Sampled) -> torch.Tensor:
    """``[rows, vocabulary]`` shares, float64."""
    place, share = shares(sampled.counts, sampled.values)
    result = torch.zeros(logits.shape, dtype=torch.float64)
    rows = torch.from_numpy(np.nonzero(place)[0])
    result.index_put_((rows, torch.from_numpy(sampled.tokens)), torch.from_numpy(share[place]).double(), True)
    return result


def nbytes(sampled: Sampled) -> float:
    """Of one position, as they are stored."""
    packed = pack_ascending(sampled.tokens, sampled.counts.flatten())
    return (len(packed) + 2 * len(sampled.values)) / len(sampled.counts) + 4


def test_the_mean_of_many_targets_is_what_the_teacher_predicts() -> None:
    logits = torch.randn(6, 40, generator=generator()) * torch.tensor([0.1, 1, 2, 3, 5, 9])[:, None]
    targets = torch.stack([targets_of(logits, draw(logits, 12, generator(seed))) for seed in range(600)])
    probabilities = logits.double().softmax(1)
    away = (targets.mean(0) - probabilities).abs()
    assert (away < 5 * (probabilities / 6 / 600).sqrt() + 1e-5).all()  # by chance: a drawn share is 1/6 at most
    assert (targets.std(0) > 0.02).any()  # chance is at work


def test_shares_of_a_position_add_up_to_one() -> None:
    logits = torch.cat([like_text(20, 100), SURE, torch.zeros(1, 100)])
    total = targets_of(logits, draw(logits, 8, generator())).sum(1)
    torch.testing.assert_close(total, torch.ones(22, dtype=torch.float64), rtol=0, atol=1e-6)


def test_a_likely_token_is_kept_as_it_is() -> None:
    logits = like_text(50)
    probabilities = logits.softmax(1)
    sampled = draw(logits, 64, generator())
    tau = threshold(probabilities, 64)
    likely = probabilities >= tau
    target = targets_of(logits, sampled)
    assert (target - probabilities)[likely].abs().max() < 1.01 / 65535  # rounded up or down
    assert sampled.counts[:, 0].tolist() == likely.sum(1).tolist()
    rare = target[~likely & (target > 0)]
    assert rare.min() > 0.99 * tau  # a drawn token has the threshold's share, or more where few are drawn


@pytest.mark.parametrize(("unique", "share"), [(12, 0.8), (64, 0.5), (128, 0.5)])
def test_a_target_has_less_noise_than_counts_have_at_no_more_bytes(unique: int, share: float) -> None:
    logits = like_text(40)
    probabilities = logits.double().softmax(1)
    steps = torch.tensor([int(unique * factor) for factor in DRAWS])
    different = torch.stack([(step * probabilities).clamp(max=1).sum(1) for step in steps])
    draws = steps[(different <= unique).sum(0) - 1][:, None]
    part = (draws * probabilities).frac()
    counts_noise = (part * (1 - part) / draws**2).sum(1).mean()  # of a share of the draws, rounded up or down
    counts_bytes = 1 + 3 * (draws * probabilities).clamp(max=1).sum(1).mean()
    sampled = [draw(logits, unique, generator(seed)) for seed in range(10)]
    noise = torch.stack([(targets_of(logits, each) - probabilities).square().sum(1).mean() for each in sampled]).mean()
    assert np.mean([nbytes(each) for each in sampled]) < counts_bytes
    assert noise < share * counts_noise


@pytest.mark.parametrize("spread", [0.1, 1.0, 2.0, 4.0])
def test_a_position_has_as_many_tokens_in_the_mean_as_are_asked_for(spread: float) -> None:
    sampled = draw(torch.randn(300, 4096, generator=generator()) * spread, 12, generator())
    assert 11 <= sampled.counts.sum(1).mean() <= 12.5


def test_peaked_predictions_leave_their_tokens_to_flat_ones() -> None:
    logits = torch.cat([SURE.expand(30, 100), torch.zeros(10, 100)])
    counts = draw(logits, 6, generator()).counts
    assert counts[:30].sum(1).max() <= 2
    assert counts[30:].sum(1).min() >= 20
    assert counts.sum(1).max() <= SPREAD * 6


def test_a_teacher_that_is_sure_gives_its_token_alone() -> None:
    logits = torch.tensor([[500.0] + [0.0] * 99])  # the others' probabilities are 0 in float32
    sampled = draw(logits, 12, generator())
    assert (sampled.counts.tolist(), sampled.tokens.tolist(), sampled.values.tolist()) == ([[1, 0]], [0], [65535])


def test_a_teacher_that_knows_nothing_gives_tokens_of_equal_share() -> None:
    target = targets_of(torch.zeros(1, 4096), draw(torch.zeros(1, 4096), 12, generator()))
    assert target[target > 0].tolist() == pytest.approx([1 / 12] * 12)


def test_tokens_of_a_large_vocabulary_are_drawn_and_kept() -> None:
    logits = like_text(3, 262_144)
    sampled = draw(logits, MOST_UNIQUE, generator())
    target, probabilities = targets_of(logits, sampled), logits.double().softmax(1)
    assert sampled.tokens.max() > 1 << 16
    assert abs(sampled.counts.sum(1).mean() - MOST_UNIQUE) < 3
    assert torch.equal(target.argmax(1), probabilities.argmax(1))


def test_the_most_tokens_that_may_be_asked_for_are_counted_in_two_bytes() -> None:
    assert SPREAD * MOST_UNIQUE < 1 << 16


def test_a_loss_from_all_tokens_is_the_kl_divergence() -> None:
    student, teacher = torch.randn(2, 5, 30, generator=generator())
    every = torch.arange(30).expand(5, 30)
    expected = functional.kl_div(student.log_softmax(1), teacher.log_softmax(1), log_target=True, reduction="batchmean")
    torch.testing.assert_close(sampled_loss(student, every, teacher.softmax(1)), expected)
