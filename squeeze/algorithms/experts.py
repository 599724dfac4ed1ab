"""Mixtures of experts: which expert matters least, and which of those that stay takes its place.

Importance is REAP's (Lasby et al., 2025, https://arxiv.org/abs/2510.13999, equation 9): over the tokens that the
router sends to an expert, the mean of its share times the norm of its answer. Merging follows HC-SMoE (Chen et al.,
2024, https://arxiv.org/abs/2410.08589): an expert that leaves is added to the one whose mean answer is nearest, each
weighted by how many tokens it was sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Answer = Callable[[Tensor, int], Tensor]  # of an expert to ``[tokens, hidden]``, its share not applied


class ExpertScores:
    """What one block's experts did for the tokens of a calibration text.

    Args:
        experts: How many there are.
        sample: Tokens whose answers all experts give, for :meth:`nearest`; 0: none.
    """

    def __init__(self, experts: int, sample: int = 0) -> None:
        self.tokens = torch.zeros(experts, dtype=torch.int64)  # sent to each
        self.weighted = torch.zeros(experts, dtype=torch.float64)  # sums over those of share times norm
        self.answers: Tensor | None = None  # sums over the sample, [experts, hidden]
        self.left = sample

    def add(self, hidden: Tensor, places: Tensor, shares: Tensor, answer: Answer) -> None:
        """Add a chunk: ``[tokens, hidden]``, and which experts got each token with which share, ``[tokens, k]``."""
        for expert in torch.unique(places).tolist():
            rows, column = (places == expert).nonzero(as_tuple=True)
            norms = answer(hidden[rows], expert).double().norm(dim=1)
            self.tokens[expert] += len(rows)
            self.weighted[expert] += (shares[rows, column].double() * norms).sum()
        part = hidden[: self.left]
        if len(part):
            means = torch.stack([answer(part, expert).double().sum(0) for expert in range(len(self.tokens))])
            self.answers = means if self.answers is None else self.answers + means
            self.left -= len(part)

    def importance(self) -> Tensor:
        """``[experts]``; 0 of one that no token was sent to."""
        return self.weighted / self.tokens.clamp_min(1)

    def nearest(self, removed: int, kept: Sequence[int]) -> int:
        """Of those that stay, the one whose mean answer is nearest to that of one that leaves."""
        assert self.answers is not None, "a sample was asked for"
        distances = (self.answers[list(kept)] - self.answers[removed]).norm(dim=1)
        return kept[int(distances.argmin())]


def merged(value: Tensor, kept: Sequence[int], joins: dict[int, int], tokens: Tensor) -> Tensor:
    """The experts that stay, ``[kept, ...]``, each the mean of itself and of those that join it, by their tokens.

    Args:
        value: Of all experts, ``[experts, ...]``.
        joins: By expert that leaves, the one that it joins.
        tokens: Sent to each expert in calibration, ``[experts]``.
    """
    rows = []
    for expert in kept:
        members = [expert, *(one for one, other in joins.items() if other == expert)]
        counts = tokens[members].double()
        weights = counts / counts.sum() if counts.sum() else (torch.arange(len(members)) == 0).double()
        rows.append(torch.einsum("e,e...->...", weights, value[members].double()).to(value.dtype))
    return torch.stack(rows)
