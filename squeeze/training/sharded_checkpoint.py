"""The state of a training that lies in parts: kept whole, tensor by tensor, for any number of processes to go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from squeeze.store.journal import slots
from squeeze.training.checkpoint import BEST, PIECE, Checkpoint, Position, changed, read_position
from squeeze.training.group import Group
from squeeze.training.sharding import part_of, whole

if TYPE_CHECKING:
    from squeeze.store import Journal


class PartCheckpoint(Checkpoint):
    """One process's parts."""

    def gather(self, name: str) -> None:
        """Give one's parts of a piece that process 0 writes."""
        tensors = self.state() if name == PIECE else self.best
        for slot in slots(tensors):
            whole(tensors[slot.name])

    def part(self, value: Tensor, like: Tensor) -> Tensor:
        return part_of(value, like)


class ShardedCheckpoint(PartCheckpoint):
    """Process 0's: what it does, it orders the others to do with their parts."""

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, journal: Journal | None, group: Group
    ) -> None:
        super().__init__(module, optimizer, journal)
        self.group = group

    def restore(self) -> Position:
        state = self.journal.open(PIECE) if self.journal is not None else None
        position = Position() if state is None else read_position(state)
        best = self.journal.open(BEST) if self.journal is not None and position.best_at >= 0 else None
        self.load(self.group.say_each(changed(state or {})))
        self.load_best(self.group.say_each((best or {}).items()))
        return position

    def keep_best(self) -> None:
        self.group.say({"kind": "keep_best"})
        super().keep_best()

    def take_best(self) -> None:
        self.group.say({"kind": "take_best"})
        super().take_best()

    def put(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        assert self.journal is not None
        self.group.say({"kind": "gather", "piece": name})
        self.journal.put(name, tensors, whole)
