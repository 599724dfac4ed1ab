"""A training's state, kept in the pass's journal: after each epoch, and now and then inside one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from squeeze.store import Journal

PIECE, BEST = "training", "best"
COUNTS = ("step", "examples", "tokens", "best_at")
NAMES = (*COUNTS, "epoch_total", "seconds", "kept_at", "losses", "held_out")  # of a position's numbers and lists


@dataclass
class Position:
    """How far a training has come.

    Args:
        step: Steps done, of all epochs.
        examples: Trained on in the epoch that is under way.
        epoch_total: Sum of their losses.
        losses: Mean loss of each finished epoch.
        held_out: Mean loss on held-out examples at each evaluation.
        best_at: The evaluation with the lowest loss so far; -1: none yet.
        tokens: Trained on so far; 0 where the model reads none.
        seconds: On the clock, over all tries.
        kept_at: Those of the last checkpoint.
        random: State of torch's generator and of the augmentation's inside the epoch that is under way.
    """

    step: int = 0
    examples: int = 0
    epoch_total: float = 0.0
    losses: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    best_at: int = -1
    tokens: int = 0
    seconds: float = 0.0
    kept_at: float = 0.0
    random: tuple[Tensor, Tensor] | None = None

    def end_epoch(self) -> None:
        """The next step is the first of another epoch."""
        self.losses.append(self.epoch_total / self.examples)
        self.epoch_total, self.examples = 0.0, 0

    def mean_losses(self) -> list[float]:
        """Of each epoch; of the part that was done, where none was finished."""
        return self.losses or ([self.epoch_total / self.examples] if self.examples else [])

    def sentence(self) -> str:
        held_out = f", {self.held_out[-1]:.4g} on held-out examples" if self.held_out else ""
        return f"{self.mean_losses()[-1]:.4g}{held_out}"

    def put_random_back(self, augmentation: torch.Generator) -> None:
        """Go on drawing where an epoch was left, if one was."""
        if self.random is not None:
            torch.set_rng_state(self.random[0])
            augmentation.set_state(self.random[1])


class Checkpoint:
    """What a training changes (weights, batch-norm statistics, optimizer state), and how far it has come."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, journal: Journal | None) -> None:
        self.module, self.optimizer, self.journal = module, optimizer, journal
        self.best: dict[str, Tensor] = {}

    def keep(self, position: Position) -> None:
        """Write the state; it replaces the one before."""
        position.kept_at = position.seconds
        if self.journal is not None:
            self.put(PIECE, {**self.state(), **_position_tensors(position)})

    def restore(self) -> Position:
        """Put a kept state back and give its position; without one, the beginning."""
        state = self.journal.open(PIECE) if self.journal is not None else None
        if state is None:
            return Position()
        self.load(changed(state))
        position = read_position(state)
        if position.best_at >= 0 and self.journal is not None:
            self.load_best((self.journal.open(BEST) or {}).items())
        return position

    def load(self, state: Iterable[tuple[str, Tensor]]) -> None:
        """Put back what :meth:`state` gave."""
        own, weights = self.changing(), [weight for group in self.optimizer.param_groups for weight in group["params"]]
        states: dict[int, dict[str, Tensor]] = {}
        with torch.no_grad():
            for name, value in state:
                kind, place = name.split(".", 1)
                if kind == "module":
                    own[place].copy_(self.part(value, own[place]))
                else:
                    number, key = place.split(".", 1)
                    states.setdefault(int(number), {})[key] = self.part(value, weights[int(number)])
        if states:
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})

    def load_best(self, best: Iterable[tuple[str, Tensor]]) -> None:
        """Take weights for the best ones so far."""
        own = self.changing()
        self.best = {name: self.part(value, own[name]) for name, value in best}

    def part(self, value: Tensor, like: Tensor) -> Tensor:
        """What of a whole tensor is kept where ``like`` is."""
        return value

    def gather(self, name: str) -> None:
        """Give what process 0 lacks of a piece that it writes: nothing, where it has all."""

    def put(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        assert self.journal is not None
        self.journal.put(name, tensors)

    def keep_best(self) -> None:
        self.best = {name: value.clone() for name, value in self.changing().items()}
        if self.journal is not None:
            self.put(BEST, self.best)

    def take_best(self) -> None:
        with torch.no_grad():
            for name, tensor in self.changing().items():
                tensor.copy_(self.best[name])

    def changing(self) -> dict[str, Tensor]:
        """Stored tensors of the module that a training changes: trained weights and buffers."""
        frozen = {name for name, value in self.module.named_parameters() if not value.requires_grad}
        return {name: value.detach() for name, value in self.module.state_dict().items() if name not in frozen}

    def state(self) -> dict[str, Tensor]:
        """All that a training changes, by name."""
        tensors = {f"module.{name}": tensor for name, tensor in self.changing().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{key}": value for key, value in state.items() if value is not None}
        return tensors


def changed(piece: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """What :meth:`Checkpoint.state` gave of a piece, read one by one."""
    return ((name, piece[name]) for name in piece if name.startswith(("module.", "optimizer.")))


def _position_tensors(position: Position) -> dict[str, Tensor]:
    values = {name: torch.tensor(getattr(position, name), dtype=torch.float64) for name in NAMES}
    return values | {f"random.{number}": state for number, state in enumerate(position.random or ())}


def read_position(tensors: Mapping[str, Tensor]) -> Position:
    """How far a training had come that kept a piece."""
    position = Position(random=(tensors["random.0"], tensors["random.1"]) if "random.0" in tensors else None)
    for name in NAMES:
        setattr(position, name, int(tensors[name]) if name in COUNTS else tensors[name].tolist())
    return position
