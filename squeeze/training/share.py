"""One process's rows of a batch, and the gradient that they add to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from squeeze.models.base import Batch


@dataclass(frozen=True)
class Share:
    """Rows of a batch.

    Args:
        batch: The rows.
        of: How many rows the whole batch has.
        weight: 1; 0 where they are only computed so that no process stands aside.
    """

    batch: Batch
    of: int
    weight: int = 1

    def add_gradients(self, loss: Callable[[Batch], Tensor], size: int) -> float:
        """Add the gradient of these rows' part in the mean loss of the whole batch; gives that part.

        Args:
            loss: Mean over the predictions of a batch.
            size: Rows that go through the module at once.
        """
        total = 0.0
        for part in parts(self.batch, size):
            with torch.enable_grad():
                value = loss(part) * (self.weight * len(part) / self.of)
                value.backward()  # type: ignore[no-untyped-call]
            total += value.item()
        return total

    def sum_losses(self, loss: Callable[[Batch], Tensor], size: int) -> float:
        """The loss of these rows times their number."""
        return self.weight * sum(loss(part).item() * len(part) for part in parts(self.batch, size))


def parts(batch: Batch, size: int) -> Iterator[Batch]:
    """The examples of a batch, at most ``size`` at a time."""
    if size >= len(batch):
        yield batch
        return
    for start in range(0, len(batch), size):
        part = slice(start, start + size)
        labels = None if batch.labels is None else batch.labels[part]
        yield Batch({name: value[part] for name, value in batch.inputs.items()}, labels)
