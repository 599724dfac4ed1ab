"""A teacher's predictions as a few tokens drawn from them, with counts: an unbiased target that takes little space.

Random Sampling KD, 2025, https://arxiv.org/abs/2503.16870: at each position N tokens are drawn at temperature 1, and
``counts / N`` is the target. Drawn systematically (Carpenter, Clifford and Fearnhead, 1999, "Improved particle filter
for nonlinear problems"), at N evenly spaced places of the cumulative distribution with one random offset, a count is
``N p`` rounded up or down: as unbiased as independent draws, with a small part of their noise. N is the largest of a
few that are expected to give at most so many different tokens: it depends on the predictions alone and not on what is
drawn, so that the target stays unbiased.

Shapes: ``rows`` positions, ``vocabulary`` tokens, ``entries`` different tokens of all positions, one after the other.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ENTRY_BYTES = 3  # bytes of one stored token and its count
ENTRY_VALUES = 1 << 8 * ENTRY_BYTES
DRAWS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24)  # draws tried, as multiples of the distinct tokens asked for
VALUES = 1 << 22  # probabilities in memory at once, in float64: 32 MB
MOST_UNIQUE = 128  # entries of a position are counted in one byte, and large counts take several entries


def number_of_draws(probabilities: Tensor, unique: int) -> Tensor:
    """``[rows]``: the most draws of :data:`DRAWS` that give ``unique`` different tokens or fewer, as expected.

    Args:
        probabilities: ``[rows, vocabulary]``.
    """
    steps = torch.tensor([int(unique * factor) for factor in DRAWS])
    low, high = torch.zeros(len(probabilities), dtype=torch.int64), torch.full((len(probabilities),), len(DRAWS))
    while bool((high - low > 1).any()):
        middle = (low + high) // 2
        different = (steps[middle, None] * probabilities).clamp_(max=1).sum(1)  # the chance that each is drawn
        low, high = torch.where(different <= unique, middle, low), torch.where(different <= unique, high, middle)
    return steps[low]


def draw(logits: Tensor, unique: int, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a target for each position.

    Args:
        logits: ``[rows, vocabulary]``.
        unique: Different tokens a position, about.

    Returns:
        ``[rows]`` how many entries each position has, ``[entries]`` tokens and ``[entries]`` counts.
    """
    parts = [_draw(some, unique, generator) for some in torch.split(logits, max(1, VALUES // logits.shape[1]))]
    lengths, tokens, counts = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return lengths, tokens, counts


def _draw(logits: Tensor, unique: int, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a few rows: all their distributions lie one behind the other, row ``r`` from ``r`` to ``r + 1``."""
    rows, vocabulary = logits.shape
    probabilities = logits.float().softmax(1)
    draws = number_of_draws(probabilities, unique)
    cumulative = probabilities.cumsum(1).double()
    cumulative.div_(cumulative[:, -1:].clone()).add_(torch.arange(rows)[:, None])
    offsets = torch.rand(rows, generator=generator, dtype=torch.float64)
    row = torch.repeat_interleave(torch.arange(rows), draws)
    number = torch.arange(len(row)) - (draws.cumsum(0) - draws)[row]
    places = torch.searchsorted(cumulative.flatten(), row + (number + offsets[row]) / draws[row], right=True)
    places = torch.minimum(places, (row + 1) * vocabulary - 1)  # where an offset of almost 1 was rounded up
    drawn, counts = torch.unique_consecutive(places, return_counts=True)
    lengths = torch.bincount(drawn // vocabulary, minlength=rows)
    return lengths.numpy(), (drawn % vocabulary).numpy(), counts.numpy()


def pack(lengths: np.ndarray, tokens: np.ndarray, counts: np.ndarray, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """``[rows]`` lengths and ``[entries, 3]``, both uint8; a count too large for three bytes takes several entries."""
    most = ENTRY_VALUES // vocabulary - 1
    parts = -(-counts // most)
    rows = np.repeat(np.repeat(np.arange(len(lengths)), lengths), parts)
    last = np.cumsum(parts) - 1
    split = np.full(len(rows), most)
    split[last] = counts - most * (parts - 1)
    values = np.repeat(tokens, parts) * (most + 1) + split
    entries = np.bincount(rows, minlength=len(lengths))
    assert entries.max(initial=0) < 256, "the number of a position's entries is kept in one byte"
    packed = values.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :ENTRY_BYTES]
    return entries.astype(np.uint8), np.ascontiguousarray(packed)


def unpack(packed: np.ndarray, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and counts of ``[..., 3]`` entries; a count of 0 is no entry."""
    values = packed.astype(np.int64) @ (1 << 8 * np.arange(ENTRY_BYTES))
    size = ENTRY_VALUES // vocabulary
    return values // size, values % size


def sampled_loss(student: Tensor, tokens: Tensor, shares: Tensor) -> Tensor:
    """KL divergence of a student from sampled predictions, mean over positions.

    Args:
        student: Logits ``[rows, vocabulary]``.
        tokens: int64 ``[rows, most]``.
        shares: ``[rows, most]``; they add up to 1, those of no entry are 0.
    """
    log_p = student.float().log_softmax(1).gather(1, tokens)
    loss: Tensor = (torch.special.xlogy(shares, shares) - shares * log_p).sum(1).mean()
    return loss
