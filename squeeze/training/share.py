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
        passes: Parts that go through the module at least, empty ones by a row of weight 0: where weights lie in
            parts, all processes compute together.
    """

    batch: Batch
    of: int
    weight: int = 1
    passes: int = 0

    def add_gradients(self, loss: Callable[[Batch], Tensor], size: int) -> float:
        """Add the gradient of these rows' part in the mean loss of the whole batch; gives that part.

        Args:
            loss: Mean over the predictions of a batch.
            size: Rows that go through the module at once.
        """
        total = 0.0
        for part, rows in self._parts(size):
            with torch.enable_grad():
                value = loss(part) * (rows / self.of)
                value.backward()  # type: ignore[no-untyped-call]
            total += value.item()
        return total

    def sum_losses(self, loss: Callable[[Batch], Tensor], size: int) -> float:
        """The loss of these rows times their number."""
        return sum(loss(part).item() * rows for part, rows in self._parts(size))

    def _parts(self, size: int) -> Iterator[tuple[Batch, int]]:
        """What goes through the module at once, and as how many rows it counts."""
        yield from ((part, self.weight * len(part)) for part in parts(self.batch, size))
        for _ in range(-(-len(self.batch) // size), self.passes):
            yield next(parts(self.batch, 1)), 0


def parts(batch: Batch, size: int) -> Iterator[Batch]:
    """The examples of a batch, at most ``size`` at a time."""
    if size >= len(batch):
        yield batch
        return
    for start in range(0, len(batch), size):
        yield batch.part(slice(start, start + size))
