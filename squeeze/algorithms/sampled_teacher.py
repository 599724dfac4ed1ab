"""A teacher's predictions as a few tokens of each position: an unbiased target that takes little space.

Random Sampling KD, 2025, https://arxiv.org/abs/2503.16870, learns from tokens drawn at temperature 1 and their counts.
Threshold sampling (Horvitz and Thompson, 1952; Duffield, Lund and Thorup, 2007, https://arxiv.org/abs/cs/0509026) is as
unbiased with less noise: a token of probability ``p >= tau`` is kept as it is, any other is drawn with chance about
``p / tau`` and then has the share ``tau``. Where all positions have one ``tau``, no entry reduces the noise more than
another: flat predictions get many, peaked ones few. The drawn tokens of a position divide exactly what the kept ones
leave, so that its shares add up to 1.

Shapes: ``rows`` positions, ``vocabulary`` tokens, ``entries`` tokens of all positions, one after the other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

UNIT = (1 << 16) - 1  # a kept probability is this many units or fewer, in two bytes
VALUES = 1 << 22  # probabilities in memory at once, in float64: 32 MB; their positions have one threshold
MOST_UNIQUE = 256
SPREAD = 4  # times as many entries as asked for: the most of one position


class Sampled(NamedTuple):
    """Targets of some positions."""

    counts: np.ndarray
    """``[rows, 2]``: how many tokens are kept, and how many drawn."""
    tokens: np.ndarray
    """``[entries]``: of each position the kept ones in ascending order, then the drawn ones so."""
    values: np.ndarray
    """uint16, of all kept tokens: their probabilities in units of 1 / :data:`UNIT`."""


def threshold(probabilities: Tensor, unique: int) -> float:
    """The ``tau`` at which ``unique`` entries a position are expected, or more where one would get too many.

    It depends on the predictions alone and not on what is drawn, so that targets stay unbiased.

    Args:
        probabilities: ``[rows, vocabulary]``.
    """
    least, entries = 1 / (SPREAD * unique), unique * len(probabilities)
    likely = probabilities[probabilities >= least].sort(descending=True).values.double()
    number = torch.arange(len(likely) + 1)
    rest = probabilities.sum(dtype=torch.float64) - torch.cat([torch.zeros(1), likely.cumsum(0)])
    tau = rest / (entries - number).clamp(min=1)  # if so many of the likeliest are kept, and none besides
    next_ones = torch.cat([likely, torch.zeros(1)])
    enough = (next_ones < tau) & (number < entries)
    return max(least, float(tau[enough][0])) if bool(enough.any()) else least


def draw(logits: Tensor, unique: int, generator: torch.Generator) -> Sampled:
    """Draw a target for each position.

    Args:
        logits: ``[rows, vocabulary]``.
        unique: Different tokens a position, about.
    """
    parts = [_draw(some, unique, generator) for some in torch.split(logits, max(1, VALUES // logits.shape[1]))]
    return Sampled(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _draw(logits: Tensor, unique: int, generator: torch.Generator) -> Sampled:
    rows = len(logits)
    probabilities = logits.float().softmax(1)
    tau = threshold(probabilities, unique)
    kept = torch.nonzero(probabilities >= tau)
    row, share = kept[:, 0], probabilities[kept[:, 0], kept[:, 1]].double()
    sums = torch.zeros(rows, dtype=torch.float64).index_add_(0, row, share)
    above = share.cumsum(0) - (sums.cumsum(0) - sums)[row]
    below = probabilities.masked_fill_(probabilities >= tau, 0).cumsum(1, dtype=torch.float64)
    rest = below[:, -1].clone()
    drawn = _systematic(below, torch.where(rest > 0, (rest / tau).long().clamp(min=1), 0), generator)
    values = _units(above / (sums + rest)[row], row, torch.rand(rows, generator=generator, dtype=torch.float64))
    kind = torch.cat([2 * row, 2 * drawn[:, 0] + 1])
    tokens = torch.cat([kept[:, 1], drawn[:, 1]])[kind.argsort(stable=True)]
    counts = torch.bincount(kind, minlength=2 * rows).reshape(rows, 2)
    return Sampled(counts.numpy(), tokens.numpy(), values.numpy().astype(np.uint16))


def _systematic(cumulative: Tensor, numbers: Tensor, generator: torch.Generator) -> Tensor:
    """``[drawn, 2]`` rows and tokens at evenly spaced places of each row, from one random offset on.

    Args:
        cumulative: ``[rows, vocabulary]``, growing; it is overwritten.
        numbers: How many of each row; a row of zeros has none.
    """
    rows, vocabulary = cumulative.shape
    last = cumulative[:, -1:].clone()
    cumulative.div_(torch.where(last > 0, last, 1)).add_(torch.arange(rows)[:, None])  # row r from r to r + 1
    offsets = torch.rand(rows, generator=generator, dtype=torch.float64)
    row = torch.repeat_interleave(torch.arange(rows), numbers)
    number = torch.arange(len(row)) - (numbers.cumsum(0) - numbers)[row]
    places = torch.searchsorted(cumulative.flatten(), row + (number + offsets[row]) / numbers[row], right=True)
    places = torch.minimum(places, (row + 1) * vocabulary - 1)  # where an offset of almost 1 was rounded up
    return torch.stack([row, places % vocabulary], 1)


def _units(cumulative: Tensor, row: Tensor, offsets: Tensor) -> Tensor:
    """Probabilities in whole units, each rounded up or down without bias, so that their sum is rounded, too.

    Args:
        cumulative: ``[kept]``, in each row up to what all its kept tokens are together.
        row: ``[kept]``, ascending.
        offsets: ``[rows]``, random, from 0 to 1.
    """
    ends = (cumulative * UNIT + offsets[row]).long().clamp(max=UNIT)
    before = torch.where(row == row.roll(1), ends.roll(1), 0)
    if len(before):
        before[0] = 0
    return ends - before


def shares(counts: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the entries of each position are, and their shares: bool and float32, ``[rows, most]``.

    Args:
        counts, values: As :class:`Sampled` has them.
    """
    number = np.arange(counts.sum(1).max(initial=1))
    place, kept = number < counts.sum(1)[:, None], number < counts[:, :1]
    result = np.zeros(place.shape)
    result[kept] = values / UNIT
    rest = (1 - result.sum(1)) / np.maximum(counts[:, 1], 1)
    result = np.where(place & ~kept, np.maximum(rest, 0)[:, None], result)
    return place, result.astype(np.float32)


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
