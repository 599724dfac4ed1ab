"""A training's state after its last finished epoch, kept in the pass's journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from squeeze.store import Journal

PIECE = "training"


class Checkpoint:
    """Weights, batch-norm statistics, optimizer state and losses: all that the next epoch depends on."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, journal: Journal | None) -> None:
        self.module, self.optimizer, self.journal = module, optimizer, journal

    def keep(self, losses: list[float]) -> None:
        """Write the state; it replaces that of the epoch before."""
        if self.journal is not None:
            self.journal.put(PIECE, {**self._tensors(), "losses": torch.tensor(losses, dtype=torch.float64)})

    def restore(self) -> list[float]:
        """Put a kept state back and give the losses of the epochs that it has behind it; without one, nothing."""
        kept = self.journal.get(PIECE) if self.journal is not None else None
        if kept is None:
            return []
        with torch.no_grad():
            for name, tensor in self.module.state_dict().items():
                tensor.copy_(kept[f"module.{name}"])
        self.optimizer.load_state_dict(self._optimizer_state(kept))
        return list(kept["losses"].tolist())

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{key}": value for key, value in state.items() if value is not None}
        return tensors

    def _optimizer_state(self, kept: dict[str, Tensor]) -> dict[str, object]:
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in kept.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".", 2)
                state.setdefault(int(number), {})[key] = tensor
        return {**self.optimizer.state_dict(), "state": state}
