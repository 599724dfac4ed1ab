"""Examples that a training does not learn from: they say when it is best, and when it gets no better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from squeeze.data.base import Dataset
from squeeze.errors import DataError
from squeeze.models.base import Batch
from squeeze.training.checkpoint import Position
from squeeze.training.options import TrainingOptions
from squeeze.training.share import Share

if TYPE_CHECKING:
    from squeeze.training.peers import Leader


@dataclass(frozen=True)
class HeldOut:
    """Held-out examples of a training's data.

    Args:
        examples: Their numbers; none: the training ends after its last step and keeps the last weights.
        peers: Those who compute a part of the loss; None: nobody else does.
    """

    data: Dataset
    examples: np.ndarray
    options: TrainingOptions
    micro_batch: Callable[[Batch], int]
    peers: Leader | None = None

    def is_due(self, at: Position, ended: bool) -> bool:
        """Whether it is time for an evaluation; ``ended``: an epoch has, or the training."""
        every = self.options.evaluate_every
        return len(self.examples) > 0 and (ended or (every is not None and at.step % every == 0))

    def evaluate(self, module: nn.Module, loss: Callable[[Batch], Tensor], at: Position) -> bool:
        """Note the mean loss; gives whether it is the lowest so far."""
        module.eval()
        total = 0.0
        with torch.no_grad():
            for batch in self.data.batches(self.options.batch_size, self.examples):
                share = self._share(batch)
                total += share.sum_losses(loss, self.micro_batch(share.batch))
        module.train()
        if self.peers is not None:
            total = self.peers.sum_losses(total)
        value = total / len(self.examples)
        at.held_out.append(value)
        if not np.isfinite(value) or (at.best_at >= 0 and value >= at.held_out[at.best_at]):
            return False
        at.best_at = len(at.held_out) - 1
        return True

    def _share(self, batch: Batch) -> Share:
        if self.peers is None:
            return Share(batch, len(batch))
        return self.peers.hand_out("evaluate", batch, self.micro_batch)

    def is_stale(self, at: Position) -> bool:
        """Whether as many evaluations as the options have patience for were no better than the best."""
        return at.best_at >= 0 and len(at.held_out) - 1 - at.best_at >= self.options.patience


def split(examples: int, share: float, seed: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the examples that are learnt from, and of those held out.

    Raises:
        DataError: a share that holds out none, or all.
    """
    count = round(share * examples)
    if share and not 0 < count < examples:
        raise DataError(f"{name}: held_out: {share:g} of {examples} examples leaves {examples - count} to learn from")
    if not count:
        return np.arange(examples), np.arange(0)
    order = np.random.default_rng(seed).permutation(examples)
    return np.sort(order[count:]), np.sort(order[:count])
