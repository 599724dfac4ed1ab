"""The training loop, for any model that can be resident: seeded, resumable at every step, same bytes each time.

What is learnt from a batch is the caller's business: a loss, given as a function.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from squeeze.algorithms import augment, schedules
from squeeze.data.base import Dataset
from squeeze.errors import SqueezeError
from squeeze.models.base import Batch
from squeeze.progress import Progress
from squeeze.store import Journal
from squeeze.training.checkpoint import Checkpoint, Position
from squeeze.training.held_out import HeldOut, split
from squeeze.training.options import TrainingOptions
from squeeze.training.share import Share

if TYPE_CHECKING:
    from squeeze.training.peers import Leader

Loss = Callable[[Batch], Tensor]  # mean over the predictions of a batch
CHECKPOINT_SECONDS = 60.0  # seconds between two checkpoints inside an epoch


class NotFiniteError(SqueezeError):
    """A loss that is no number: the training cannot go on from here."""


@dataclass
class Training:
    """One training of one module.

    Args:
        name: Of the pass, for messages and progress.
        options: Length, step size, optimizer.
        data: Examples to learn from.
        seed: Decides order, augmentation, dropout and which examples are held out.
        journal: Where checkpoints are kept; None: nowhere.
        micro_batch: Examples of a batch that go through the module at once.
        peers: Other processes that compute a part of each batch; None: there are none.
        stopped: Why the training ended before its last step; empty: it did not.
    """

    name: str
    options: TrainingOptions
    data: Dataset
    seed: int
    progress: Progress
    journal: Journal | None = None
    micro_batch: Callable[[Batch], int] = len
    peers: Leader | None = None
    position: Position = field(default_factory=Position)
    stopped: str = ""

    def __post_init__(self) -> None:
        self.learnt, numbers = split(len(self.data), self.options.held_out, self.seed, self.name)
        self.held_out = HeldOut(self.data, numbers, self.options, self.micro_batch, self.peers)
        self.epoch_steps = -(-len(self.learnt) // self.options.batch_size)
        self.steps = self.options.steps or self.options.epochs * self.epoch_steps

    def run(self, module: nn.Module, loss: Loss) -> list[float]:
        """Train ``module`` in place for all steps that are not in the journal yet.

        Returns:
            The mean loss of each epoch, in the loss's own unit; of a part of one, where no epoch was finished.

        Raises:
            SqueezeError: the loss is not finite, and no evaluation has kept better weights.
        """
        checkpoint = self._checkpoint(module)
        self.position = at = checkpoint.restore()
        if self.peers is not None:
            self.peers.begin(checkpoint)
        while at.step < self.steps and not self.held_out.is_stale(at):
            try:
                self._epoch(module, checkpoint, loss)
            except NotFiniteError as error:
                if not checkpoint.best:
                    raise
                self.stopped = f"{error}; the best weights before that are kept"
                break
        if self.held_out.is_stale(at):
            self.stopped = f"no better on held-out examples in {self.options.patience} evaluations"
        if checkpoint.best:
            checkpoint.take_best()
        module.zero_grad()
        module.eval()
        return [round(value, 6) for value in at.mean_losses()]

    def _checkpoint(self, module: nn.Module) -> Checkpoint:
        state = module, self.options.new_optimizer(module), self.journal
        return Checkpoint(*state) if self.peers is None else self.peers.checkpoint(*state)

    def facts(self) -> dict[str, Any]:
        """What the report says of the training beside its losses."""
        at = self.position
        held_out = {"held_out_losses": [round(value, 6) for value in at.held_out]} if at.held_out else {}
        tokens = {"tokens": at.tokens} if at.tokens else {}
        return {"steps": at.step} | tokens | held_out | ({"stopped": self.stopped} if self.stopped else {})

    def _epoch(self, module: nn.Module, checkpoint: Checkpoint, loss: Loss) -> None:
        """All steps that are left of the epoch that is under way."""
        at, began = self.position, time.monotonic() - self.position.seconds
        epoch, first = divmod(at.step, self.epoch_steps)
        steps = min(self.epoch_steps, self.steps - epoch * self.epoch_steps)
        seed = int(np.random.SeedSequence((self.seed, epoch)).generate_state(1)[0])
        generator, module = torch.Generator().manual_seed(seed), module.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # random state of dropout and the like
            at.put_random_back(generator)
            batches = islice(self._batches(seed, first), steps - first)
            for step, batch in enumerate(self.progress.track(batches, self._label(epoch), steps - first), first):
                self._one(checkpoint.optimizer, loss, self._augmented(batch, generator), (epoch, step))
                if step + 1 == self.epoch_steps:
                    at.end_epoch()
                at.random = None if step + 1 == self.epoch_steps else (torch.get_rng_state(), generator.get_state())
                evaluated = self.held_out.is_due(at, step + 1 == steps)
                if evaluated and self.held_out.evaluate(module, loss, at):
                    checkpoint.keep_best()
                at.seconds = time.monotonic() - began
                if evaluated or step + 1 == steps or at.seconds - at.kept_at > CHECKPOINT_SECONDS:
                    self._keep(checkpoint)
                if self.held_out.is_stale(at):
                    break
        self.progress.say(f"{self._label(epoch)}, loss {at.sentence()}")

    def _batches(self, seed: int, first: int) -> Iterator[Batch]:
        """Batches of an epoch from number ``first`` on, in the order that the seed decides."""
        order = self.learnt[np.random.default_rng(seed).permutation(len(self.learnt))]
        return self.data.batches(self.options.batch_size, order[first * self.options.batch_size :])

    def _one(self, optimizer: torch.optim.Optimizer, loss: Loss, batch: Batch, where: tuple[int, int]) -> None:
        """One step, and what it adds to the position."""
        at = self.position
        self._set_rate(optimizer, where)
        value = self._step(optimizer, loss, batch)
        if not np.isfinite(value):
            what = f"the loss is not finite in epoch {where[0] + 1}, batch {where[1] + 1}"
            cure = f"a learning_rate below {self.options.learning_rate} would do"
            raise NotFiniteError(f"{self.name}: {what}; {cure}")
        at.step += 1
        at.epoch_total += value * len(batch)
        at.examples += len(batch)
        at.tokens += batch.inputs["input_ids"].numel() if "input_ids" in batch.inputs else 0

    def _step(self, optimizer: torch.optim.Optimizer, loss: Loss, batch: Batch) -> float:
        """One step down the gradient of the batch's mean loss; gradients of its parts are added."""
        optimizer.zero_grad()
        share = self._share(batch, optimizer)
        total = share.add_gradients(loss, self.micro_batch(share.batch))
        if self.peers is not None:
            total = self.peers.sum_gradients(optimizer, total)
        if np.isfinite(total):  # otherwise weights stay at the last good step
            optimizer.step()
        return total

    def _share(self, batch: Batch, optimizer: torch.optim.Optimizer) -> Share:
        """The rows of a batch that this process computes: all, or its own, with the others' handed out."""
        if self.peers is None:
            return Share(batch, len(batch))
        order = {"step": self.position.step, "rate": optimizer.param_groups[0]["lr"]}
        return self.peers.hand_out("step", batch, self.micro_batch, **order)

    def _keep(self, checkpoint: Checkpoint) -> None:
        if self.peers is not None:
            self.peers.require_same(checkpoint.changing())
        checkpoint.keep(self.position)

    def _set_rate(self, optimizer: torch.optim.Optimizer, where: tuple[int, int]) -> None:
        progress = (where[0] + where[1] / self.epoch_steps) / (self.steps / self.epoch_steps)
        factor = getattr(schedules, self.options.schedule)(progress, self.options.warm_up)
        for group in optimizer.param_groups:
            group["lr"] = self.options.learning_rate * factor

    def _augmented(self, batch: Batch, generator: torch.Generator) -> Batch:
        if not self.options.augment:
            return batch
        image = batch.image
        for name in self.options.augment:
            image = getattr(augment, name)(image, generator)
        return Batch({**batch.inputs, "image": image}, batch.labels)

    def _label(self, epoch: int) -> str:
        return f"{self.name}: epoch {epoch + 1} of {-(-self.steps // self.epoch_steps)}"
